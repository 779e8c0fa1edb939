"""Small layers that units and hosts share."""
from mxnet.gluon import nn

__all__ = ["LAYERS", "Gated", "GlobalMean", "conv1x1", "conv3x3", "depthwise"]

# Depth of a ResNet -> blocks in each stage: basic ones up to 34, from 50 on bottlenecks.
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}


def conv1x1(in_channels, channels, stride=1):
    """Point-wise convolution without bias."""
    return nn.Conv2D(channels, kernel_size=1, strides=stride, use_bias=False,
                     in_channels=in_channels)


def conv3x3(in_channels, channels, stride=1, dilation=1):
    """3x3 convolution without bias that keeps the size, up to its stride."""
    return nn.Conv2D(channels, kernel_size=3, strides=stride, padding=dilation, dilation=dilation,
                     use_bias=False, in_channels=in_channels)


def depthwise(channels, kernel_size, padding=0, stride=1, dilation=1):
    """Convolution of each channel by itself, without bias."""
    return nn.Conv2D(channels, kernel_size, strides=stride, padding=padding, dilation=dilation,
                     groups=channels, use_bias=False, in_channels=channels)


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
