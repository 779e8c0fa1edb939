"""The workers that train one network together: the one of an ordinary run, and several."""
from common import interruption

__all__ = ["JoinedWorkers", "SingleWorker", "total"]


def total(numbers):
    """The workers' dicts of numbers, added up in their order."""
    return {name: sum(each[name] for each in numbers) for name in numbers[0]}


class SingleWorker:
    """The only worker, and the base of several.

    Parameters
    ----------
    kvstore : str
        How its devices add up gradients, for MXNet.
    """

    rank, count, first = 0, 1, True

    def __init__(self, kvstore="device"):
        self.kvstore = kvstore

    def gather(self, value):
        """The JSON-compatible values of all workers, in their order; all must ask for them."""
        return [value]

    def share(self, content):
        """The bytes that worker 0 gives, for all; the others' `content` is not looked at."""
        return content

    def sum(self, vector, use=None):
        """The sum of all workers' vectors, (N,) float32; `use` names one that comes again."""
        return vector

    def start(self, trainer):
        """Give the parameters of worker 0 to all."""

    def parallel(self, module):
        """For PyTorch: a module like `module` whose gradients are the workers' mean."""
        return module

    def stops_after(self, step):
        """Whether a signal asks to stop after this step; of several workers, all agree."""
        return interruption.requested() is not None

    def stop(self):
        """Raise `Interrupted`."""
        interruption.check()


class JoinedWorkers(SingleWorker):
    """One of several workers, as far as they talk through a warden.

    Parameters
    ----------
    client : machines.client.WardenClient
    kvstore : optional
        See `SingleWorker`.
    """

    def __init__(self, client, kvstore=None):
        super().__init__(kvstore)
        self._client = client
        self.rank, self.count, self.first = client.rank, client.count, client.rank == 0
        self.gather = client.gather

    def stops_after(self, step):
        return self._client.stops_after(step, interruption.requested())

    def stop(self):
        raise interruption.Interrupted(self._client.signal)
