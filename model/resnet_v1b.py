"""The paper's ImageNet host: GluonCV's ResNet-v1b with its slots open.

K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385, in
the variant whose stride sits in the bottleneck's 3x3 convolution. Dai et al., Attention as
Activation (arXiv 2007.07729, section IV-D), replace both activations inside the bottlenecks
of the last two stages; the one after the addition stays a ReLU.

GluonCV builds the network (stem, stages, dilation, shortcuts); the blocks here add the slots.
This is the only module of the package, with the networks that build on it, that needs
GluonCV.
"""
import inspect
import math
from functools import partial

from gluoncv.model_zoo import resnetv1b
from mxnet.gluon import contrib, nn

from .activation import ACTIVATIONS
from .attention import ATTENTIONS
from .layers import LAYERS, check_positive, check_rate
from .registry import Registry, UserError, check_choice
from .slots import units_by_position

__all__ = ["ResNetV1b", "BasicBlock", "Bottleneck", "GroupNorm", "NORMS",
           "resnet18_v1b", "resnet34_v1b", "resnet50_v1b", "resnet101_v1b", "resnet152_v1b",
           "resnet50_v1b_atac"]

NORMS = Registry("normalisation")
NORMS.register("BatchNorm")(nn.BatchNorm)
NORMS.register("SyncBatchNorm")(contrib.nn.SyncBatchNorm)


@NORMS.register("GroupNorm")
class GroupNorm(nn.HybridBlock):
    """Group normalisation with a scale and a shift for every channel.

    Y. Wu, K. He: Group Normalization, ECCV 2018, arXiv 1803.08494. Gluon's own has one scale
    for each group and takes no channel count; GluonCV's reads the batch size in Python and
    cannot become a symbol. Parameter names are those of the latter, so its files load.

    Parameters
    ----------
    in_channels : int
        Number of channels.
    num_groups : int, default 32
        Groups; where it does not divide the channels (the narrow inside of a unit), their
        greatest common divisor.
    epsilon : float, default 1e-5
        Added to the variance.
    gamma_initializer, beta_initializer : str or Initializer
        Of the scale and of the shift.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, in_channels, num_groups=32, epsilon=1e-5, gamma_initializer="ones",
                 beta_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        check_positive(in_channels=in_channels, num_groups=num_groups)
        self._groups = math.gcd(in_channels, num_groups)
        self._epsilon = epsilon
        with self.name_scope():
            self.gamma = self.params.get("gamma", shape=(in_channels,), init=gamma_initializer)
            self.beta = self.params.get("beta", shape=(in_channels,), init=beta_initializer)

    def hybrid_forward(self, F, x, gamma, beta):
        groups = F.reshape(x, shape=(0, self._groups, -1))             # (N, G, C / G * H * W)
        centred = F.broadcast_sub(groups, F.mean(groups, axis=2, keepdims=True))
        variance = F.mean(F.square(centred), axis=2, keepdims=True)    # (N, G, 1)
        out = F.broadcast_mul(centred, F.rsqrt(variance + self._epsilon))
        out = F.reshape_like(out, x)
        out = F.broadcast_mul(out, F.reshape(gamma, shape=(1, -1, 1, 1)))
        return F.broadcast_add(out, F.reshape(beta, shape=(1, -1, 1, 1)))


def replace_child(block, name, child):
    """Put `child` where `block` has a child of another type, which Gluon's assignment refuses.

    The child becomes the last one: the authors' files list a block's units after its
    convolutions.
    """
    delattr(block, name)
    del block._children[name]
    setattr(block, name, child)


class _Slotted:
    """What both kinds of block share: the slots, empty until `fill` is called."""

    slots = ()

    def fill(self, act_layer, attn_layer=None):
        """Fill the activation slots and the attention slot.

        Parameters
        ----------
        act_layer : callable
            ``act_layer(channels)`` -> the unit of an activation slot.
        attn_layer : callable, optional
            ``attn_layer(channels)`` -> the unit after the last normalisation, before the
            addition. None: no such unit.
        """
        for slot in self.slots:
            replace_child(self, slot, act_layer(self.channels))
        if attn_layer is not None:
            self.attn = attn_layer(self.channels * self.expansion)


class BasicBlock(_Slotted, resnetv1b.BasicBlockV1b):
    """Two 3x3 convolutions; the activation slot is ``relu1``.

    Parameters are GluonCV's; `last_gamma`, which GluonCV's basic block ignores, acts.

    Inputs: data (N, C, H, W). Outputs: (N, channels, H / strides, W / strides).
    """

    slots = ("relu1",)

    def __init__(self, channels, *args, last_gamma=False, **kwargs):
        super().__init__(channels, *args, **kwargs)
        self.channels = channels
        self.attn = None
        if last_gamma:
            self.bn2.gamma.init = "zeros"

    def hybrid_forward(self, F, x):
        shortcut = x if self.downsample is None else self.downsample(x)

        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))

        if self.attn is not None:
            out = self.attn(out)
        return self.relu2(out + shortcut)


class Bottleneck(_Slotted, resnetv1b.BottleneckV1b):
    """1x1, 3x3 and 1x1 convolution; the activation slots are ``relu1`` and ``relu2``.

    Parameters are GluonCV's; `channels` is the width inside, a quarter of the output's.

    Inputs: data (N, C, H, W). Outputs: (N, 4 * channels, H / strides, W / strides).
    """

    slots = ("relu1", "relu2")

    def __init__(self, channels, *args, **kwargs):
        super().__init__(channels, *args, **kwargs)
        self.channels = channels
        self.attn = None

    def hybrid_forward(self, F, x):
        shortcut = x if self.downsample is None else self.downsample(x)

        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))

        if self.attn is not None:
            out = self.attn(out)
        return self.relu3(out + shortcut)


def _normalised_unit(registry, what, options, norm):
    """A factory of units; one that normalises gets the network's own normalisation."""
    factory = registry.resolve(what)
    accepted = inspect.signature(factory).parameters
    own = {name: value for name, value in norm.items() if name in accepted}
    return registry.configure(what, {**own, **(options or {})})


