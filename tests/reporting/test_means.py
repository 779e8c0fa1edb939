import math

import numpy as np
import pytest

from reporting.means import mean, paired_difference

# Student's 97.5 % quantiles, as printed tables have them.
_QUANTILES = {1: 12.706, 2: 4.303, 4: 2.776}


def test_mean_equals_numpy():
    values = [0.81, 0.79, 0.84, 0.80]
    assert mean(values) == pytest.approx((np.mean(values), np.std(values, ddof=1), 4), abs=1e-15)
    single = mean([0.5])
    assert single.value == 0.5 and math.isnan(single.deviation) and single.count == 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_paired_difference(count):
    random = np.random.default_rng(count)
    a, b = random.normal(size=(2, count))
    found = paired_difference(dict(enumerate(a)), {**dict(enumerate(b)), 99: 7.0})
    differences = a - b
    assert found.count == count
    assert found.value == pytest.approx(differences.mean(), abs=1e-15)
    assert found.half_width == pytest.approx(
        _QUANTILES[count - 1] * differences.std(ddof=1) / math.sqrt(count), rel=3e-4)


def test_too_few_pairs_have_no_interval():
    one = paired_difference({0: 0.8, 1: 0.9}, {0: 0.7, 2: 0.1})
    assert one.value == pytest.approx(0.1) and math.isnan(one.half_width) and one.count == 1
    none = paired_difference({0: 0.8}, {1: 0.7})
    assert math.isnan(none.value) and none.count == 0
