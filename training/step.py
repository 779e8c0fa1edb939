"""What an ordinary training run does with a batch: one update of all weights."""

__all__ = ["TrainStep"]


class TrainStep:
    """One update from each batch.

    Parameters
    ----------
    engine
        See `engines.interface`; its weights are the group ``weights``.
    batches : data.batches.Batches
    rate : callable
        ``rate(number)`` -> the learning rate of a step, counted from the beginning.
    mixing : training.targets.Mixing
    devices : int, default 1
        Of this worker.
    """

    def __init__(self, engine, batches, rate, mixing, devices=1):
        self.engine, self.batches, self.rate = engine, batches, rate
        self.mixing, self.devices = mixing, devices

    def __call__(self, epoch, index, images, labels):
        """Let the engine learn from a batch."""
        first = self.engine.workers.rank * self.devices
        mixes = [self.mixing.draw(epoch, index, first + device, *images.shape[2:])
                 for device in range(self.devices)]
        self.engine.learn((images, labels), (epoch, index),
                          {"weights": self.rate(epoch * len(self.batches) + index)}, mixes=mixes)
