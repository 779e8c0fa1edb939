"""Attention units and the residual networks that carry them, as Gluon blocks.

    import model                 # installed by pip: import atac as model
    unit = model.get_activation("ChaATAC", channels=64)
    net = model.get_model("resnet_v2_cifar", blocks=3, activation="ChaATAC")

Importing this package makes MXNet 1.9.1 importable on current Pythons and NumPys (see
`mxnet_compat`). MXNet itself is imported with the first name that is asked for, so that
scripts that only need the names answer at once.
"""
import importlib

from . import mxnet_compat  # noqa: F401  (comes before mxnet)

_PLACES = {
    "get_activation": "activation", "list_activations": "activation",
    "get_attention": "attention", "list_attentions": "attention",
    "get_model": "zoo", "list_models": "zoo",
    "replace_activations": "surgery", "insert_attention": "surgery",
}

__all__ = list(_PLACES)


def __getattr__(name):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
