"""One network in several runtimes: the same answers, and how fast."""
import time
from dataclasses import dataclass

import numpy as np

from common.tables import text_table

__all__ = ["Row", "compare", "difference", "table", "warning"]

_SPEED_BATCHES = (1, 128)
_SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """What one runtime makes of the images, beside the network in MXNet.

    Attributes
    ----------
    name : str
    exact : bool
        Whether it computes in float32 and has to agree.
    accuracy : float
        Share of the images that are given their class.
    agreeing : int
        Images whose most probable class is MXNet's.
    difference : float
        See `difference`.
    speeds : tuple of float
        Images/s at each of the batch sizes.
    """

    name: str
    exact: bool
    accuracy: float
    agreeing: int
    difference: float
    speeds: tuple


def difference(logits, reference):
    """Largest difference of a logit from its reference, relative to the image's largest one.

    logits, reference (N, classes).
    """
    largest = np.abs(reference).max(axis=1, keepdims=True)
    return float((np.abs(logits - reference) / np.maximum(largest, 1e-30)).max())


def _logits(run, inputs, batch_size=128):
    return np.concatenate([run(inputs[start:start + batch_size])
                           for start in range(0, len(inputs), batch_size)])


def _speed(run, inputs, batch_size):
    """Images/s: the best of the batches of about a second."""
    batch = np.resize(inputs, (batch_size, *inputs.shape[1:]))
    run(batch)
    best, end = np.inf, time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(batch)
        best = min(best, time.perf_counter() - start)
    return batch_size / best


def compare(candidates, labels):
    """Run all candidates on the same images.

    Parameters
    ----------
    candidates : list of (str, bool, callable, numpy.ndarray)
        Name, whether it has to agree, (N, 3, H, W) -> logits, and what it takes; the first
        one is the reference.
    labels : numpy.ndarray
        int, (N,).

    Returns
    -------
    list of Row
    """
    rows, reference = [], None
    for name, exact, run, inputs in candidates:
        logits = _logits(run, inputs)
        reference = logits if reference is None else reference
        best = logits.argmax(axis=1)
        rows.append(Row(name, exact, float((best == labels).mean()),
                        int((best == reference.argmax(axis=1)).sum()),
                        difference(logits, reference),
                        tuple(_speed(run, inputs, size) for size in _SPEED_BATCHES)))
    return rows


def table(rows, count):
    """The rows as text."""
    return text_table(
        ["<", "top-1 %", "same top-1", "difference", *(f"img/s at {n}" for n in _SPEED_BATCHES)],
        [[row.name, f"{100 * row.accuracy:.2f}", f"{row.agreeing:,}/{count:,}",
          f"{row.difference:.1e}", *(f"{speed:,.0f}" for speed in row.speeds)] for row in rows])


def warning(rows, count, tolerance):
    """One line about the first row that had to agree and does not; None if all do.

    `tolerance` is of logits in float32, relative to the largest logit of their image.
    """
    for row in rows:
        if row.exact and (row.agreeing != count or not row.difference <= tolerance):
            return (f"{row.name} does not agree with the network in MXNet: the same class for "
                    f"{row.agreeing:,} of {count:,} images, logits differ by up to "
                    f"{row.difference:.1e} (at most {tolerance:.0e} is accepted)")
    return None
