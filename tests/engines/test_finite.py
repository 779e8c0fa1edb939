import numpy as np
import pytest
from mxnet import nd

from engines.finite import all_finite


@pytest.mark.parametrize("count", [1, 99, 250, 700])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_among_many_arrays_is_found(count, value):
    """A ResNet-152 has more than 700 arrays; MXNet's own operator crashes beyond 200."""
    arrays = [nd.ones((3, 2), dtype="float16" if i % 3 else "float32") for i in range(count)]
    assert all_finite(arrays)
    for place in {0, count // 2, count - 1}:
        bad = list(arrays)
        bad[place] = nd.array([1.0, value], dtype=bad[place].dtype)
        assert not all_finite(bad)


def test_none_is_finite():
    assert all_finite([])
