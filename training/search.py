"""The search for a structure: weights and structure learn in turns.

After warm-up epochs, in which only the network's weights learn, the structure parameters
(alphas) have an optimizer of their own. As in the study, every second batch of the training
stream is the alphas'; or, where images are held out for them, each update of the weights
follows one of the alphas on a held-out batch (first-order DARTS, arXiv 1806.09055).
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .checkpoint import other_version
from .history import draw_curves, epoch_line, write_metrics
from .record import Record
from .search_history import draw_weights, structure_rows, write_structure_rows

__all__ = ["SearchRecord", "SearchStep", "Space", "operation_weights", "penalty",
           "penalty_gradient"]


@dataclass(frozen=True)
class Space:
    """What is searched.

    Parameters
    ----------
    operations : sequence of str
        Names of a block's operations, in the order of its alpha.
    names : tuple of str
        Structural names of the alphas, one a block, each (operations,).
    derive : callable
        ``derive(weights)`` -> name of the operation that a block's weights ask for.
    ratio : sequence of float
        r: the price of each operation.
    power, weight : float
        m and w of the penalty w * mean over blocks of sum_i r_i p_i^m, against the collapse
        to the identity; p = softmax(alpha).
    """

    operations: tuple
    names: tuple
    derive: Callable
    ratio: tuple = (4, 1, 1, 2, 2)
    power: float = 1.1
    weight: float = 0.1


def operation_weights(alphas):
    """p = softmax(alpha) of each block: (blocks, operations) -> the same shape."""
    shares = np.exp(alphas - alphas.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def penalty(alphas, space):
    """The penalty of alphas (blocks, operations), a float."""
    p = operation_weights(np.asarray(alphas, np.float64))
    return float(space.weight * (space.ratio * p ** space.power).sum(axis=1).mean())


def penalty_gradient(alphas, space):
    r"""Its gradient, (blocks, operations).

    .. math:: \frac{\partial}{\partial\alpha_j} = \frac{w m}{B}
              \left(r_j p_j^m - p_j \sum_i r_i p_i^m\right)
    """
    p = operation_weights(np.asarray(alphas, np.float64))
    priced = space.ratio * p ** space.power
    return (space.weight * space.power / len(p)
            * (priced - p * priced.sum(axis=1, keepdims=True)))


class SearchStep:
    """One batch of the training stream, for the weights or for the alphas.

    Parameters
    ----------
    engine
        See `engines.interface`; with the groups ``weights`` and ``alphas``.
    batches : data.batches.Batches
        The training stream.
    held_out : data.batches.Batches or None
        Of images for the alphas; None: they share the training stream.
    rates : (callable, float)
        Learning rate of the weights by step, counted from the beginning; that of the alphas.
    space : Space
    warmup_epochs : int
    """

    def __init__(self, engine, batches, held_out, rates, space, warmup_epochs):
        self.engine, self.batches, self.space = engine, batches, space
        self.rate, self.alpha_rate = rates
        self.warmup_epochs, self._held_out, self._stream = warmup_epochs, held_out, None

    def __call__(self, epoch, index, images, labels):
        """Let the engine learn from a batch."""
        if epoch < self.warmup_epochs:
            return self._learn_weights(epoch, index, images, labels)
        if self._held_out is not None:
            self._learn_alphas(epoch, index, *self._next_held_out(epoch, index), counted=False)
            return self._learn_weights(epoch, index, images, labels)
        learn = self._learn_alphas if index % 2 else self._learn_weights
        return learn(epoch, index, images, labels)

    def _learn_weights(self, epoch, index, images, labels):
        rate = self.rate(epoch * len(self.batches) + index)
        self.engine.learn((images, labels), (epoch, index), {"weights": rate},
                          update=("weights",))

    def _learn_alphas(self, epoch, index, images, labels, counted=True):
        names = self.space.names
        gradients = penalty_gradient(np.stack(self.engine.values(names)), self.space)
        self.engine.learn((images, labels), (epoch, index), {"alphas": self.alpha_rate},
                          update=("alphas",), add=dict(zip(names, gradients)), counted=counted)

    def _next_held_out(self, epoch, index):
        if self._stream is None:
            done = (epoch - self.warmup_epochs) * len(self.batches) + index
            self._stream = _endless(self._held_out, done)
        images, labels, _ = next(self._stream)
        return images, labels


def _endless(batches, start):
    """The batches of epoch after epoch, from the batch number `start` on."""
    epoch, step = divmod(start, len(batches))
    while True:
        yield from batches.epoch(epoch, step)
        epoch, step = epoch + 1, 0


class SearchRecord(Record):
    """Of a search: metrics, curves, and the operations' weights of each epoch.

    Parameters
    ----------
    run, log, title, num_epochs
        As for `training.record.Record`.
    space : Space
    warmup_epochs : int
    """

    def __init__(self, run, log, title, num_epochs, space, warmup_epochs):
        super().__init__(run, log, title, num_epochs)
        self.space, self.warmup_epochs = space, warmup_epochs
        self._structure = []

    def phase(self, epoch):
        """Warm-up or search."""
        phase = "warm-up" if epoch < self.warmup_epochs else "search"
        return f"{phase} {epoch + 1}/{self.num_epochs}"

    def finish_epoch(self, row, engine):
        """Note the operations' weights."""
        alphas = np.stack(engine.values(self.space.names))
        self._structure += structure_rows(row["epoch"], self.space.operations,
                                          operation_weights(alphas), alphas)
        self.log.info(epoch_line(row))

    def show(self, rows):
        """Metrics, curves, alphas and their figure."""
        write_metrics(self.run.metrics, rows)
        draw_curves(rows, self.run.curves, self.title)
        write_structure_rows(self.run.logs / "alphas.csv", self.space.operations,
                             self._structure)
        draw_weights(self._structure, self.space.operations, self.run.logs / "structure.png",
                     self.title, self.warmup_epochs, self.space.derive)

    def state(self):
        """The operations' weights so far."""
        return {"structure": self._structure}

    def load(self, path, state):
        """Take up the state of the checkpoint `path`."""
        try:
            self._structure = state["structure"]
        except KeyError:
            raise other_version(path) from None
