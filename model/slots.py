"""Which slots of a host get which unit: pure functions, shared by all hosts."""
from functools import partial

__all__ = ["ORDERS", "units_by_position", "unit_factory"]

ORDERS = ("bac", "pre")


def units_by_position(positions, layers, order, unit, replacement):
    """Distribute two units over a host's activation positions, as the paper's ablation does.

    Parameters
    ----------
    positions : int
        Number of positions, in the order of the forward pass (a stage, or the head).
    layers : int
        How many positions get `unit`; 0 ... `positions`. The reference's ``act_layers``.
    order : {'bac', 'pre'}
        Whether the last ('bac') or the first ('pre') `layers` positions get it.
    unit, replacement : object
        What stands in the chosen and in the other positions.

    Returns
    -------
    tuple
        `positions` entries, each `unit` or `replacement`.

    Raises
    ------
    ValueError
        If `layers` or `order` is out of range.
    """
    if order not in ORDERS:
        raise ValueError(f"act_order must be one of {', '.join(ORDERS)}, not {order!r}")
    if not 0 <= layers <= positions:
        raise ValueError(f"act_layers must lie in 0 ... {positions}, not {layers}")
    if order == "bac":
        return (replacement,) * (positions - layers) + (unit,) * layers
    return (unit,) * layers + (replacement,) * (positions - layers)


def unit_factory(registry, what, options=None):
    """A callable of `channels` that builds the unit `what` with `options`.

    Raises
    ------
    ValueError
        If `what` is a name that `registry` does not know.
    """
    return partial(registry.resolve(what), **(options or {}))
