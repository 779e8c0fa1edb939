"""Random numbers that are a function of a key, the same with every NumPy.

NumPy guarantees the streams of `SeedSequence` and of the bit generators, but not what
`Generator` methods make of them: `shuffle`, `integers` or `normal` may change with any
release. So everything here is made from raw 64-bit words.
"""
import zlib

import numpy as np

__all__ = ["bit_stream", "permutation", "uniform"]


def bit_stream(seed, purpose, *counters):
    """A PCG64 bit generator for one purpose.

    Parameters
    ----------
    seed : int
        Not negative.
    purpose : str
        Keeps streams of the same numbers apart ("order", "augment", ...).
    counters : int
        Which of the purpose's streams: the epoch, the step.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    key = [int(seed), zlib.crc32(purpose.encode()), *map(int, counters)]
    return np.random.PCG64(np.random.SeedSequence(key))


def permutation(count, seed, purpose, *counters):
    """0 ... count-1 in random order, int64."""
    words = bit_stream(seed, purpose, *counters).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def uniform(words):
    """Words as float64 in [0, 1), from their upper 53 bits."""
    return (words >> np.uint64(11)) * 2.0 ** -53
