"""Which engine computes, and on which devices."""
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError
from engines.devices import count_mxnet_gpus, select_devices

__all__ = ["TITLES", "check_precision", "choose_devices", "choose_engine"]

TITLES = {"mxnet": "MXNet", "pytorch": "PyTorch"}
_NVIDIA = Path("/proc/driver/nvidia")
_NEWEST_OF_MXNET = (8, 9)    # compute capability of the last GPU that MXNet's wheels have code for


def choose_engine(options):
    """The engine that --engine names, or that the precision and the machine ask for.

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
    elif options.dtype == "bfloat16":
        engine = "pytorch"
    else:
        engine = "pytorch" if _needs_pytorch(options) else "mxnet"
    if engine == "mxnet" and options.dtype == "bfloat16":
        raise UserError("--dtype bfloat16: MXNet computes a few CPU operators in it and updates "
                        "no weights in it; PyTorch trains in it: drop --engine mxnet")
    if engine == "pytorch":
        _check_pytorch(options)
    return engine


def _check_pytorch(options):
    if find_spec("torch") is None:
        asks = "--engine pytorch" if options.engine == "pytorch" else "--dtype bfloat16"
        raise UserError(f"{asks} needs PyTorch, which is not installed: make env EXTRAS=pytorch")
    if os.environ.get("DMLC_ROLE") or getattr(options, "kv_store", "device") != "device":
        raise UserError("--kv-store and machines.launch are MXNet's: drop them, or --engine "
                        "pytorch")


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
    """Names of the devices that the chosen engine computes on: see `select_devices`."""
    if options.engine == "mxnet":
        return select_devices(options.gpus, options.num_gpus)
    import torch

    devices = select_devices(options.gpus, options.num_gpus, torch.cuda.device_count(),
                             TITLES[options.engine])
    if len(devices) > 1:
        raise UserError("the PyTorch engine computes on one device in a process: name one GPU "
                        "with --gpus, or take --engine mxnet")
    return devices


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