class ResNetV1b(resnetv1b.ResNetV1b):
    """ResNet-v1b whose blocks have slots for activations and attention.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}, default 50
        Up to 34 basic blocks, from 50 on bottlenecks.
    classes : int, default 1000
        Number of classes.
    activation : str or callable, default 'relu'
        Unit of the chosen stages' activation slots, by name or as ``f(channels, **options)``.
    act_options : dict, optional
        Options of that unit (``reduction``, ``use_relu``, ...).
    act_layers : int, default 2
        How many of the four stages get the unit.
    act_order : {'bac', 'pre'}, default 'bac'
        Whether the last or the first `act_layers` stages get it.
    replace_act : str or callable, default 'relu'
        Unit of the other stages.
    attention : str or callable, optional
        Unit of every block's attention slot.
    attn_options : dict, optional
        Options of that unit.
    norm_layer : {'BatchNorm', 'SyncBatchNorm', 'GroupNorm'} or callable
        Normalisation, called as ``f(in_channels=C, **norm_kwargs)``; the units' own too.
    norm_kwargs : dict, optional
        Its options (``epsilon``, ``num_devices``, ``num_groups``, ...); left as it is.
    last_gamma : bool, default False
        Whether each block's last normalisation starts at scale 0, the block as an identity.
    deep_stem : bool, default False
        Three 3x3 convolutions in place of the 7x7 one.
    stem_width : int, default 32
        Channels of the deep stem's first two convolutions; the third has twice as many.
    avg_down : bool, default False
        Average pooling before the 1x1 convolution of a shortcut, in place of its stride.
    dilated : bool, default False
        Dilation instead of stride in the last two stages: maps of 1/8 of the image's side.
    final_drop : float, default 0
        Dropout rate before the classifier, in [0, 1).
    use_global_stats : bool, default False
        Batch normalisation by its running statistics also in training.
    layers : sequence of 4 int, optional
        Blocks in each stage, in place of the depth's own.

    Raises
    ------
    UserError
        If a unit or a normalisation is unknown or a number is out of range.

    Inputs: data (N, 3, H, W), any H and W. Outputs: logits (N, classes).
    """

    def __init__(self, depth=50, classes=1000, activation="relu", act_options=None,
                 act_layers=2, act_order="bac", replace_act="relu", attention=None,
                 attn_options=None, norm_layer="BatchNorm", norm_kwargs=None, last_gamma=False,
                 deep_stem=False, stem_width=32, avg_down=False, dilated=False, final_drop=0.0,
                 use_global_stats=False, layers=None, prefix=None):
        layers = _check(depth, classes, stem_width, final_drop, layers)
        norm_layer = NORMS.resolve(norm_layer)
        norm_kwargs = dict(norm_kwargs or {})
        if use_global_stats:
            norm_kwargs["use_global_stats"] = True
        norm = {"norm_layer": norm_layer, "norm_kwargs": norm_kwargs}
        unit = _normalised_unit(ACTIVATIONS, activation, act_options, norm)
        plain = _normalised_unit(ACTIVATIONS, replace_act, None, norm)
        attn_layer = None
        if attention is not None:
            attn_layer = _normalised_unit(ATTENTIONS, attention, attn_options, norm)
        act_layers = units_by_position(4, act_layers, act_order, unit, plain)

        super().__init__(Bottleneck if depth >= 50 else BasicBlock, layers, classes=classes,
                         dilated=dilated, last_gamma=last_gamma, deep_stem=deep_stem,
                         stem_width=stem_width, avg_down=avg_down, final_drop=final_drop,
                         name_prefix=prefix, **norm)
        for i, stage in enumerate(self.stages()):
            with stage.name_scope():
                for block in stage:
                    block.fill(act_layers[i], attn_layer)

    def stages(self):
        """The four stages, in the order of the forward pass."""
        return self.layer1, self.layer2, self.layer3, self.layer4


def _check(depth, classes, stem_width, final_drop, layers):
    """Blocks per stage, after checks of the numbers that GluonCV does not check."""
    check_choice("depth", depth, LAYERS)
    check_positive(classes=classes, stem_width=stem_width)
    check_rate(final_drop=final_drop)
    layers = LAYERS[depth] if layers is None else tuple(layers)
    if len(layers) != 4:
        raise UserError(f"layers must name the blocks of 4 stages, not {len(layers)}")
    for blocks in layers:
        check_positive(layers=blocks)
    return layers


resnet18_v1b, resnet34_v1b, resnet50_v1b, resnet101_v1b, resnet152_v1b = (
    partial(ResNetV1b, depth) for depth in LAYERS)
# The paper's ImageNet network: ATAC units (r = 2) in the last two stages.
resnet50_v1b_atac = partial(ResNetV1b, 50, activation="ChaATAC", last_gamma=True)
