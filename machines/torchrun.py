"""Several processes for PyTorch: started by torchrun, or here for the GPUs of one machine.

torchrun (`torch.distributed.run`) tells each process its part in its own variables, MASTER_ADDR,
MASTER_PORT, RANK and WORLD_SIZE. `join` reads them and opens PyTorch's process group, which
carries arrays; all else goes over a `Warden`, as on MXNet's machines, here in worker 0's process.
"""
import datetime
import json
import logging
import os
import secrets
import signal
import sys
import tempfile

from common.errors import UserError
from common.interruption import ends_with_parent, stopping
from machines.client import WardenClient, introduce, register
from machines.warden import LOST, Warden

__all__ = ["is_launched", "is_started", "join", "launch"]

_LAUNCHER = "ATAC_LAUNCHER"    # number of the process in `launch`
_STOP_S = 3600    # that processes get to end an evaluation and to save, when asked to stop


def is_started(environ=os.environ):
    """Whether torchrun has started this process as one of several."""
    return environ.get("WORLD_SIZE", "1") != "1" and "MASTER_ADDR" in environ


def is_launched(environ=os.environ):
    """Whether `launch` has started this process."""
    return is_started(environ) and _LAUNCHER in environ


def join(patience, environ=os.environ):
    """Take the part that torchrun's variables name.

    Parameters
    ----------
    patience : float
        Seconds to wait for the other processes.

    Raises
    ------
    UserError
        If the others do not come.
    """
    import torch
    import torch.distributed as dist

    if is_launched(environ):
        ends_with_parent(int(environ[_LAUNCHER]))()
    timeout = datetime.timedelta(seconds=patience)
    warden = None
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=timeout))
        if rank == 0:
            secret = secrets.token_hex(16)
            # As the store: at any address by which the others may know this machine.
            warden = Warden(("", 0), count, 0, patience, secret)
            warden.start()
            store.set("warden", json.dumps([warden.address[1], secret]))
        port, secret = json.loads(store.get("warden"))
        link = introduce((environ["MASTER_ADDR"], port), secret, "worker", rank, patience)
        register(WardenClient(link, "worker", "worker 0", warden), patience)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                store=dist.PrefixStore("arrays", store), rank=rank,
                                world_size=count)
    except (RuntimeError, OSError, ValueError) as error:    # gloo's have no type of their own
        raise UserError(f"the {environ['WORLD_SIZE']} processes of this run do not find each "
                        f"other at {environ['MASTER_ADDR']}, port {environ.get('MASTER_PORT')}: "
                        f"{(str(error) or repr(error)).splitlines()[0]}") from None


def launch(script, arguments, count):
    """Run a script in `count` processes of this machine, with torchrun's agent.

    Parameters
    ----------
    script : path
    arguments : sequence of str
    count : int

    Returns
    -------
    int
        Exit code: 0, or that of the first process that failed, which has said why.
    """
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[_LAUNCHER] = str(os.getpid())
    # Between processes of one machine; a machine's own name need not lead anywhere.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        with tempfile.TemporaryDirectory(prefix="torchrun-") as folder:
            config = LaunchConfig(1, 1, count, DefaultLogsSpecs(folder), secrets.token_hex(8),
                                  rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                                  max_restarts=0, local_addr="localhost",
                                  shutdown_timeout=_STOP_S, signals_to_handle=",".join(
                                      signal.Signals(number).name for number in stopping()))
            elastic_launch(config, sys.executable)("-u", str(script), *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else LOST
    except SignalException as stop:
        return 128 + stop.sigval
    return 0
