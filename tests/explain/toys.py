"""Small networks whose answers are known."""
import mxnet as mx
import numpy as np
from mxnet.gluon import nn


class CornerMask(nn.HybridBlock):
    """Keeps the upper left quarter of a 4 x 4 map."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        mask = np.zeros((1, 1, 4, 4), np.float32)
        mask[..., :2, :2] = 1
        self.mask = self.params.get_constant("mask", mask)

    def hybrid_forward(self, F, x, mask):
        return F.broadcast_mul(x, mask)


def corner_net(side=16):
    """Class 1 if the upper left quarter is bright, whatever the rest; class 0 if not.

    Takes (N, 3, side, side) with pixels in [0, 1].
    """
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(1, 1, in_channels=3, use_bias=False), nn.AvgPool2D(side // 4, side // 4),
            CornerMask(), nn.GlobalAvgPool2D(), nn.Dense(2, in_units=1))
    net.initialize()
    net[0].weight.set_data(mx.nd.ones((1, 3, 1, 1)) / 3)
    net[4].weight.set_data(mx.nd.array([[-20.0], [20.0]]))
    net[4].bias.set_data(mx.nd.array([2.5, -2.5]))
    return net


def random_net(classes=5, hybridize=False):
    """A small convolutional network with random weights and normalisation statistics."""
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(8, 3, padding=1, in_channels=3), nn.BatchNorm(in_channels=8),
            nn.Activation("relu"), nn.MaxPool2D(2),
            nn.Conv2D(6, 3, padding=1, in_channels=8), nn.BatchNorm(in_channels=6),
            nn.Activation("relu"), nn.GlobalAvgPool2D(), nn.Dense(classes, in_units=6))
    net.initialize(mx.init.Normal(0.5))
    random = np.random.default_rng(0)
    for name, parameter in net.collect_params().items():
        if name.endswith(("running_var", "gamma")):
            parameter.set_data(mx.nd.array(random.uniform(0.5, 2.0, parameter.shape)))
        elif name.endswith(("running_mean", "beta")):
            parameter.set_data(mx.nd.array(random.normal(0, 0.5, parameter.shape)))
    if hybridize:
        net.hybridize(static_alloc=True, static_shape=True)
    return net
