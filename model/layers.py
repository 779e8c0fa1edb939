"""Small layers that units and hosts share, and the checks of their numbers."""
from numbers import Integral

from mxnet.gluon import nn

from .registry import UserError

__all__ = ["LAYERS", "Gated", "GlobalMean", "check_positive", "check_rate", "conv1x1", "conv3x3",
           "depthwise", "hidden_channels", "norm_factory", "same_padding"]

# Depth of a ResNet -> blocks in each stage: basic ones up to 34, from 50 on bottlenecks.
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}


def check_positive(**values):
    """Raise UserError unless every given value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise UserError(f"{name} must be a positive integer, not {value!r}")


def check_rate(**values):
    """Raise UserError unless every given value lies in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must lie in [0, 1), not {value!r}")


def same_padding(kernel_size, dilation=1):
    """Padding that keeps H and W under a stride-1 convolution.

    Raises
    ------
    UserError
        If `kernel_size` is even: no symmetric padding keeps the size.
    """
    check_positive(kernel_size=kernel_size, dilation=dilation)
    if kernel_size % 2 == 0:
        raise UserError(f"kernel_size must be odd to keep the map's size, not {kernel_size}")
    return dilation * (kernel_size - 1) // 2


def hidden_channels(channels, reduction):
    """Width of a bottleneck: channels / reduction, rounded down, at least 1."""
    check_positive(channels=channels, reduction=reduction)
    return max(channels // reduction, 1)


def conv1x1(in_channels, channels, stride=1):
    """Point-wise convolution without bias."""
    return nn.Conv2D(channels, kernel_size=1, strides=stride, use_bias=False,
                     in_channels=in_channels)


def conv3x3(in_channels, channels, stride=1, dilation=1):
    """3x3 convolution without bias that keeps the size, up to its stride."""
    return nn.Conv2D(channels, kernel_size=3, strides=stride, padding=dilation, dilation=dilation,
                     use_bias=False, in_channels=in_channels)


def depthwise(channels, kernel_size, dilation=1, stride=1, padding=None):
    """Convolution of each channel by itself, without bias; it keeps the size, up to its stride."""
    if padding is None:
        padding = same_padding(kernel_size, dilation)
    return nn.Conv2D(channels, kernel_size, strides=stride, padding=padding, dilation=dilation,
                     groups=channels, use_bias=False, in_channels=channels)


def norm_factory(norm_layer, norm_kwargs):
    """A callable of channels that builds a network's normalisation."""
    return lambda channels: norm_layer(in_channels=channels, **(norm_kwargs or {}))


class Gated(nn.HybridBlock):
    """y = x * gate(x), of x's shape; a subclass says what the gate is."""

    def gate(self, F, x):
        """The gate of x (N, C, H, W): of its shape, (N, C, 1, 1) or (N, 1, H, W)."""
        raise NotImplementedError

    def hybrid_forward(self, F, x):
        return F.broadcast_mul(x, self.gate(F, x))


class GlobalMean(nn.HybridBlock):
    """Mean over all positions: (N, C, H, W) -> (N, C)."""

    def hybrid_forward(self, F, x):
        return F.mean(x, axis=(2, 3))
