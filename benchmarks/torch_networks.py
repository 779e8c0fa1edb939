"""The paper's networks in PyTorch, written from the same definitions, as a yardstick.

Same layers, same shapes, same number of trained parameters as `model.ResNetV2CIFAR` and
`model.resnet_v1b`; nothing here is used by the project itself.
"""
from torch import nn

from docs.atac_pytorch import ChaATAC

__all__ = ["UNITS", "CIFARResNet", "ResNet50V1b"]


def _relu(_channels):
    return nn.ReLU(inplace=True)


UNITS = {"relu": _relu, "ChaATAC": ChaATAC}


class _PreActBlock(nn.Module):
    def __init__(self, in_channels, channels, stride, unit):
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(in_channels), unit(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(channels), unit(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x):
        out = self.conv1(self.act1(self.bn1(x)))
        out = self.conv2(self.act2(self.bn2(out)))
        return out + self.shortcut(x)


class CIFARResNet(nn.Module):
    """Pre-activation ResNet for 32x32 images, stages of `blocks` blocks."""

    def __init__(self, blocks, unit, channels=(16, 16, 32, 64), classes=10):
        super().__init__()
        stages = []
        for i in range(len(channels) - 1):
            for j in range(blocks):
                stages.append(_PreActBlock(channels[i] if j == 0 else channels[i + 1],
                                           channels[i + 1], 2 if i and j == 0 else 1, unit))
        self.features = nn.Sequential(
            nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, channels[0], 3, 1, 1, bias=False),
            *stages, nn.BatchNorm2d(channels[-1]), unit(channels[-1]))
        self.output = nn.Linear(channels[-1], classes)

    def forward(self, x):
        return self.output(self.features(x).mean((2, 3)))


class _Bottleneck(nn.Module):
    """1x1 - 3x3 (with the stride) - 1x1, each with BN; a unit after the first two (v1b)."""

    def __init__(self, in_channels, channels, stride, unit):
        super().__init__()
        out_channels = 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels),
            unit(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels),
            unit(channels),
            nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.act = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels))

    def forward(self, x):
        return self.act(self.body(x) + self.shortcut(x))


class ResNet50V1b(nn.Module):
    """ResNet-50 whose stride sits in the 3x3 convolution; `unit` in the last two stages."""

    def __init__(self, unit, classes=1000):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64),
                  nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        in_channels = 64
        for i, blocks in enumerate((3, 4, 6, 3)):
            for j in range(blocks):
                layers.append(_Bottleneck(in_channels, 64 << i, 2 if i and j == 0 else 1,
                                          unit if i >= 2 else _relu))
                in_channels = 4 * (64 << i)
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(in_channels, classes)

    def forward(self, x):
        return self.output(self.features(x).mean((2, 3)))
