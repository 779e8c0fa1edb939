import pytest

from model.slots import units_by_position


@pytest.mark.parametrize("layers, order, expected", [
    (0, "bac", "rrrr"), (1, "bac", "rrru"), (2, "bac", "rruu"), (4, "bac", "uuuu"),
    (0, "pre", "rrrr"), (1, "pre", "urrr"), (3, "pre", "uuur"), (4, "pre", "uuuu"),
])
def test_distribution(layers, order, expected):
    assert "".join(units_by_position(4, layers, order, "u", "r")) == expected


@pytest.mark.parametrize("layers, order, message", [
    (5, "bac", "act_layers must lie in 0 ... 4, not 5"),
    (-1, "bac", "act_layers must lie in 0 ... 4"),
    (2, "middle", "act_order must be one of bac, pre, not 'middle'"),
])
def test_errors(layers, order, message):
    with pytest.raises(ValueError, match=message):
        units_by_position(4, layers, order, "u", "r")
