"""Networks by name, their descriptions, and what the options of a script make of them.

A description is what travels beside a parameter file: the network's name and its options,
as JSON. ``build(describe(options), classes)`` is the network that the options ask for.
"""
import hashlib
import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

from mxnet import nd

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .registry import Registry
from .structure import Structure
from .weights import WeightsError, load_weights

__all__ = ["MODELS", "RELEASED", "Released", "get_model", "list_models", "describe", "build",
           "load_weights", "find_released", "released_by_name", "load_released", "verify_file",
           "WeightsError"]

MODELS = Registry("network")

# Module and attribute of each network. They are imported when asked for: some need GluonCV.
MODELS.register("resnet_v2_cifar")(("resnet_v2_cifar", "ResNetV2CIFAR"))
for _depth in (18, 34, 50, 101, 152):
    MODELS.register(f"resnet{_depth}")(("resnet_v1_cifar", f"resnet{_depth}"))
    MODELS.register(f"resnet{_depth}_v1b")(("resnet_v1b", f"resnet{_depth}_v1b"))
MODELS.register("resnet50_v1b_atac")(("resnet_v1b", "resnet50_v1b_atac"))
MODELS.register("aa_resnet50")(("resnet_selfattention", "aa_resnet50"))
MODELS.register("fa_resnet50")(("resnet_selfattention", "fa_resnet50"))

_PARAMS_FOLDER = Path(__file__).resolve().parents[1] / "params"


@dataclass(frozen=True)
class Released:
    """A released parameter file.

    Parameters
    ----------
    name : str
        Of the network, the data set and the number of blocks.
    file : str
        Its path below params/.
    size : int
        In bytes.
    sha256 : str
        64 hexadecimal digits.
    dataset : str
        What it was trained on.
    classes : int
    model, options
        Its network, as `get_model` takes them.
    figures : dict
        What it scored: ``val_accuracy`` and the like, as in the JSON beside the file.
    run : str, optional
        The run that it is of; logs/<run> is its account.
    url : str, optional
        Where to get it.
    """

    name: str
    file: str
    size: int
    sha256: str
    dataset: str
    outputs: int
    model: str
    options: dict
    figures: dict
    run: str = None
    url: str = None

    @property
    def path(self):
        """Where the file is."""
        return _PARAMS_FOLDER / self.file

    @property
    def description(self):
        """As `build` takes it."""
        return {"model": self.model, "options": self.options, "dataset": {"name": self.dataset}}


def _read_released():
    """The entries of released.json, which `tools/release.py` writes."""
    with open(Path(__file__).with_name("released.json"), encoding="utf-8") as stream:
        return [Released(**entry) for entry in json.load(stream)]


# Parameter files that are published with this project.
RELEASED = _read_released()


def verify_file(path, released):
    """Raise WeightsError unless a file is the released one, byte for byte."""
    path = Path(path)
    if not path.is_file():
        where = f"; it can be had from {released.url}" if released.url else ""
        raise WeightsError(f"there is no file {path}{where}")
    size = path.stat().st_size
    if size != released.size:
        raise WeightsError(f"{path} is not the released {released.name}: it has {size:,} bytes "
                           f"instead of {released.size:,}")
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != released.sha256:
        raise WeightsError(f"{path} is not the released {released.name}: its SHA-256 is "
                           f"{digest.hexdigest()[:12]}..., not {released.sha256[:12]}...")


def find_released(description, dataset):
    """The entry of `RELEASED` for a described network, its file verified.

    Parameters
    ----------
    description : dict
        See `describe`.
    dataset : str
        What it shall have been trained on.

    Raises
    ------
    WeightsError
        If there is none, or its file is missing or damaged.
    """
    for released in RELEASED:
        if (released.model, released.options, released.dataset) == (
                description["model"], description["options"], dataset):
            verify_file(released.path, released)
            return released
    raise WeightsError(f"no parameters of this {description['model']} on {dataset} are released; "
                       f"released: {_released_names()}")


def released_by_name(name):
    """The entry of `RELEASED` of a name, its file verified.

    Raises
    ------
    WeightsError
        If there is none of that name, or its file is missing or damaged.
    """
    for released in RELEASED:
        if released.name.lower() == name.lower():
            verify_file(released.path, released)
            return released
    raise WeightsError(f"no released parameters are named {name}; released: {_released_names()}")


def load_released(name, ctx=None):
    """A released network, ready to predict or to be trained further.

    Parameters
    ----------
    name : str
        One of ``[released.name for released in RELEASED]``; case is ignored.
    ctx : mxnet.Context or list of mxnet.Context, optional
        Where it shall compute; the CPU if not given.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps normalised images (N, 3, H, W) to logits (N, classes).

    Raises
    ------
    WeightsError
        If there is none of that name, or its file is missing or damaged.
    """
    released = released_by_name(name)
    net = build(released.description, released.outputs)
    load_weights(net, released.path, ctx)
    return net


