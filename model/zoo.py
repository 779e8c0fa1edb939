"""Networks by name."""
from .registry import Registry
from .resnet_v2_cifar import ResNetV2CIFAR

__all__ = ["MODELS", "get_model", "list_models"]

MODELS = Registry("network")
MODELS.register("resnet_v2_cifar")(ResNetV2CIFAR)


def get_model(name, classes=10, **slots):
    return MODELS[name](classes=classes, **slots)


def list_models():
    return MODELS.names()
