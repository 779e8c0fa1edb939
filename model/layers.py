"""Small layers that the hosts share."""
from mxnet.gluon import nn

__all__ = ["GlobalMean", "conv1x1", "conv3x3"]


def conv1x1(in_channels, channels, stride=1):
    """Point-wise convolution without bias."""
    return nn.Conv2D(channels, kernel_size=1, strides=stride, use_bias=False,
                     in_channels=in_channels)


def conv3x3(in_channels, channels, stride=1):
    """3x3 convolution without bias that keeps the size, up to its stride."""
    return nn.Conv2D(channels, kernel_size=3, strides=stride, padding=1, use_bias=False,
                     in_channels=in_channels)


class GlobalMean(nn.HybridBlock):
    """Mean over all positions: (N, C, H, W) -> (N, C).

    As `nn.GlobalAvgPool2D` and `nn.Flatten`, but its backward pass is a broadcast.
    """

    def hybrid_forward(self, F, x):
        return F.mean(x, axis=(2, 3))
