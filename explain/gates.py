r"""What the gates of a network's units do to images.

An activation multiplies a feature map by a gate. ReLU's is 1 where its input is positive,
else 0; an attentional unit's lies between. Here they are measured side by side.
"""
from dataclasses import dataclass

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from common.errors import UserError

from .layers import hooked, imperative, named_layers

__all__ = ["BINS", "GateLayer", "find_units", "read_gates", "variance_shares"]

BINS = 20


@dataclass(frozen=True)
class GateLayer:
    """The gate of one unit, over a set of images.

    Parameters
    ----------
    name : str
        The unit's structural name.
    kind : str
        Its class, or 'relu'.
    maps : (N, h, w)
        The gate's mean over the channels; h = w = 1 if it is the same at all places.
    histogram : (BINS,)
        Shares of the gate's values in equal parts of [0, 1].
    mean, deviation : float
        Of all values.
    closed, open : float
        Shares of values below 0.1 and above 0.9.
    relu_on : float
        Share of the unit's input that is positive: what a ReLU in its place would let pass.
    when_on, when_off : float
        Mean gate where the input is positive, and where it is not: 1 and 0 for a ReLU.
    shares : (3,)
        Of the gate's variance: see `variance_shares`.
    """

    name: str
    kind: str
    maps: np.ndarray
    histogram: np.ndarray
    mean: float
    deviation: float
    closed: float
    open: float
    relu_on: float
    when_on: float
    when_off: float
    shares: np.ndarray


def _is_relu(block):
    return isinstance(block, nn.Activation) and block._act_type == "relu"


def find_units(net):
    """Units with a gate, as (structural name, block), in the order of their names.

    They are this project's units, which have a method ``gate(F, x)``, and the ReLUs that
    stand for themselves, not inside such a unit.
    """
    found, inside = [], ()
    for name, block in named_layers(net):
        if name.startswith(inside):
            continue
        if callable(getattr(block, "gate", None)):
            found.append((name, block))
            inside += (name + ".",)
        elif _is_relu(block):
            found.append((name, block))
    return found


def read_gates(net, x, batch_size=64):
    """Measure the gates of every unit for images.

    Parameters
    ----------
    net : mxnet.gluon.Block
    x : mxnet.nd.NDArray
        (N, 3, H, W), normalised, on the network's device.
    batch_size : int, default 64
        Images on the device at once.

    Returns
    -------
    list of GateLayer
        In the order in which the units run.

    Raises
    ------
    UserError
        If the network has no such unit.
    """
    units = find_units(net)
    if not units:
        raise UserError("no unit of this network shows its gate: it has neither ReLUs nor "
                         "units of this project as layers")
    measured = {}

    def note(name):
        def hook(block, inputs, output):
            with autograd.pause():
                gate = (inputs[0] > 0) if _is_relu(block) else block.gate(mx.nd, inputs[0])
            # Only sums leave a batch: the values of all images would not fit a small machine.
            measured.setdefault(name, _Sums()).add(gate.asnumpy(), inputs[0].asnumpy())
        return hook

    with imperative(net), hooked((block, note(name)) for name, block in units):
        for start in range(0, len(x), batch_size):
            net(x[start:start + batch_size])
    if not measured:
        raise UserError("no unit of this network runs by itself, so that its gate can be seen")
    blocks = dict(units)
    return [sums.finish(name, blocks[name]) for name, sums in measured.items()]


class _Sums:
    """Adds up one unit's gates over batches."""

    def __init__(self):
        self.maps, self.means, self.squares = [], [], []     # by image (and channel)
        self.histogram = np.zeros(BINS)
        self.counts = np.zeros(5)      # values, of them closed, open; inputs, of them positive
        self.total_on = self.total_off = 0.0

    def add(self, gate, x):
        """Gate (N, C, h, w), h = w = 1 if it is the same everywhere, and input (N, C, H, W)."""
        gate = gate.astype(np.float64)
        spread, on = np.broadcast_to(gate, x.shape), x > 0
        self.maps.append(gate.mean(axis=1))
        self.means.append(gate.mean(axis=(2, 3)))
        self.squares.append((gate ** 2).mean(axis=(2, 3)))
        self.histogram += np.histogram(gate, BINS, (0, 1))[0]
        self.counts += (gate.size, (gate < 0.1).sum(), (gate > 0.9).sum(), x.size, on.sum())
        self.total_on += spread[on].sum()
        self.total_off += spread[~on].sum()

    def finish(self, name, block):
        means, squares = np.concatenate(self.means), np.concatenate(self.squares)
        size, closed, opened, inputs, on = self.counts
        return GateLayer(
            name, "relu" if _is_relu(block) else type(block).__name__,
            np.concatenate(self.maps), self.histogram / size, float(means.mean()),
            float(np.sqrt(max(squares.mean() - means.mean() ** 2, 0))), closed / size,
            opened / size, on / inputs, self.total_on / max(on, 1),
            self.total_off / max(inputs - on, 1), variance_shares(means, squares))


def variance_shares(means, squares):
    """Where a gate's variance comes from.

    The variance of all values is the sum of three parts: between the means of the channels
    (a fixed scale, that no image changes), between images within a channel, and between
    places within an image and channel.

    Parameters
    ----------
    means, squares : (N, C)
        Mean over the places of the gate, and of its square, for each image and channel.

    Returns
    -------
    numpy.ndarray
        (3,): shares of channels, images and places; they add up to 1. All are 0 for a gate
        that is constant.
    """
    parts = np.array([means.mean(axis=0).var(), means.var(axis=0).mean(),
                      np.maximum(squares - means ** 2, 0).mean()])
    total = parts.sum()
    return parts / total if total > 1e-12 else np.zeros(3)
