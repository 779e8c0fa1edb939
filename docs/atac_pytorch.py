"""The attentional activations as plain PyTorch modules, to be copied: PyTorch is all they need.

Y. Dai, S. Oehmcke, F. Gieseke, Y. Wu, K. Barnard: Attention as Activation, ICPR 2020,
https://arxiv.org/abs/2007.07729, section III. Put one where a ReLU stood:
``nn.ReLU()`` -> ``ChaATAC(channels)``. Each maps (N, channels, H, W) to the same shape.

Parameters of the MXNet units fit by name: ``gamma`` is ``weight`` and ``beta`` is ``bias`` here.
PyTorch's BatchNorm2d has the same eps (1e-5), and its momentum 0.1, the share of the new
statistics, is MXNet's 0.9, the share of the old ones. Unlike MXNet it keeps the unbiased variance
in ``running_var``: n / (n - 1) times as much, for n values of a channel in a batch.
"""
from torch import nn

__all__ = ["ChaATAC", "SeqATAC", "SpaATAC"]


def _pointwise(in_channels, channels):
    return nn.Conv2d(in_channels, channels, 1, bias=False)


def _depthwise(channels, kernel_size, dilation):
    return nn.Conv2d(channels, channels, kernel_size, padding=dilation * (kernel_size - 1) // 2,
                     dilation=dilation, groups=channels, bias=False)


class _Gated(nn.Module):
    """y = x * sigmoid(module(x))."""

    def __init__(self, *layers):
        super().__init__()
        self.module = nn.Sequential(*layers)

    def forward(self, x):
        return x * self.module(x).sigmoid()


class ChaATAC(_Gated):
    """Channel-wise: y = x * sigmoid(BN(W2 relu(BN(W1 x)))), point-wise W1: C -> C/r, W2: back.

    channels: C; reduction: r.
    """

    def __init__(self, channels, reduction=2):
        inner = max(channels // reduction, 1)
        super().__init__(_pointwise(channels, inner), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
                         _pointwise(inner, channels), nn.BatchNorm2d(channels))


class SpaATAC(_Gated):
    """Spatial: y = x * sigmoid(BN(D2 relu(BN(D1 x)))), depth-wise k x k convolutions D.

    channels: C; kernel_size: k, odd. A reconstruction: the paper's code names it only.
    """

    def __init__(self, channels, kernel_size=3, dilation=1):
        super().__init__(_depthwise(channels, kernel_size, dilation), nn.BatchNorm2d(channels),
                         nn.ReLU(inplace=True),
                         _depthwise(channels, kernel_size, dilation), nn.BatchNorm2d(channels))


class SeqATAC(_Gated):
    """Spatial, then channel-wise: y = x * sigmoid(BN(W2 relu(BN(W1 BN(D x))))).

    channels: C; reduction: r; kernel_size: k, odd; D, W1, W2 as above. A reconstruction: the
    paper's code names it only.
    """

    def __init__(self, channels, reduction=2, kernel_size=3, dilation=1):
        inner = max(channels // reduction, 1)
        super().__init__(_depthwise(channels, kernel_size, dilation), nn.BatchNorm2d(channels),
                         _pointwise(channels, inner), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
                         _pointwise(inner, channels), nn.BatchNorm2d(channels))
