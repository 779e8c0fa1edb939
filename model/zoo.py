"""Networks by name, their descriptions, and what the options of a script make of them.

A description is what travels beside a parameter file: the network's name and its options,
as JSON. ``build(describe(options), classes)`` is the network that the options ask for.
"""
import inspect

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .registry import Registry
from .resnet_v2_cifar import ResNetV2CIFAR
from .weights import WeightsError, load_weights

__all__ = ["MODELS", "get_model", "list_models", "describe", "build", "load_weights",
           "WeightsError"]

MODELS = Registry("network")
MODELS.register("resnet_v2_cifar")(ResNetV2CIFAR)

# The name that the authors' script has for its only network.
_ALIASES = {"atac": "resnet_v2_cifar"}

# Script options that a network takes under another name, and under the same one.
_RENAMED = {"act_type": "activation"}
_SAME_NAME = ("blocks", "act_layers", "act_order", "replace_act", "attention", "drop_rate")
# Script options that go to the unit in the activation slots.
_UNIT_OPTIONS = {"reduction": "reduction", "use_relu": "use_relu", "use_global": "use_global",
                 "act_kernel_size": "kernel_size", "act_dilation": "dilation",
                 "act_gate": "gate"}


def get_model(name, classes=10, **options):
    """Build a network by name.

    Parameters
    ----------
    name : str
        One of `list_models()`; case is ignored.
    classes : int, default 10
        Number of classes.
    **options
        What fills the slots (``activation``, ``act_options``, ``attention``, ...), and the
        network's own options.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps (N, 3, H, W) to logits (N, classes); not initialized.

    Raises
    ------
    ValueError
        If a name is unknown or an option is unknown or out of range.
    """
    factory = MODELS[_ALIASES.get(str(name).lower(), name)]
    known = _parameters(factory)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has "
                         f"{', '.join(sorted(known))}")
    return factory(classes=classes, **options)


def list_models():
    """The names that `get_model` knows."""
    return MODELS.names()


def _parameters(factory):
    """Names of the options of a factory that are for users."""
    hidden = {"channels", "norm_layer", "norm_kwargs"}
    return {name for name, parameter in inspect.signature(factory).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD and name not in hidden}


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
    name = MODELS.canonical(_ALIASES.get(given["model"].lower(), given["model"]))
    known = inspect.signature(MODELS[name]).parameters
    chosen = {_RENAMED.get(key, key): given[key]
              for key in (*_RENAMED, *_SAME_NAME) if key in given}
    unknown = sorted(chosen.keys() - known.keys())
    if unknown:
        raise ValueError(f"--{unknown[0].replace('_', '-')} has no meaning for {name}")
    for slot, registry in (("activation", ACTIVATIONS), ("replace_act", ACTIVATIONS),
                           ("attention", ATTENTIONS)):
        if slot in known and (slot in chosen or known[slot].default):
            chosen[slot] = registry.canonical(chosen.get(slot, known[slot].default))
    if "blocks" in known:
        chosen.setdefault("blocks", known["blocks"].default)
    unit_options = {_UNIT_OPTIONS[key]: given[key] for key in _UNIT_OPTIONS if key in given}
    if unit_options:
        chosen["act_options"] = _fitting(ACTIVATIONS, chosen["activation"], unit_options)
    return {"model": name, "options": chosen}


def _fitting(registry, unit, options):
    """`options`, if the unit takes them all."""
    known = _parameters(registry[unit])
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(sorted(known))}" if known else "takes no options"
            raise ValueError(f"{unit} has no option {option}: it {takes}")
    return options


def build(description, classes):
    """The network of a description, not initialized.

    Raises
    ------
    ValueError
        If the description names something unknown.
    """
    return get_model(description["model"], classes=classes, **description["options"])
