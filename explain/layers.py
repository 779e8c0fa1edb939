"""A network's layers by their structural names, and what they give for an input."""
import contextlib
from dataclasses import dataclass

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
from mxnet.gluon import nn

from common.errors import UserError
from model.registry import did_you_mean

__all__ = ["Layer", "named_layers", "imperative", "hooked", "trace", "find_layer",
           "default_layer"]

_POOLINGS = (nn.MaxPool2D, nn.AvgPool2D, nn.GlobalMaxPool2D, nn.GlobalAvgPool2D)


@dataclass(frozen=True)
class Layer:
    """A layer that gives a feature map.

    Parameters
    ----------
    name : str
        Structural name, as in a parameter file: ``features.4.0.act1``.
    block : mxnet.gluon.Block
    shape : tuple of int
        (C, H, W) of its output.
    """

    name: str
    block: object
    shape: tuple


def named_layers(net):
    """All blocks inside a network, as (structural name, block); each block once."""
    seen, found = set(), []

    def visit(block, prefix):
        for name, child in block._children.items():
            if id(child) not in seen:
                seen.add(id(child))
                found.append((prefix + name, child))
                visit(child, f"{prefix}{name}.")
    visit(net, "")
    return found


@contextlib.contextmanager
def imperative(net):
    """Within this block the network's layers run one by one, compiled or not.

    Only then do the layers' hooks run; and gradients in prediction mode have been wrong in
    networks compiled with static shapes, in some builds of MXNet for CPUs.
    """
    active = [block for block in [net, *(block for _, block in named_layers(net))]
              if getattr(block, "_active", False)]
    try:
        for block in active:
            block._active = False
        yield net
    finally:
        for block in active:
            block._active = True


@contextlib.contextmanager
def hooked(hooks):
    """Within this block each ``hook(block, inputs, output)`` runs after its block.

    Parameters
    ----------
    hooks : iterable of (mxnet.gluon.Block, callable)
    """
    with contextlib.ExitStack() as handles:
        for block, hook in hooks:
            handles.callback(block.register_forward_hook(hook).detach)
        yield


def trace(net, x):
    """The layers that give a feature map for x (N, C, H, W), in the order they finish.

    Returns
    -------
    list of Layer
    """
    shapes = {}

    def note(name):
        def hook(block, inputs, output):
            shapes.pop(name, None)               # a layer that runs again: its last place
            if isinstance(output, mx.nd.NDArray) and output.ndim == 4:
                shapes[name] = output.shape[1:]
        return hook

    layers = dict(named_layers(net))
    with imperative(net), hooked((block, note(name)) for name, block in layers.items()):
        net(x[:1])
    return [Layer(name, layers[name], shape) for name, shape in shapes.items()]


def default_layer(layers):
    """The last feature map before pooling: the last of more than one position, if any.

    Raises
    ------
    UserError
        If no layer gives a feature map.
    """
    if not layers:
        raise UserError("no layer of this network gives a feature map (N, C, H, W); a network "
                         "that was exported shows no layers")
    maps = [layer for layer in layers if not isinstance(layer.block, _POOLINGS)]
    spread = [layer for layer in maps if layer.shape[1] * layer.shape[2] > 1]
    return (spread or maps or layers)[-1]


def find_layer(layers, name=None):
    """The layer of that name, or the default one for None.

    Raises
    ------
    UserError
        If there is none; names the closest.
    """
    if name is None:
        return default_layer(layers)
    by_name = {layer.name: layer for layer in layers}
    if name not in by_name:
        raise UserError(f"no layer '{name}' gives a feature map.{did_you_mean(name, by_name)} "
                         "--list-layers shows them all")
    return by_name[name]