def _released_names():
    return ", ".join(released.name for released in RELEASED) or "none so far"


# The name that the authors' script has for its only network.
_ALIASES = {"atac": "resnet_v2_cifar"}

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


def _factory(name):
    """Registered spelling and factory of a network."""
    name = MODELS.canonical(_ALIASES.get(str(name).lower(), name))
    module, attribute = MODELS[name]
    return name, getattr(importlib.import_module(f".{module}", __package__), attribute)


def get_model(name, classes=None, **options):
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of `list_models()`; case is ignored.
    classes : int, optional
        Number of classes; the network's own default if not given (10, or 1000).
    **options
        What fills the slots (``activation``, ``act_options``, ``attention``, ...), and the
        network's own options. ``structure``, a dict of ``kind``, ``operations`` and
        ``unit_options`` as in `model.structure.Structure`, stands for ``attention``.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps (N, 3, H, W) to logits (N, classes); not initialized.

    Raises
    ------
    ValueError
        If a name is unknown or an option is unknown or out of range.
    """
    name, factory = _factory(name)
    if "structure" in options:
        structure = Structure(name, **options.pop("structure"))
        options["attention"] = structure.attention()
    known = _option_names(factory)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has "
                         f"{', '.join(sorted(known))}")
    if options.get("attn_options") and not options.get("attention"):
        raise ValueError("attn_options are of an attention unit: name one with attention")
    if classes is not None:
        options["classes"] = classes
    return factory(**options)


def list_models():
    """The names that `get_model` knows."""
    return MODELS.names()


def _option_names(factory):
    """Names of a factory's options."""
    return {name for name, parameter in inspect.signature(factory).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD}


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
    ValueError
        If a name is unknown, or an option has no meaning for this network or unit.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    name, factory = _factory(given["model"])
    known = inspect.signature(factory).parameters
    chosen = {}
    for ours, theirs in _NETWORK_OPTIONS.items():
        if ours in given:
            if theirs not in known:
                raise ValueError(f"--{ours.replace('_', '-')} has no meaning for {name}")
            chosen[theirs] = given[ours]
    _spell_units(chosen, known)
    _add_unit_options(chosen, given)
    if "blocks" in known:
        chosen.setdefault("blocks", known["blocks"].default)
    if "attention_at" in chosen and not ("attention" in chosen or "structure" in given):
        raise ValueError("--attention-at says where --attention goes: name the unit, too")
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


def _read_structure(path, name, chosen):
    """The structure in a file, as `get_model` takes it, if it fits the network."""
    if "attention" in chosen:
        raise ValueError("--structure says which attention stands where: give it or --attention")
    structure = Structure.load(path)
    blocks = getattr(get_model(name, **chosen), "num_blocks", None)
    if blocks is None:
        raise ValueError(f"--structure has no meaning for {name}")
    try:
        structure.check(name, blocks)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return {"kind": structure.kind, "operations": list(structure.operations),
            "unit_options": structure.unit_options}


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
            if isinstance(unit, str) and theirs in _option_names(registry[unit]):
                chosen.setdefault(options, {})[theirs] = given[ours]
                break
        else:
            raise ValueError(_no_taker(theirs, slots, chosen))


def _no_taker(option, slots, chosen):
    units = [chosen[slot] for slot in slots if isinstance(chosen.get(slot), str)]
    if not units:
        return f"the option {option} needs a unit in the {' or '.join(slots)} slots"
    return f"{' and '.join(units)} {'have' if len(units) > 1 else 'has'} no option {option}"


def build(description, classes, devices=1):
    """The network of a description, not initialized, with all shapes known.

    Parameters
    ----------
    description : dict
        ``model`` and ``options``.
    classes : int
    devices : int, default 1
        How many train it together: a `SyncBatchNorm` waits for so many.

    Raises
    ------
    ValueError
        If the description names something unknown.
    """
    options = dict(description["options"])
    if str(options.get("norm_layer")).lower() == "syncbatchnorm":
        options["norm_kwargs"] = {"num_devices": devices, **(options.get("norm_kwargs") or {})}
    net = get_model(description["model"], classes=classes, **options)
    if any(0 in parameter.shape for parameter in net.collect_params().values()):
        # GluonCV leaves the input channels of its convolutions to the first forward pass.
        net.infer_shape(nd.zeros((1, 3, 64, 64)))
    return net
