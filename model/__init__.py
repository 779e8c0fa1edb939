"""Attention units and the residual networks that carry them, as Gluon blocks.

    import model
    unit = model.get_activation("ChaATAC", channels=64)
    net = model.get_model("resnet_v2_cifar", blocks=3, activation="ChaATAC")

Importing this package also makes MXNet 1.9.1 importable on current Pythons and NumPys
(see `mxnet_compat`).
"""
import mxnet_compat  # noqa: F401  (comes before mxnet)

from .activation import get_activation, list_activations
from .zoo import get_model, list_models

__all__ = ["get_activation", "list_activations", "get_model", "list_models"]
