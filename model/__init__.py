"""Attention units and the residual networks that carry them, as Gluon blocks.

    import model                 # installed by pip: import atac as model
    unit = model.get_activation("ChaATAC", channels=64)
    net = model.get_model("resnet_v2_cifar", blocks=3, activation="ChaATAC")

Importing this package makes MXNet 1.9.1 importable on current Pythons and NumPys: see
`mxnet_compat`, which is imported just before MXNet is. Both, and NumPy, wait for the first
name that is asked for, so that scripts that only need the names answer at once.
"""
import importlib
import sys


class _BeforeMXNet:
    """Imports `mxnet_compat` when somebody begins to import MXNet; finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "mxnet":
            sys.meta_path.remove(self)
            importlib.import_module(".mxnet_compat", __name__)


if "mxnet" not in sys.modules:
    sys.meta_path.insert(0, _BeforeMXNet())

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
