"""Means over seeds, and differences with their uncertainty."""
import math
from collections import namedtuple

import numpy as np

__all__ = ["Mean", "Difference", "mean", "paired_difference"]

Mean = namedtuple("Mean", "value deviation count")
Mean.__doc__ = """A mean, the sample standard deviation (divisor n - 1), and n.

`deviation` is nan for a single value.
"""

Difference = namedtuple("Difference", "value half_width count")
Difference.__doc__ = """A mean difference, half its 95 % interval, and the number of pairs.

`value` is nan without a pair, `half_width` with fewer than two.
"""


def mean(values):
    """`Mean` of some numbers."""
    values = np.asarray(values, np.float64)
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), float(deviation), len(values))


def paired_difference(values, baseline):
    """`Difference` of two dicts, seed -> number, over the seeds that both have.

    The interval is Student's for the mean of the differences.
    """
    from scipy.special import stdtrit

    pairs = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not pairs:
        return Difference(math.nan, math.nan, 0)
    value, deviation, count = mean(pairs)
    if count < 2:
        return Difference(value, math.nan, count)
    return Difference(value, float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count),
                      count)
