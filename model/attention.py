r"""Units for attention slots: what re-weights a residual branch before the addition.

Every unit maps (N, C, H, W) to the same shape, for any H and W, by multiplying it with a
map that it reads off its input: a channel map (N, C, 1, 1), a spatial map (N, 1, H, W), or
one of the input's own shape. A unit with one map has a method ``gate(F, x)`` that returns
it; with ``F = mxnet.nd`` that is the way to look at it.

Public versions of CBAM differ in four places; each is an option of `CBAM`:

=================  =================  ===========  ============  ==============
version            statistics         bottleneck   spatial       after the
                   of spatial map     biases       bias          convolution
=================  =================  ===========  ============  ==============
elbuco1 (default)  max, mean          yes          yes           nothing
Searchable-CBAM    mean, max          yes          no            nothing
Woo et al.         max, mean          yes          no            BatchNorm
timm               mean, max          no           no            BatchNorm
=================  =================  ===========  ============  ==============
"""
import math

from mxnet.gluon import nn

from .activation import ChaATAC
from .layers import Gated, check_positive, depthwise, hidden_channels, norm_factory, same_padding
from .registry import Registry, UserError, check_choice

__all__ = ["SE", "ChannelAttention", "SpatialAttention", "CBAM", "MVAM", "ZAM", "GE", "ECA",
           "BAM", "ATTENTIONS", "get_attention", "list_attentions"]

ATTENTIONS = Registry("attention")


def get_attention(name, channels, **options):
    """Build the attention unit registered under `name`.

    Parameters
    ----------
    name : str or callable
        A name from `list_attentions` (case is ignored), or a factory that is called as
        ``name(channels, **options)``.
    channels : int
        Number of channels of the feature map that the unit will re-weight.
    **options
        The unit's own options.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps (N, channels, H, W) to the same shape.

    Raises
    ------
    UserError
        If the name is unknown, the unit has no such option, or an option is out of range.
    """
    return ATTENTIONS.configure(name, options)(channels)


def list_attentions():
    """The names that `get_attention` knows."""
    return ATTENTIONS.names()


# ---- statistics over positions: (N, C, H, W) -> (N, C, 1, 1) ----

def _mean_over_positions(F, x):
    return F.mean(x, axis=(2, 3), keepdims=True)


def _max_over_positions(F, x):
    # Unlike F.max's, of equal maxima the first gets the gradient.
    return F.Pooling(x, global_pool=True, pool_type="max")


def _variance_over_positions(F, x):
    """Unbiased variance; 0 on a map of a single position."""
    variance = _mean_over_positions(F, F.square(F.broadcast_sub(x, _mean_over_positions(F, x))))
    # How many positions there are, counted, since a symbol knows no size.
    one_channel = F.slice_axis(x, axis=1, begin=0, end=1)
    positions = F.sum(F.ones_like(one_channel), axis=(2, 3), keepdims=True)  # (N, 1, 1, 1)
    return F.broadcast_mul(variance, positions / F.maximum(positions - 1, 1))


# ---- statistics over C channels: (N, C, H, W) -> (N, 1, H, W) ----

def _mean_over_channels(F, x, channels=None):
    return F.mean(x, axis=1, keepdims=True)


def _max_over_channels(F, x, channels=None):
    # Unlike F.max's, of equal maxima the first gets the gradient.
    return F.pick(x, F.argmax(x, axis=1), axis=1, keepdims=True)


def _variance_over_channels(F, x, channels):
    """Unbiased variance; 0 for a single channel."""
    mean = F.mean(x, axis=1, keepdims=True)
    variance = F.mean(F.square(F.broadcast_sub(x, mean)), axis=1, keepdims=True)
    return variance * (channels / max(channels - 1, 1))


_OVER_POSITIONS = {"mean": _mean_over_positions, "max": _max_over_positions,
                   "var": _variance_over_positions}
_OVER_CHANNELS = {"mean": _mean_over_channels, "max": _max_over_channels,
                  "var": _variance_over_channels}


def _check_statistics(statistics, known):
    statistics = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    if not statistics:
        raise UserError(f"statistics must name at least one of {', '.join(known)}")
    for statistic in statistics:
        check_choice("statistics", statistic, known)
    return statistics


