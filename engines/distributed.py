"""Several workers that train one network, joined by MXNet's KVStore.

The store carries arrays, and `machines` the rest. Sums are taken over the workers in their
order, so they do not depend on who was first.
"""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from common.errors import UserError
from machines.client import get_client

from .workers import JoinedWorkers, SingleWorker

__all__ = ["DistributedWorkers", "connect"]

# The trainer's keys are its parameters' numbers.
_FIRST_KEY = 1 << 24


def connect(kv_store, patience, on_cpu):
    """The workers of this run.

    Parameters
    ----------
    kv_store : str
        Name of MXNet's KVStore.
    patience : float
        Seconds to wait for the store.
    on_cpu : bool

    Returns
    -------
    SingleWorker or DistributedWorkers

    Raises
    ------
    UserError
        If the store does not suit the devices, or the way in which the script was started.
    """
    client = get_client()
    if kv_store == "nccl" and on_cpu:
        raise UserError("--kv-store nccl adds up gradients between GPUs; on a CPU use device")
    if not kv_store.startswith("dist"):
        if client:
            raise UserError(f"this is one of {client.count} workers: give --kv-store dist_sync, "
                            "or start the script without a launcher")
        # MXNet silently takes an unknown name for 'local', so the parser has checked it.
        return SingleWorker(kv_store)
    if client is None:
        raise UserError(f"--kv-store {kv_store} is for several workers: start them with `python "
                        "-m machines.launch -n WORKERS -- SCRIPT OPTIONS`, which tells each "
                        "process its part")
    with client.deadline(patience, "MXNet's KVStore does not come up within "
                         f"{patience:g} s: are all ports open between the machines, "
                         "and does DMLC_NODE_HOST or DMLC_INTERFACE name the right network?"):
        return DistributedWorkers(client, mx.kv.create(kv_store))


class DistributedWorkers(JoinedWorkers):
    """One of several workers.

    Parameters
    ----------
    client : machines.client.WardenClient
    kvstore : mxnet.kvstore.KVStore
        A distributed one.
    """

    def __init__(self, client, kvstore):
        super().__init__(client, kvstore)
        self._next_key, self._keys = _FIRST_KEY, {}
        # Its end would wait for the others: it must not come before `leave`.
        client.keep = kvstore

    def sum(self, vector, use=None):
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

    def share(self, content):
        size = self.gather(len(content) if self.first else 0)[0]
        # The store adds up floats only: two bytes are a whole number that a float holds, and
        # the others add nothing.
        words = np.zeros(-(-size // 2), np.float32)
        if self.first:
            words[:] = np.frombuffer(content + b"\0" * (size % 2), np.uint16)
        return self.sum(words).astype(np.uint16).tobytes()[:size]

    def start(self, trainer):
        # Left to the first step, this would overwrite the running statistics of that step.
        trainer._init_kvstore()
        trainer._init_params()
