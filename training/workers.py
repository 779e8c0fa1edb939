"""The workers that train one network: what they add up, and what worker 0 gives the others.

`Alone` is the one worker of an ordinary run. `Workers` are several, joined by MXNet's KVStore,
which carries arrays, and by `machines.client`, which carries the rest. Sums are taken over
the workers in their order, so they do not depend on who was first.
"""
import contextlib
import tempfile
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from common import interruption
from common.errors import UserError
from machines.client import get_client

__all__ = ["Alone", "Workers", "connect", "averaged", "set_running_statistics", "total"]

# The trainer's keys are its parameters' numbers.
_FIRST_KEY = 1 << 24
_RUNNING = ("running_mean", "running_var")


def connect(options, contexts):
    """The workers of this run, as `--kv-store` says.

    Returns
    -------
    Alone or Workers

    Raises
    ------
    UserError
        If the store does not suit the devices, or the way in which the script was started.
    """
    name, machine = options.kv_store, get_client()
    if name == "nccl" and contexts[0].device_type == "cpu":
        raise UserError("--kv-store nccl adds up gradients between GPUs; on a CPU use device")
    if not name.startswith("dist"):
        if machine:
            raise UserError(f"this is one of {machine.count} workers: give --kv-store dist_sync, "
                            "or start the script without a launcher")
        # MXNet silently takes an unknown name for 'local', so the parser has checked it.
        return Alone(name)
    if machine is None:
        raise UserError(f"--kv-store {name} is for several workers: start them with `python -m "
                        "machines.launch -n WORKERS -- SCRIPT OPTIONS`, which tells each process "
                        "its part")
    with machine.deadline(options.join_timeout, "MXNet's KVStore does not come up within "
                          f"{options.join_timeout:g} s: are all ports open between the machines, "
                          "and does DMLC_NODE_HOST or DMLC_INTERFACE name the right network?"):
        return Workers(machine, mx.kv.create(name))


def total(numbers):
    """The workers' dicts of numbers, added up in their order."""
    return {name: sum(each[name] for each in numbers) for name in numbers[0]}


class Alone:
    """The only worker.

    Parameters
    ----------
    kvstore : str
        How its devices add up gradients.
    """

    rank, count, first = 0, 1, True

    def __init__(self, kvstore="device"):
        self.kvstore = kvstore

    def gather(self, value):
        """The values of all workers, in their order; all must ask for them."""
        return [value]

    @contextlib.contextmanager
    def shared_files(self, paths):
        """Files of worker 0, for all: their paths here, valid within the block.

        The others need the files' names only.
        """
        yield paths

    def start(self, trainer):
        """Bring the parameters into the KVStore: the same ones for all workers."""

    def running_statistics(self, net):
        """What each worker's batch normalisations have seen: array (workers, N).

        None where one trains alone, or nothing is normalised by batches.
        """
        return None

    def stops_after(self, step):
        """Whether a signal asks to stop after this step; of several workers, all agree."""
        return interruption.requested()

    def stop(self):
        """Raise `Interrupted`."""
        interruption.check()


class Workers(Alone):
    """One of several workers.

    Parameters
    ----------
    machine : machines.client.WardenClient
    kvstore : mxnet.kvstore.KVStore
        A distributed one.
    """

    def __init__(self, machine, kvstore):
        super().__init__(kvstore)
        self._machine = machine
        self.rank, self.count, self.first = machine.rank, machine.count, machine.rank == 0
        self.gather = machine.gather
        self._next_key, self._keys = _FIRST_KEY, {}
        # Its end would wait for the others: it must not come before `leave`.
        machine.keep = kvstore

    def _sum(self, vector, use=None):
        """The sum of all workers' vectors, (N,) float32; `use` names one that comes again."""
        key = self._keys.get(use)
        if key is None:
            key, self._next_key = self._next_key, self._next_key + 1
            self.kvstore.init(key, mx.nd.zeros(vector.shape))
            if use:
                self._keys[use] = key
        array = mx.nd.array(vector)
        self.kvstore.push(key, array)
        self.kvstore.pull(key, out=array)
        return array.asnumpy()

    @contextlib.contextmanager
    def shared_files(self, paths):
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder, Path(path).name) for path in paths]
            for path, copy in zip(paths, copies):
                self._share_file(Path(path), copy)
            yield list(paths) if self.first else copies

    def _share_file(self, path, copy):
        content = path.read_bytes() if self.first else b""
        size = self.gather(len(content))[0]
        # The store adds up floats only: two bytes are a whole number that a float holds, and
        # the others add nothing.
        words = np.zeros(-(-size // 2), np.float32)
        if self.first:
            words[:] = np.frombuffer(content + b"\0" * (size % 2), np.uint16)
        words = self._sum(words).astype(np.uint16)
        if not self.first:
            copy.write_bytes(words.tobytes()[:size])

    def start(self, trainer):
        # Left to the first step, this would overwrite the running statistics of that step.
        trainer._init_kvstore()
        trainer._init_params()

    def running_statistics(self, net):
        vectors = [parameter._reduce().asnumpy().ravel() for parameter in _running(net)]
        if not vectors:
            return None
        rows = np.zeros((self.count, sum(map(len, vectors))), np.float32)
        rows[self.rank] = np.concatenate(vectors)
        return self._sum(rows.ravel(), "statistics").reshape(rows.shape)

    def stops_after(self, step):
        return self._machine.stops_after(step, interruption.requested())

    def stop(self):
        raise interruption.Interrupted(self._machine.signal)


def _running(net):
    """The parameters that hold running statistics, in the order of their names."""
    return [parameter for name, parameter in sorted(net._collect_params_with_prefix().items())
            if name.endswith(_RUNNING)]


def set_running_statistics(net, vector):
    """Set all running statistics of a network from one vector, (N,)."""
    mx.nd.waitall()    # a backward pass still writes them, unknown to the engine
    start = 0
    for parameter in _running(net):
        stop = start + int(np.prod(parameter.shape))
        parameter.set_data(mx.nd.array(vector[start:stop].reshape(parameter.shape)))
        start = stop


@contextlib.contextmanager
def averaged(net, statistics):
    """Within the block, a network of worker 0 has the mean of the workers' running statistics.

    Parameters
    ----------
    net : mxnet.gluon.Block
    statistics : array (workers, N) or None
        Of `Alone.running_statistics`.
    """
    if statistics is None:
        yield
        return
    set_running_statistics(net, statistics.mean(axis=0))
    try:
        yield
    finally:
        set_running_statistics(net, statistics[0])