@ATTENTIONS.register("ChannelAttention")
class ChannelAttention(Gated):
    r"""The channel half of CBAM and, with other statistics, of MVAM.

    .. math:: y = x \cdot \sigma\Big(\sum_s \big(W_2\, relu(W_1 s(x) + b_1) + b_2\big)\Big)

    over statistics s of each channel; the bottleneck W is shared. S. Woo, J. Park, J.-Y. Lee,
    I. S. Kweon: CBAM, ECCV 2018, arXiv 1807.06521, section 3. With the statistic 'mean'
    alone it is `SE`.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 16
        The bottleneck has C / reduction channels, at least one.
    use_bias : bool, default True
        Whether the bottleneck's two layers have biases.
    statistics : sequence of {'mean', 'max', 'var'}, default ('mean', 'max')
        What is taken over the positions; 'var' is the unbiased variance.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=16, use_bias=True, statistics=("mean", "max"),
                 **kwargs):
        super().__init__(**kwargs)
        inter_channels = hidden_channels(channels, reduction)
        self._statistics = _check_statistics(statistics, _OVER_POSITIONS)
        with self.name_scope():
            self.fc1 = nn.Dense(inter_channels, use_bias=use_bias, in_units=channels)
            self.fc2 = nn.Dense(channels, use_bias=use_bias, in_units=inter_channels)

    def gate(self, F, x):
        """The channel map (N, C, 1, 1), in (0, 1), of x (N, C, H, W)."""
        statistics = (_OVER_POSITIONS[name](F, x) for name in self._statistics)
        first, *others = (self.fc2(F.relu(self.fc1(s))) for s in statistics)   # (N, C) each
        return F.reshape(F.sigmoid(sum(others, first)), shape=(0, 0, 1, 1))


@ATTENTIONS.register("SpatialAttention")
class SpatialAttention(Gated):
    r"""The spatial half of CBAM and, with other statistics, of MVAM.

    .. math:: y = x \cdot \sigma(W [s_1(x), s_2(x)])

    with a k x k convolution W over statistics s of each position. Woo et al., CBAM, ECCV
    2018, arXiv 1807.06521, section 3.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kernel_size : int, default 7
        Side k of the convolution; odd.
    statistics : sequence of {'mean', 'max', 'var'}, default ('max', 'mean')
        What is taken over the channels, in the order of the convolution's inputs; 'var' is
        the unbiased variance.
    use_bias : bool, default True
        Whether the convolution has a bias.
    use_norm : bool, default False
        Whether a normalisation follows the convolution.
    norm_layer : callable, default BatchNorm
        That normalisation, called with ``in_channels=`` and `norm_kwargs`.
    norm_kwargs : dict, optional
        Options of `norm_layer`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, kernel_size=7, statistics=("max", "mean"), use_bias=True,
                 use_norm=False, norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        self._channels = channels
        self._statistics = _check_statistics(statistics, _OVER_CHANNELS)
        with self.name_scope():
            self.conv = nn.Conv2D(1, kernel_size, padding=same_padding(kernel_size),
                                  use_bias=use_bias, in_channels=len(self._statistics))
            self.norm = norm_factory(norm_layer, norm_kwargs)(1) if use_norm else None

    def gate(self, F, x):
        """The spatial map (N, 1, H, W), in (0, 1), of x (N, C, H, W)."""
        maps = [_OVER_CHANNELS[statistic](F, x, self._channels)
                for statistic in self._statistics]
        logit = self.conv(F.concat(*maps, dim=1))
        if self.norm is not None:
            logit = self.norm(logit)
        return F.sigmoid(logit)


_ORDERS = ("channel-spatial", "spatial-channel")


class _TwoHalves(nn.HybridBlock):
    """A channel and a spatial unit, `channel` and `spatial`, one after the other.

    With `skip`, each adds its input to its output.
    """

    def __init__(self, order, skip=False, **kwargs):
        super().__init__(**kwargs)
        check_choice("order", order, _ORDERS)
        self._order, self._skip = order, skip

    def hybrid_forward(self, F, x):
        halves = (self.channel, self.spatial)
        for half in halves if self._order == "channel-spatial" else reversed(halves):
            x = half(x) + x if self._skip else half(x)
        return x


