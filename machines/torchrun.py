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
import sys
import tempfile

from common.errors import UserError
from machines.client import WardenClient, introduce, register
from machines.warden import LOST, Warden

__all__ = ["is_started", "join", "launch"]


def is_started(environ=os.environ):
    """Whether torchrun has started this process as one of several."""
    return environ.get("WORLD_SIZE", "1") != "1" and "MASTER_ADDR" in environ


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

    timeout = datetime.timedelta(seconds=patience)
    warden = None
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=timeout))
        if rank == 0:
            secret = secrets.token_hex(16)
            warden = Warden((environ["MASTER_ADDR"], 0), count, 0, patience, secret)
            warden.start()
            store.set("warden", json.dumps([*warden.address, secret]))
        host, port, secret = json.loads(store.get("warden"))
        link = introduce((host, port), secret, "worker", rank, patience)
        register(WardenClient(link, "worker", "worker 0", warden), patience)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                                store=dist.PrefixStore("arrays", store), rank=rank,
                                world_size=count)
    except (dist.DistError, OSError, ValueError) as error:
        raise UserError(f"the {environ['WORLD_SIZE']} processes of this run do not find each "
                        f"other at {environ['MASTER_ADDR']}, port {environ.get('MASTER_PORT')}: "
                        f"{str(error).splitlines()[0]}") from None


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
    # Between processes of one machine; a machine's own name need not lead anywhere.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        with tempfile.TemporaryDirectory(prefix="torchrun-") as folder:
            config = LaunchConfig(1, 1, count, DefaultLogsSpecs(folder), secrets.token_hex(8),
                                  rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                                  max_restarts=0, local_addr="localhost")
            elastic_launch(config, sys.executable)("-u", str(script), *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else LOST
    except SignalException as stop:
        return 128 + stop.sigval
    return 0
