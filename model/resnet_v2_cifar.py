"""The paper's CIFAR network: a pre-activation ResNet whose activation slots are open.

K. He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027,
in the shape that Dai et al., Attention as Activation (arXiv 2007.07729, section IV) use:
three stages of b blocks each, channels 16-16-32-64. "ResNet-20" is b = 3.
"""
from mxnet.gluon import nn

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .layers import GlobalMean, check_positive, check_rate, conv1x1, conv3x3
from .slots import units_by_block, units_by_position

__all__ = ["PreActBlock", "ResNetV2CIFAR", "translate_reference_key"]

# The authors' code calls a block's activations msAA1 and msAA2, whatever stands there.
_REFERENCE_NAMES = {"msAA1": "act1", "msAA2": "act2"}


def translate_reference_key(key):
    """Our structural parameter name for one written by the authors' code.

    ``features.2.0.msAA1.module.0.weight`` -> ``features.2.0.act1.module.0.weight``; names
    that are ours already stay.
    """
    return ".".join(_REFERENCE_NAMES.get(part, part) for part in key.split("."))


class InputNorm(nn.BatchNorm):
    """Batch normalisation of the input image, with nothing to learn (no scale, no shift).

    On a CPU, MXNet moves running statistics in the backward pass, which does not reach this
    layer: the code that trains the network has to move them (`engines.input_statistics`).
    """

    def __init__(self, **kwargs):
        super().__init__(scale=False, center=False, **kwargs)


class PreActBlock(nn.HybridBlock):
    """Pre-activation residual block: twice BN - unit - 3x3 convolution, plus the shortcut.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input and of the output.
    stride : int
        Stride of the first convolution and of the projection.
    act_layer : callable
        ``act_layer(channels)`` -> the unit of an activation slot.
    attn_layer : callable, optional
        ``attn_layer(channels)`` -> the unit of the attention slot: after the last
        convolution, before the addition. None: no such unit.

    Inputs: data (N, in_channels, H, W). Outputs: (N, channels, H / stride, W / stride).
    """

    def __init__(self, in_channels, channels, stride, act_layer, attn_layer=None, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.bn1 = nn.BatchNorm(in_channels=in_channels)
            self.act1 = act_layer(in_channels)
            self.conv1 = conv3x3(in_channels, channels, stride)
            self.bn2 = nn.BatchNorm(in_channels=channels)
            self.act2 = act_layer(channels)
            self.conv2 = conv3x3(channels, channels)
            self.attn = attn_layer(channels) if attn_layer else None
            self.downsample = None
            if stride != 1 or in_channels != channels:
                self.downsample = conv1x1(in_channels, channels, stride)

    def hybrid_forward(self, F, x):
        shortcut = self.downsample(x) if self.downsample else x

        out = self.act1(self.bn1(x))
        out = self.conv1(out)

        out = self.act2(self.bn2(out))
        out = self.conv2(out)

        if self.attn:
            out = self.attn(out)
        return out + shortcut


class ResNetV2CIFAR(nn.HybridBlock):
    """Pre-activation ResNet for small images.

    Parameters
    ----------
    blocks : int, default 3
        The paper's b: blocks in each of the three stages; 6 b + 2 layers deep.
    classes : int, default 10
        Number of classes.
    activation : str or callable, default 'ChaATAC'
        Unit of the activation slots, by name or as a factory ``f(channels, **options)``.
    act_options : dict, optional
        Options of that unit (``reduction``, ``use_relu``, ...).
    act_layers : int, default 4
        How many of the four positions (three stages and the head) get the unit.
    act_order : {'bac', 'pre'}, default 'bac'
        Whether the last or the first `act_layers` positions get it.
    replace_act : str or callable, default 'relu'
        Unit of the other positions.
    attention : str, callable or sequence of these, optional
        Unit of every block's attention slot, or one entry for each of the 3 b blocks in the
        order of the forward pass; None: no unit.
    attn_options : dict, optional
        Options of that unit.
    drop_rate : float, default 0
        Dropout before the classifier.
    channels : sequence of int, default (16, 16, 32, 64)
        Channels of the stem and of the stages.

    Raises
    ------
    ValueError
        If a unit is unknown or a number is out of range.

    Inputs: data (N, 3, H, W). Outputs: logits (N, classes).
    """

    def __init__(self, blocks=3, classes=10, activation="ChaATAC", act_options=None, act_layers=4,
                 act_order="bac", replace_act="relu", attention=None, attn_options=None,
                 drop_rate=0.0, channels=(16, 16, 32, 64), **kwargs):
        super().__init__(**kwargs)
        check_positive(blocks=blocks, classes=classes)
        check_rate(drop_rate=drop_rate)
        unit = ACTIVATIONS.configure(activation, act_options)
        plain = ACTIVATIONS.configure(replace_act)
        self.num_blocks = blocks * (len(channels) - 1)
        attn_layers = units_by_block(ATTENTIONS, attention, attn_options, self.num_blocks)
        *stage_units, head_unit = units_by_position(len(channels), act_layers, act_order,
                                                    unit, plain)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(InputNorm(in_channels=3), conv3x3(3, channels[0]))
            for i, act_layer in enumerate(stage_units):
                self.features.add(self._make_stage(i + 1, channels[i], channels[i + 1],
                                                   1 if i == 0 else 2, act_layer,
                                                   attn_layers[i * blocks:(i + 1) * blocks]))
            self.features.add(nn.BatchNorm(in_channels=channels[-1]),
                              head_unit(channels[-1]),
                              GlobalMean())
            if drop_rate:
                self.features.add(nn.Dropout(drop_rate))
            self.output = nn.Dense(classes, in_units=channels[-1])

    @staticmethod
    def _make_stage(index, in_channels, channels, stride, act_layer, attn_layers):
        stage = nn.HybridSequential(prefix=f"stage{index}_")
        with stage.name_scope():
            for i, attn_layer in enumerate(attn_layers):
                stage.add(PreActBlock(channels if i else in_channels, channels,
                                      1 if i else stride, act_layer, attn_layer))
        return stage

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))