@ATTENTIONS.register("CBAM")
class CBAM(_TwoHalves):
    """Convolutional block attention: channel attention, then spatial attention.

    S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, ECCV 2018, arXiv 1807.06521. The defaults are
    those of elbuco1/CBAM, the study of CBAM in CIFAR ResNets that this project repeats; the
    module's docstring tells how other public versions differ.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 16
        The channel bottleneck has C / reduction channels, at least one.
    kernel_size : int, default 7
        Side of the spatial convolution; odd.
    order : {'channel-spatial', 'spatial-channel'}, default 'channel-spatial'
        Which half comes first.
    use_bias : bool, default True
        Whether the channel bottleneck has biases.
    channel_statistics : sequence of {'mean', 'max', 'var'}, default ('mean', 'max')
        What the channel map is made of.
    spatial_statistics : sequence of {'mean', 'max', 'var'}, default ('max', 'mean')
        What the spatial map is made of, in the order of the convolution's inputs.
    spatial_bias : bool, default True
        Whether the spatial convolution has a bias.
    spatial_norm : bool, default False
        Whether a normalisation follows the spatial convolution.
    norm_layer, norm_kwargs
        That normalisation, as in `SpatialAttention`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=16, kernel_size=7, order="channel-spatial",
                 use_bias=True, channel_statistics=("mean", "max"),
                 spatial_statistics=("max", "mean"), spatial_bias=True, spatial_norm=False,
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(order, **kwargs)
        with self.name_scope():
            self.channel = ChannelAttention(channels, reduction, use_bias, channel_statistics)
            self.spatial = SpatialAttention(channels, kernel_size, spatial_statistics,
                                            spatial_bias, spatial_norm, norm_layer, norm_kwargs)


@ATTENTIONS.register("MVAM")
class MVAM(CBAM):
    """CBAM with mean and unbiased variance in place of mean and maximum.

    From chrisqqq123/Searchable-CBAM, whose defaults these are: a 3x3 spatial convolution
    without bias.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 16
        The channel bottleneck has C / reduction channels, at least one.
    kernel_size : int, default 3
        Side of the spatial convolution; odd.
    order : {'channel-spatial', 'spatial-channel'}, default 'channel-spatial'
        Which half comes first.
    use_bias : bool, default True
        Whether the channel bottleneck has biases.
    spatial_bias : bool, default False
        Whether the spatial convolution has a bias.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=16, kernel_size=3, order="channel-spatial",
                 use_bias=True, spatial_bias=False, **kwargs):
        super().__init__(channels, reduction, kernel_size, order, use_bias, ("mean", "var"),
                         ("mean", "var"), spatial_bias, **kwargs)


class _ParameterFreeGate(Gated):
    def __init__(self, mean, maximum, **kwargs):
        super().__init__(**kwargs)
        self._mean, self._maximum = mean, maximum

    def gate(self, F, x):
        return F.sigmoid(self._mean(F, x) + self._maximum(F, x))


@ATTENTIONS.register("ZAM")
class ZAM(_TwoHalves):
    r"""Attention without parameters: channel, then spatial, each with its map

    .. math:: \sigma(mean(x) + max(x)).

    From chrisqqq123/Searchable-CBAM.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    skip : bool, default False
        Whether each half adds its input to its output.
    order : {'channel-spatial', 'spatial-channel'}, default 'channel-spatial'
        Which half comes first.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, skip=False, order="channel-spatial", **kwargs):
        super().__init__(order, skip, **kwargs)
        check_positive(channels=channels)
        with self.name_scope():
            self.channel = _ParameterFreeGate(_mean_over_positions, _max_over_positions)
            self.spatial = _ParameterFreeGate(_mean_over_channels, _max_over_channels)


@ATTENTIONS.register("SE")
class SE(ChannelAttention):
    r"""Squeeze-and-excitation.

    .. math:: y = x \cdot \sigma(W_2\, relu(W_1 mean(x) + b_1) + b_2)

    J. Hu, L. Shen, G. Sun: Squeeze-and-Excitation Networks, CVPR 2018, arXiv 1709.01507.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 16
        The paper's ratio: the bottleneck has C / reduction channels, at least one.
    use_bias : bool, default True
        Whether the two layers have biases.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=16, use_bias=True, **kwargs):
        super().__init__(channels, reduction, use_bias, ("mean",), **kwargs)


