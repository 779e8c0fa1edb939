"""Networks by name, and by descriptions.

A description is what travels beside a parameter file: the network's name and its options, as
`get_model` takes them.
"""
import importlib
import inspect

from mxnet import nd

from .registry import Registry, UserError
from .structure import Structure

__all__ = ["MODELS", "build", "find_model", "get_model", "list_models", "option_names"]

MODELS = Registry("network")

# Module and attribute of each network. They are imported when asked for: some need GluonCV.
MODELS.register("resnet_v2_cifar")(("resnet_v2_cifar", "ResNetV2CIFAR"))
for _depth in (18, 34, 50, 101, 152):
    MODELS.register(f"resnet{_depth}")(("resnet_v1_cifar", f"resnet{_depth}"))
    MODELS.register(f"resnet{_depth}_v1b")(("resnet_v1b", f"resnet{_depth}_v1b"))
MODELS.register("resnet50_v1b_atac")(("resnet_v1b", "resnet50_v1b_atac"))
MODELS.register("aa_resnet50")(("resnet_selfattention", "aa_resnet50"))
MODELS.register("fa_resnet50")(("resnet_selfattention", "fa_resnet50"))


# The name that the authors' script has for its only network.
_ALIASES = {"atac": "resnet_v2_cifar"}

def find_model(name):
    """Registered spelling and factory of a network.

    Raises
    ------
    UserError
        If the name is unknown; lists the known ones and the closest.
    """
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
    UserError
        If a name is unknown or an option is unknown or out of range.
    """
    name, factory = find_model(name)
    if "structure" in options:
        structure = Structure(name, **options.pop("structure"))
        options["attention"] = structure.attention()
    known = option_names(factory)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise UserError(f"{name} has no option {', '.join(unknown)}; it has "
                         f"{', '.join(sorted(known))}")
    if options.get("attn_options") and not options.get("attention"):
        raise UserError("attn_options are of an attention unit: name one with attention")
    if classes is not None:
        options["classes"] = classes
    return factory(**options)


def list_models():
    """The names that `get_model` knows."""
    return MODELS.names()


def option_names(factory):
    """Names of the options of a network's or a unit's factory."""
    return {name for name, parameter in inspect.signature(factory).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD}


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
    UserError
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
