"""The search for a structure: weights and structure learn in turns.

After warm-up epochs, in which only the network's weights learn, the structure parameters
(alphas) have an optimizer of their own. As in the study, every second batch of the training
stream is the alphas'; or, where images are held out for them, each update of the weights
follows one of the alphas on a held-out batch (first-order DARTS, arXiv 1806.09055).
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.files import write_text
from common.plots import make_figure, save_figure
from common.tables import csv_text

from .checkpoint import other_version
from .history import draw_curves, epoch_line, write_metrics
from .record import Record

__all__ = ["SearchRecord", "SearchStep", "Space", "draw_weights", "operation_weights", "penalty",
           "penalty_gradient", "structure_rows", "structure_table", "write_structure_rows"]


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


# ---- what a search leaves to read: alphas.csv, a table, a figure --------------------------------

_PANELS = 4    # side by side


def structure_rows(epoch, operations, weights, alphas):
    """Rows of alphas.csv for one epoch, one a block.

    Parameters
    ----------
    epoch : int
        Counted from 0; the values are those at its end.
    operations : sequence of str
    weights, alphas : array (blocks, operations)

    Returns
    -------
    list of dict
    """
    return [{"epoch": epoch, "block": block,
             **{name: float(value) for name, value in zip(operations, weights[block])},
             **{f"alpha {name}": float(value) for name, value in zip(operations, alphas[block])}}
            for block in range(len(weights))]


def write_structure_rows(path, operations, rows):
    """Write alphas.csv as a whole, atomically; floats keep every bit."""
    columns = ["epoch", "block", *operations, *(f"alpha {name}" for name in operations)]
    write_text(path, csv_text(columns, *([row[column] for column in columns] for row in rows)))


def structure_table(operations, weights, derived):
    """The weights and what they ask for, as lines of text: the table of the study.

    Parameters
    ----------
    operations : sequence of str
    weights : array (blocks, operations)
    derived : sequence of str
        The operation of each block.
    """
    head = "block " + "".join(f"{name:>12}" for name in operations) + "  derived"
    return [head, *(f"{block:5d} " + "".join(f"{value:12.4e}" for value in row) + f"  {operation}"
                    for block, (row, operation) in enumerate(zip(weights, derived)))]


def draw_weights(rows, operations, path, title, warmup_epochs, derive):
    """Draw each block's weights against the epoch.

    Parameters
    ----------
    rows : list of dict
        As in alphas.csv; at least one epoch.
    operations : sequence of str
    path : str or pathlib.Path
        PNG file to write, atomically.
    title : str
        Stands above the panels.
    warmup_epochs : int
        Their end is marked.
    derive : callable
        ``derive(weights)`` -> the operation to name in a block's panel.
    """
    from matplotlib.ticker import MaxNLocator

    blocks = 1 + max(row["block"] for row in rows)
    columns = min(blocks, _PANELS)
    lines = math.ceil(blocks / columns)
    figure = make_figure(2.4 * columns + 0.8, 1.9 * lines + 1.0, 110, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    handles = []
    for block, axes in enumerate(panels):
        if block >= blocks:
            axes.set_visible(False)
            continue
        own = [row for row in rows if row["block"] == block]
        epochs = [row["epoch"] + 1 for row in own]
        # Before the first search epoch all operations weigh the same.
        start = min(warmup_epochs, epochs[-1])
        axes.axvspan(0, start, color="#e8e8e8", linewidth=0)
        handles = [axes.plot([0, *epochs],
                             [1 / len(operations), *(row[name] for row in own)],
                             label=name, linewidth=1.5)[0] for name in operations]
        axes.set(xlim=(0, epochs[-1]), ylim=(0, 1))
        axes.set_title(f"block {block}: {derive([own[-1][name] for name in operations])}",
                       fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
        axes.set_xlabel("epoch (grey: warm-up)" if block + columns >= blocks else "", fontsize=8)
        axes.set_ylabel("weight" if block % columns == 0 else "", fontsize=8)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(operations),
                  frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