@ATTENTIONS.register("ECA")
class ECA(Gated):
    r"""Efficient channel attention: each channel's gate looks at its k neighbours.

    .. math:: y = x \cdot \sigma(w * mean(x)), \quad
              k = \Big|\frac{\log_2 C + b}{\gamma}\Big|_{odd}

    with one k-tap convolution w along the channels. Q. Wang et al.: ECA-Net, CVPR 2020,
    arXiv 1910.03151, section 3.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kernel_size : int, optional
        The convolution's k; odd. None: from C, by the formula above, rounded down and then
        up to an odd number, as the authors' code does.
    gamma, b : number, default 2 and 1
        Constants of that formula.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, kernel_size=None, gamma=2, b=1, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        if kernel_size is None:
            kernel_size = int(abs((math.log2(channels) + b) / gamma)) | 1    # the odd one
        with self.name_scope():
            self.conv = nn.Conv1D(1, kernel_size, padding=same_padding(kernel_size),
                                  use_bias=False, in_channels=1)

    def gate(self, F, x):
        """The channel map (N, C, 1, 1), in (0, 1), of x (N, C, H, W)."""
        row = F.expand_dims(F.mean(x, axis=(2, 3)), axis=1)  # (N, 1, C)
        logit = F.reshape(self.conv(row), shape=(0, -1, 1, 1))
        return F.sigmoid(logit)


_VARIANTS = ("theta-", "theta", "theta+")
_EXTENTS = ("global", 2, 4, 8)


@ATTENTIONS.register("GE")
class GE(Gated):
    r"""Gather-excite.

    .. math:: y = x \cdot \sigma(upsample(excite(gather(x))))

    J. Hu, L. Shen, S. Albanie, G. Sun, A. Vedaldi: Gather-Excite, NeurIPS 2018, arXiv
    1810.12348, section 2. Gathering takes the mean of a neighbourhood (theta-), or learns it
    with depth-wise convolutions, each followed by a normalisation (theta, theta+); exciting
    passes the result on (theta-, theta) or through a bottleneck (theta+).

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    variant : {'theta-', 'theta', 'theta+'}, default 'theta-'
        What is learned; theta- has no parameters.
    extent : {'global', 2, 4, 8}, default 'global'
        Ratio e of the neighbourhood: local ones have side 2 e - 1 and distance e. Each cell
        of the gathered map gates the e x e positions that start at its own.
    reduction : int, default 16
        Bottleneck of theta+: C / reduction channels, at least one.
    size : int or (int, int), optional
        Height and width of the feature map, for theta and theta+ of global extent: the
        paper's depth-wise convolution with a kernel as large as the map, which ties the unit
        to that size. None, our departure: one weight per channel for all positions, that is
        the mean times a learned factor, for maps of any size.
    norm_layer : callable, default BatchNorm
        Normalisation of the learned gathering, called with ``in_channels=`` and
        `norm_kwargs`.
    norm_kwargs : dict, optional
        Options of `norm_layer`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, variant="theta-", extent="global", reduction=16, size=None,
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        check_choice("variant", variant, _VARIANTS)
        check_choice("extent", extent, _EXTENTS)
        if size is not None and (extent != "global" or variant == "theta-"):
            raise UserError("size belongs to the variants theta and theta+ of global extent")
        self._extent = extent
        self._takes_mean = extent == "global" and size is None
        with self.name_scope():
            self.gather = nn.HybridSequential(prefix="gather_")
            with self.gather.name_scope():
                if variant != "theta-":
                    self._add_convolutions(channels, size, norm_factory(norm_layer, norm_kwargs))
                elif extent != "global":
                    self.gather.add(nn.AvgPool2D(2 * extent - 1, strides=extent,
                                                 padding=extent - 1, count_include_pad=False))
            self.excite = None
            if variant == "theta+":
                self.excite = _bottleneck(channels, reduction, "excite_")

    def _add_convolutions(self, channels, size, norm):
        if self._extent == "global":
            self.gather.add(depthwise(channels, size or 1, padding=0), norm(channels))
            return
        for halving in range(self._extent.bit_length() - 1):    # log2 of the extent
            if halving:
                self.gather.add(nn.Activation("relu"))
            self.gather.add(depthwise(channels, 3, stride=2), norm(channels))

    def gate(self, F, x):
        """The gate, in (0, 1), of x (N, C, H, W): (N, C, 1, 1), or x's shape if local."""
        start = _mean_over_positions(F, x) if self._takes_mean else x
        logit = self.gather(start)                                     # (N, C, H / e, W / e)
        if self.excite is not None:
            logit = self.excite(logit)
        gate = F.sigmoid(logit)
        if self._extent == "global":
            return gate
        # To the nearest: the sigmoid may come before, where there is less to compute.
        gate = F.UpSampling(gate, scale=self._extent, sample_type="nearest")
        return F.slice_like(gate, x, axes=(2, 3))


