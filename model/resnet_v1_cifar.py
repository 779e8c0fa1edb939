"""ResNet-18 ... ResNet-152 for 32x32 images: the hosts of the attention studies.

K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016,
arXiv 1512.03385, with a 3x3 stem of 64 channels and no pooling before the stages, and the
stride of a bottleneck in its 3x3 convolution. Parameter counts are those of elbuco1/CBAM,
the study of CBAM in CIFAR ResNets, for every depth and place of the attention.
"""
from functools import partial

from mxnet.gluon import nn

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .layers import LAYERS, GlobalMean, check_positive, check_rate, conv1x1, conv3x3
from .registry import UserError, check_choice
from .slots import is_sequence, units_by_block, units_by_position

__all__ = ["BasicBlock", "Bottleneck", "ResNetV1CIFAR", "resnet18", "resnet34", "resnet50",
           "resnet101", "resnet152"]

ATTENTION_SLOTS = ("block", "identity", "classifier")
STEMS = ("conv3", "conv7")


def _projection(in_channels, channels, stride):
    """1x1 convolution and normalisation where a block changes the shape, else None."""
    if stride == 1 and in_channels == channels:
        return None
    layers = nn.HybridSequential(prefix="downsample_")
    with layers.name_scope():
        layers.add(conv1x1(in_channels, channels, stride), nn.BatchNorm(in_channels=channels))
    return layers


class BasicBlock(nn.HybridBlock):
    """Residual block of two 3x3 convolutions, each followed by a normalisation.

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input and of the output.
    stride : int
        Stride of the first convolution and of the projection.
    act_layer, act_last : callable
        ``act_layer(channels)`` -> the unit between the convolutions, `act_last` the one
        after the addition.
    attn_layer : callable, optional
        ``attn_layer(channels)`` -> the unit of the attention slot: after the last
        normalisation, before the addition. None: no such unit.

    Inputs: data (N, in_channels, H, W). Outputs: (N, channels, H / stride, W / stride).
    """

    expansion = 1

    def __init__(self, in_channels, channels, stride, act_layer, act_last, attn_layer=None,
                 **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv1 = conv3x3(in_channels, channels, stride)
            self.bn1 = nn.BatchNorm(in_channels=channels)
            self.act1 = act_layer(channels)
            self.conv2 = conv3x3(channels, channels)
            self.bn2 = nn.BatchNorm(in_channels=channels)
            self.attn = attn_layer(channels) if attn_layer else None
            self.downsample = _projection(in_channels, channels, stride)
            self.act2 = act_last(channels)

    def hybrid_forward(self, F, x):
        shortcut = self.downsample(x) if self.downsample is not None else x

        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))

        if self.attn is not None:
            out = self.attn(out)
        return self.act2(out + shortcut)


