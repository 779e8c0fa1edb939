"""What a script's options ask for: a network's description, and back.

``build(describe(options), classes)``, with `model.zoo.build`, is the network.
"""
import inspect

from common.errors import UserError
from common.files import read_json
from model.activation import ACTIVATIONS
from model.attention import ATTENTIONS
from model.structure import Structure
from model.zoo import find_model, get_model, option_names

__all__ = ["describe", "load_structure", "script_options"]

# Script options that a network takes: ours -> the network's.
_NETWORK_OPTIONS = {"act_type": "activation", **{name: name for name in (
    "blocks", "act_layers", "act_order", "replace_act", "attention", "attention_at",
    "width", "stem", "drop_rate", "last_gamma", "deep_stem", "avg_down", "dilated",
    "final_drop", "norm_layer")}}
# Script options that go to the unit of a slot: the first slot whose unit takes it.
_UNIT_OPTIONS = {
    "reduction": ("reduction", "activation", "attention"), "use_relu": ("use_relu", "activation"),
    "use_global": ("use_global", "activation"),
    "act_kernel_size": ("kernel_size", "activation"), "act_dilation": ("dilation", "activation"),
    "act_gate": ("gate", "activation"), "attn_reduction": ("reduction", "attention"),
    "spatial_kernel": ("kernel_size", "attention")}
_SLOTS = {"activation": (ACTIVATIONS, "act_options"), "attention": (ATTENTIONS, "attn_options")}


def describe(options):
    """The network that a script's options ask for.

    Parameters
    ----------
    options : argparse.Namespace
        With ``model``, ``act_type`` and the like; None stands for "not given".

    Returns
    -------
    dict
        ``model`` (name) and ``options`` (of `get_model`), JSON-compatible.

    Raises
    ------
    UserError
        If a name is unknown, or an option has no meaning for this network or unit.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    name, factory = find_model(given["model"])
    known = inspect.signature(factory).parameters
    chosen = {}
    _name_dropout(given, known)
    for ours, theirs in _NETWORK_OPTIONS.items():
        if ours in given:
            if theirs not in known:
                raise UserError(f"--{ours.replace('_', '-')} has no meaning for {name}")
            chosen[theirs] = given[ours]
    _spell_units(chosen, known)
    _add_unit_options(chosen, given)
    if "blocks" in known:
        chosen.setdefault("blocks", known["blocks"].default)
    if "attention_at" in chosen and not ("attention" in chosen or "structure" in given):
        raise UserError("--attention-at says where --attention goes: name the unit, too")
    if "structure" in given:
        chosen["structure"] = _read_structure(given["structure"], name, chosen)
    return {"model": name, "options": chosen}


def script_options(description):
    """The options of a script that `describe` turns into a description; its inverse.

    Parameters
    ----------
    description : dict
        Without a structure.

    Returns
    -------
    dict
        Names as in `argparse` -> values; ``model`` is not among them.
    """
    options = description["options"]
    found = {ours: options[theirs] for ours, theirs in _NETWORK_OPTIONS.items()
             if theirs in options}
    for ours, (theirs, *slots) in _UNIT_OPTIONS.items():
        # Of the options that reach a slot, the one that is that slot's alone.
        slot = slots[0]
        of_unit = options.get(_SLOTS[slot][1], {})
        if theirs in of_unit:
            found[ours] = of_unit[theirs]
    return found


def load_structure(path):
    """Read structure.json.

    Raises
    ------
    UserError
        In one line that names the path, if it cannot be read or is not a valid structure.
    """
    content = read_json(path)
    try:
        return Structure.from_content(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _read_structure(path, name, chosen):
    """The structure in a file, as `get_model` takes it, if it fits the network."""
    if "attention" in chosen:
        raise UserError("--structure says which attention stands where: give it or --attention")
    structure = load_structure(path)
    blocks = getattr(get_model(name, **chosen), "num_blocks", None)
    if blocks is None:
        raise UserError(f"--structure has no meaning for {name}")
    try:
        structure.check(name, blocks)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return {"kind": structure.kind, "operations": list(structure.operations),
            "unit_options": structure.unit_options}


def _name_dropout(given, known):
    """--drop-rate and --final-drop are the same: call it what the network calls it."""
    if {"drop_rate", "final_drop"} <= given.keys():
        raise UserError("--final-drop and --drop-rate are the same: give one")
    for ours, theirs in (("drop_rate", "final_drop"), ("final_drop", "drop_rate")):
        if ours in given and theirs in known:
            given[theirs] = given.pop(ours)


def _spell_units(chosen, known):
    """Put the registered spelling of the units, also of the default one, into `chosen`."""
    for option, registry in (("activation", ACTIVATIONS), ("replace_act", ACTIVATIONS),
                             ("attention", ATTENTIONS)):
        default = known[option].default if option in known else None
        unit = chosen.get(option, default)
        if isinstance(unit, str):
            chosen[option] = registry.canonical(unit)


def _add_unit_options(chosen, given):
    """Give each unit option to the first slot whose unit takes it."""
    for ours, (theirs, *slots) in _UNIT_OPTIONS.items():
        if ours not in given:
            continue
        for slot in slots:
            registry, options = _SLOTS[slot]
            unit = chosen.get(slot)
            if isinstance(unit, str) and theirs in option_names(registry[unit]):
                chosen.setdefault(options, {})[theirs] = given[ours]
                break
        else:
            raise UserError(_no_taker(theirs, slots, chosen))


def _no_taker(option, slots, chosen):
    units = [chosen[slot] for slot in slots if isinstance(chosen.get(slot), str)]
    if not units:
        return f"the option {option} needs a unit in the {' or '.join(slots)} slots"
    return f"{' and '.join(units)} {'have' if len(units) > 1 else 'has'} no option {option}"
