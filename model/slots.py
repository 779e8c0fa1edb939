"""Which slots of a host get which unit: pure functions, shared by all hosts."""
from .registry import UserError, check_choice

__all__ = ["ORDERS", "is_sequence", "units_by_block", "units_by_position"]

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
    UserError
        If `layers` or `order` is out of range.
    """
    check_choice("act_order", order, ORDERS)
    if not 0 <= layers <= positions:
        raise UserError(f"act_layers must lie in 0 ... {positions}, not {layers}")
    if order == "bac":
        return (replacement,) * (positions - layers) + (unit,) * layers
    return (unit,) * layers + (replacement,) * (positions - layers)


def units_by_block(registry, what, options, blocks):
    """One unit factory, or None, for each block of a host.

    Parameters
    ----------
    registry : Registry
        Where names are looked up.
    what : str, callable, None, or a sequence of these
        The unit of every block, or one entry for each.
    options : dict, optional
        Options of every unit.
    blocks : int
        Number of blocks of the host.

    Returns
    -------
    tuple
        `blocks` entries, each a callable of `channels`, or None: no unit.

    Raises
    ------
    UserError
        If a name or an option is unknown, or a sequence has another length.
    """
    if not is_sequence(what):
        what = [what] * blocks
    if len(what) != blocks:
        raise UserError(f"{len(what)} {registry.kind} units were given for {blocks} blocks")
    return tuple(registry.configure(unit, options) if unit else None for unit in what)


def is_sequence(what):
    """Whether `what` names a unit for each block, rather than one for all."""
    return isinstance(what, (list, tuple))