class Bottleneck(nn.HybridBlock):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution; four times as wide at its end.

    Parameters are those of `BasicBlock`; `channels`, of the output, is four times the width
    of the inner layers. The stride is the 3x3 convolution's.

    Inputs: data (N, in_channels, H, W). Outputs: (N, channels, H / stride, W / stride).
    """

    expansion = 4

    def __init__(self, in_channels, channels, stride, act_layer, act_last, attn_layer=None,
                 **kwargs):
        super().__init__(**kwargs)
        inner = channels // self.expansion
        with self.name_scope():
            self.conv1 = conv1x1(in_channels, inner)
            self.bn1 = nn.BatchNorm(in_channels=inner)
            self.act1 = act_layer(inner)
            self.conv2 = conv3x3(inner, inner, stride)
            self.bn2 = nn.BatchNorm(in_channels=inner)
            self.act2 = act_layer(inner)
            self.conv3 = conv1x1(inner, channels)
            self.bn3 = nn.BatchNorm(in_channels=channels)
            self.attn = attn_layer(channels) if attn_layer else None
            self.downsample = _projection(in_channels, channels, stride)
            self.act3 = act_last(channels)

    def hybrid_forward(self, F, x):
        shortcut = self.downsample(x) if self.downsample is not None else x

        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))

        if self.attn is not None:
            out = self.attn(out)
        return self.act3(out + shortcut)


class _PlusAttention(nn.HybridBlock):
    """x + attention(x): the slot before the classifier."""

    def __init__(self, channels, attn_layer, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.attn = attn_layer(channels)

    def hybrid_forward(self, F, x):
        return x + self.attn(x)


class ResNetV1CIFAR(nn.HybridBlock):
    """Residual network for 32x32 images, with open activation and attention slots.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}, default 18
        Number of weighted layers.
    classes : int, default 10
        Number of classes.
    activation : str or callable, default 'relu'
        Unit of the activation slots, by name or as a factory ``f(channels, **options)``.
    act_options : dict, optional
        Options of that unit.
    act_layers : int, default 4
        How many of the four stages get the unit.
    act_order : {'bac', 'pre'}, default 'bac'
        Whether the last or the first `act_layers` stages get it.
    replace_act : str or callable, default 'relu'
        Unit of the other stages, of the stem, and of the place after each addition.
    act_last : bool, default False
        Whether the chosen stages have the unit after their additions as well. By default
        they have not, as in the attentional ResNet-v1b of arXiv 2007.07729.
    attention : str, callable or sequence of these, optional
        Unit of the attention slots; a sequence has one entry for each block, in the order
        of the forward pass, and None for no unit.
    attn_options : dict, optional
        Options of that unit.
    attention_at : str or sequence of str, default ('block',)
        Which slots get it: 'block' (every block, after the last normalisation, before the
        addition), 'identity' (the same, in blocks without a projection only), 'classifier'
        (x + attention(x) on the last feature map). A sequence of units goes to 'block'.
    width : float, default 1
        Factor of all channel counts, for small machines.
    stem : {'conv3', 'conv7'}, default 'conv3'
        A 3x3 convolution, or a 7x7 one and a 3x3 max-pooling of stride 2: the stem of the
        study that compares ResNet-50 with SE and with CBAM.
    drop_rate : float, default 0
        Share of the classifier's inputs that training sets to zero.

    Raises
    ------
    UserError
        If a unit, a slot or an option is unknown or a number is out of range.

    Inputs: data (N, 3, H, W). Outputs: logits (N, classes).
    """

    def __init__(self, depth=18, classes=10, activation="relu", act_options=None, act_layers=4,
                 act_order="bac", replace_act="relu", act_last=False, attention=None,
                 attn_options=None, attention_at=("block",), width=1.0, stem="conv3", drop_rate=0.0,
                 **kwargs):
        super().__init__(**kwargs)
        check_choice("depth", depth, LAYERS)
        check_positive(classes=classes)
        check_rate(drop_rate=drop_rate)
        block, layers = Bottleneck if depth >= 50 else BasicBlock, LAYERS[depth]
        slots = _attention_slots(attention, attention_at)
        stem_channels, *stage_channels = _channels(width, block.expansion)
        self.num_blocks = sum(layers)
        plain = ACTIVATIONS.configure(replace_act)
        act_units = units_by_position(len(layers), act_layers, act_order,
                                      ACTIVATIONS.configure(activation, act_options), plain)
        attn_layers = units_by_block(
            ATTENTIONS, attention if {"block", "identity"} & set(slots) else None, attn_options,
            self.num_blocks)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            _add_stem(self.features, stem, stem_channels, plain)
            in_channels = stem_channels
            for i, (channels, count, act_layer) in enumerate(
                    zip(stage_channels, layers, act_units)):
                first = sum(layers[:i])
                make = partial(block, act_layer=act_layer,
                               act_last=act_layer if act_last else plain)
                self.features.add(_make_stage(i + 1, make, in_channels, channels,
                                              1 if i == 0 else 2,
                                              attn_layers[first:first + count],
                                              "block" in slots))
                in_channels = channels
            if "classifier" in slots:
                attn_layer = ATTENTIONS.configure(attention, attn_options)
                self.features.add(_PlusAttention(in_channels, attn_layer))
            self.features.add(GlobalMean())
            if drop_rate:
                self.features.add(nn.Dropout(drop_rate))
            self.output = nn.Dense(classes, in_units=in_channels)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


def _attention_slots(attention, attention_at):
    """The slots, checked, that `attention_at` names; none without attention."""
    slots = (attention_at,) if isinstance(attention_at, str) else tuple(attention_at)
    for slot in slots:
        if slot not in ATTENTION_SLOTS:
            raise UserError(f"attention_at must name some of {', '.join(ATTENTION_SLOTS)}, "
                             f"not {slot!r}")
    if is_sequence(attention) and slots != ("block",):
        raise UserError("a sequence of attention units goes to the slot 'block' only, "
                         f"not to {', '.join(slots) or 'none'}")
    return slots if attention else ()


def _channels(width, expansion):
    """Channels of the stem and of the four stages' outputs."""
    if not width > 0:
        raise UserError(f"width must be positive, not {width}")
    scaled = [max(round(64 * 2 ** i * width), 1) for i in range(4)]
    return [scaled[0]] + [channels * expansion for channels in scaled]


def _add_stem(features, stem, channels, act_layer):
    check_choice("stem", stem, STEMS)
    if stem == "conv3":
        features.add(conv3x3(3, channels))
    else:
        features.add(nn.Conv2D(channels, kernel_size=7, padding=3, use_bias=False, in_channels=3))
    features.add(nn.BatchNorm(in_channels=channels), act_layer(channels))
    if stem == "conv7":
        features.add(nn.MaxPool2D(pool_size=3, strides=2, padding=1))


def _make_stage(index, make_block, in_channels, channels, stride, attn_layers, at_projections):
    """One stage: a block for each entry of `attn_layers`, the first of them with `stride`."""
    stage = nn.HybridSequential(prefix=f"stage{index}_")
    with stage.name_scope():
        for attn_layer in attn_layers:
            projects = stride != 1 or in_channels != channels
            stage.add(make_block(in_channels, channels, stride,
                                 attn_layer=None if projects and not at_projections
                                 else attn_layer))
            in_channels, stride = channels, 1
    return stage


resnet18, resnet34, resnet50, resnet101, resnet152 = (
    partial(ResNetV1CIFAR, depth) for depth in LAYERS)