def _bottleneck(channels, reduction, prefix):
    """Two point-wise layers with biases and a ReLU between, as a HybridSequential."""
    inter_channels = hidden_channels(channels, reduction)
    layers = nn.HybridSequential(prefix=prefix)
    with layers.name_scope():
        layers.add(nn.Conv2D(inter_channels, 1, in_channels=channels),
                   nn.Activation("relu"),
                   nn.Conv2D(channels, 1, in_channels=inter_channels))
    return layers


@ATTENTIONS.register("BAM")
class BAM(nn.HybridBlock):
    r"""Bottleneck attention: channel and spatial context summed into one gate.

    .. math:: y = x + x \cdot \sigma(M_c(x) + M_s(x))

    M_c(x) = BN(W2 relu(W1 mean(x) + b1) + b2) is (N, C, 1, 1); M_s(x) is (N, 1, H, W): a
    point-wise convolution to C / r channels, two dilated 3x3 convolutions, and a point-wise one
    to one channel. J. Park, S. Woo, J.-Y. Lee, I. S. Kweon: BAM, BMVC 2018, arXiv 1807.06514,
    section 3. As in the authors' code, a normalisation and a ReLU follow each inner
    convolution of M_s; as in the paper, each branch ends in a normalisation and the branches
    are added.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 16
        The paper's r: both branches have C / r inner channels, at least one.
    dilation : int, default 4
        Spacing of the 3x3 convolutions' points.
    norm_layer : callable, default BatchNorm
        Normalisation, called with ``in_channels=`` and `norm_kwargs`.
    norm_kwargs : dict, optional
        Options of `norm_layer`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=16, dilation=4, norm_layer=nn.BatchNorm,
                 norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        inter_channels = hidden_channels(channels, reduction)
        padding = same_padding(3, dilation)
        norm = norm_factory(norm_layer, norm_kwargs)
        with self.name_scope():
            self.channel = _bottleneck(channels, reduction, "channel_")
            with self.channel.name_scope():
                self.channel.add(norm(channels))
            self.spatial = nn.HybridSequential(prefix="spatial_")
            with self.spatial.name_scope():
                in_channels = channels
                for options in ({"kernel_size": 1},) + 2 * (
                        {"kernel_size": 3, "padding": padding, "dilation": dilation},):
                    self.spatial.add(nn.Conv2D(inter_channels, in_channels=in_channels, **options),
                                     norm(inter_channels),
                                     nn.Activation("relu"))
                    in_channels = inter_channels
                self.spatial.add(nn.Conv2D(1, 1, in_channels=inter_channels),
                                 norm(1))

    def gate(self, F, x):
        """The gate (N, C, H, W), in (0, 1), of x (N, C, H, W)."""
        return F.sigmoid(F.broadcast_add(self.channel(_mean_over_positions(F, x)), self.spatial(x)))

    def hybrid_forward(self, F, x):
        return x + x * self.gate(F, x)


# The paper's micro-against-macro ablation: the activation's local gate, after the block.
ATTENTIONS.register("ATAC")(ChaATAC)
