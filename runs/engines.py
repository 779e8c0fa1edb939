"""Which engine computes, on which devices, and in how many processes."""
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from common.arguments import replaced
from common.errors import UserError
from common.threads import own_environment, set_threads
from engines.devices import count_mxnet_gpus, select_devices
from engines.torch_cpu import leave_cpu_to_pytorch
from machines import torchrun
from machines.client import join

from .config import agreed_options, recorded_threads, resolve_options

__all__ = ["TITLES", "check_precision", "choose_devices", "choose_engine", "settle_engine",
           "start"]

_ROOT = Path(__file__).resolve().parents[1]

TITLES = {"mxnet": "MXNet", "pytorch": "PyTorch"}
_NVIDIA = Path("/proc/driver/nvidia")
_NEWEST_OF_MXNET = (8, 9)    # compute capability of the last GPU that MXNet's wheels have code for


def start(make_parser, train, argv=None):
    """Train as a command line says; or start a process for each GPU, where one has one device.

    A wrong option and ``--help`` are answered at once, before MXNet is imported.

    Parameters
    ----------
    make_parser : callable
        Returns a parser of the script's, whose name is its file's.
    train : callable
        ``train(options, script)`` -> exit code; imports MXNet.
    argv : sequence of str, optional
        Of this process if not given.

    Returns
    -------
    int
        Exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    options = parser.parse_args(argv)
    # Of several processes only worker 0 may have the files of the run that is resumed.
    if not (torchrun.is_started() or os.environ.get("DMLC_ROLE")):
        options = resolve_options(parser, argv)
    set_threads(takes_part=True, recorded=lambda: recorded_threads(options))
    engine = choose_engine(options)
    if engine == "mxnet":
        join(options.join_timeout)
    elif torchrun.is_started():
        torchrun.join(options.join_timeout)
    else:
        count = len(_pytorch_devices(options))
        if count > 1:
            _check_norm(options)
            if recorded_threads(options) is None:    # each process's own, if it is known
                _share_threads(count)
            return torchrun.launch(_ROOT / parser.prog, argv, count)
    return train(replaced(agreed_options(options, parser, argv), engine=engine), parser.prog)


def _share_threads(count):
    """Give each of so many processes its part of the cores, unless the user has said how many."""
    if "OMP_NUM_THREADS" not in own_environment():
        os.environ["OMP_NUM_THREADS"] = str(max(int(os.environ["OMP_NUM_THREADS"]) // count, 1))


def settle_engine(options):
    """Choose engine and devices, and prepare this process for them.

    Returns
    -------
    options : argparse.Namespace
        Its ``engine`` is the one that computes.
    devices : tuple of str

    Raises
    ------
    UserError
        As from `choose_engine`, `choose_devices` and `check_precision`.
    """
    options = replaced(options, engine=choose_engine(options))
    devices = choose_devices(options)
    check_precision(options, devices)
    if options.engine == "pytorch":
        leave_cpu_to_pytorch()
    return options, devices


def choose_engine(options):
    """The engine that --engine names, or that the precision and the machine ask for.

    If the machine asks for PyTorch, standard error says so.

    Returns
    -------
    {'mxnet', 'pytorch'}

    Raises
    ------
    UserError
        If it is not there, or cannot do what is asked.
    """
    if options.engine != "auto":
        engine = options.engine
    elif options.dtype == "bfloat16" or torchrun.is_started():
        engine = "pytorch"
    else:
        engine = "pytorch" if _needs_pytorch(options) else "mxnet"
    if engine == "mxnet" and options.dtype == "bfloat16":
        raise UserError("--dtype bfloat16: MXNet computes a few CPU operators in it and updates "
                        "no weights in it; PyTorch trains in it: drop --engine mxnet")
    if engine == "mxnet" and torchrun.is_started():
        raise UserError("torchrun starts processes of PyTorch: drop --engine mxnet, or start "
                        "MXNet's with python -m machines.launch")
    if engine == "pytorch":
        _check_pytorch(options)
    return engine


def _check_pytorch(options):
    if find_spec("torch") is None:
        asks = "--engine pytorch" if options.engine == "pytorch" else "--dtype bfloat16"
        raise UserError(f"{asks} needs PyTorch, which is not installed: make env EXTRAS=pytorch")
    if os.environ.get("DMLC_ROLE") or getattr(options, "kv_store", "device") != "device":
        raise UserError("--kv-store and machines.launch are MXNet's: with PyTorch --num-gpus "
                        "starts a process for each GPU, and torchrun those of several machines")
    if torchrun.is_started():
        _check_norm(options)


def _check_norm(options):
    """Raise UserError if several processes of PyTorch are to normalise as one."""
    if str(getattr(options, "norm_layer", None)).lower() == "syncbatchnorm":
        raise UserError("--norm-layer SyncBatchNorm: with PyTorch each GPU normalises by its own "
                        "images, and files get the mean of the statistics; use BatchNorm")


def _needs_pytorch(options):
    """Whether the GPU that is to compute is one that only PyTorch can use; says so."""
    if (options.gpus == "" or options.num_gpus == 0 or os.environ.get("DMLC_ROLE")
            or not _NVIDIA.exists() or find_spec("torch") is None):
        return False
    import torch

    if not torch.cuda.is_available() or (
            count_mxnet_gpus() and torch.cuda.get_device_capability() <= _NEWEST_OF_MXNET):
        return False
    print(f"MXNet cannot use the {torch.cuda.get_device_name()} here, so PyTorch computes "
          "(--engine)", file=sys.stderr)
    return True


def choose_devices(options):
    """Names of the devices that the chosen engine computes on in this process.

    Raises
    ------
    UserError
        If there are not so many.
    """
    if options.engine == "mxnet":
        return select_devices(options.gpus, options.num_gpus)
    devices = _pytorch_devices(options)
    if torchrun.is_started():
        if "LOCAL_RANK" not in os.environ:
            raise UserError("WORLD_SIZE is set, but LOCAL_RANK is not: start the processes with "
                            "torchrun, which sets both")
        own = int(os.environ["LOCAL_RANK"])
        if devices != ("cpu",) and own >= len(devices):
            raise UserError(f"torchrun has started more than {len(devices)} processes here, but "
                            f"the GPUs are {', '.join(devices)}: --nproc-per-node is their number")
        return (devices[min(own, len(devices) - 1)],)
    if len(devices) > 1:
        raise UserError("the PyTorch engine computes on one device in a process: name one GPU "
                        "with --gpus, or take --engine mxnet")
    return devices


def _pytorch_devices(options):
    """The devices of all processes of this machine: one each."""
    import torch

    found = torch.cuda.device_count()
    if torchrun.is_started() and options.gpus is None and options.num_gpus is None:
        return select_devices(None, found, found)
    return select_devices(options.gpus, options.num_gpus, found, TITLES["pytorch"])


def check_precision(options, devices):
    """Raise UserError if the chosen engine does not compute in that precision on these devices."""
    if options.dtype != "float16":
        return
    if devices[0] == "cpu":
        raise UserError("--dtype float16 needs a GPU: on a CPU its convolutions take many times as "
                        "long, if they are there at all; use float32, or bfloat16 with PyTorch")
    if options.engine == "mxnet" and str(
            getattr(options, "norm_layer", None)).lower() == "syncbatchnorm":
        raise UserError("--norm-layer SyncBatchNorm computes in float32 only: use --dtype float32, "
                        "or BatchNorm")
