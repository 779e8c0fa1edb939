"""Several workers that train one network, joined by PyTorch's process group (NCCL, or gloo)."""
import warnings

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from machines.client import get_client

from .workers import JoinedWorkers, SingleWorker

__all__ = ["TorchWorkers", "connect"]


def connect():
    """The workers of this run: `SingleWorker`, or those that `machines.torchrun` has joined."""
    client = get_client()
    return TorchWorkers(client) if client else SingleWorker()


class TorchWorkers(JoinedWorkers):
    """One of several workers, each a process with a device of its own."""

    def sum(self, vector, use=None):
        array = torch.from_numpy(np.array(vector, np.float32))
        dist.all_reduce(array)
        return array.numpy()

    def share(self, content):
        size = self.gather(len(content) if self.first else 0)[0]
        array = np.zeros(size, np.uint8)
        if self.first:
            array[:] = np.frombuffer(content, np.uint8)
        dist.broadcast(torch.from_numpy(array), 0)
        return array.tobytes()

    def parallel(self, module):
        """A module like `module`, whose gradients are the workers' mean."""
        with warnings.catch_warnings():    # of the option's new name, which not all versions have
            warnings.simplefilter("ignore", FutureWarning)
            # Running statistics stay each worker's own, until they are averaged for a file.
            # A graph that is known to be static may have parameters without a gradient.
            return DistributedDataParallel(module, broadcast_buffers=False, static_graph=True)
