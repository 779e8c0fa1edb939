"""Units for activation slots: what may stand where a ReLU stood.

Y. Dai, S. Oehmcke, F. Gieseke, Y. Wu, K. Barnard: Attention as Activation, ICPR 2020,
https://arxiv.org/abs/2007.07729. An activation multiplies a feature map by a gate. ReLU's
gate looks at one number; an attentional activation's gate looks at the context around it:

    ATAC(x) = x * sigmoid(BN(W2 relu(BN(W1 x))))          (section III)

with point-wise convolutions W1 (C -> C/r) and W2 (C/r -> C): channel context, taken at
every position by itself, so that the unit is as local as an activation.

Every unit maps (N, C, H, W) to the same shape, for any H and W. Children keep the
structural names of the authors' code (``module.0.weight`` ...), so its files load.
"""
from functools import partial

from mxnet.gluon import nn

from .layers import (
    Gated,
    check_positive,
    conv1x1,
    depthwise,
    hidden_channels,
    norm_factory,
    same_padding,
)
from .registry import Registry, check_choice

__all__ = ["ChaATAC", "SpaATAC", "SeqATAC", "xUnit", "xUnitS", "Mish", "ACTIVATIONS",
           "get_activation", "list_activations"]

ACTIVATIONS = Registry("activation")


def get_activation(name, channels, **options):
    """Build the activation unit registered under `name`.

    Parameters
    ----------
    name : str or callable
        A name from `list_activations` (case is ignored), or a factory that is called as
        ``name(channels, **options)``.
    channels : int
        Number of channels of the feature map that the unit will gate.
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
    return ACTIVATIONS.configure(name, options)(channels)


def list_activations():
    """The names that `get_activation` knows."""
    return ACTIVATIONS.names()


class _SigmoidGated(Gated):
    """y = x * sigmoid(module(x))."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.module = nn.HybridSequential(prefix="")

    def gate(self, F, x):
        """The gate, in (0, 1), of x (N, C, H, W); of the same shape, or (N, C, 1, 1)."""
        return F.sigmoid(self.module(x))


@ACTIVATIONS.register("ChaATAC")
class ChaATAC(_SigmoidGated):
    r"""Channel-wise attentional activation.

    .. math:: y = x \cdot \sigma(BN(W_2\, relu(BN(W_1 x))))

    Dai et al., Attention as Activation, ICPR 2020, section III, arXiv 2007.07729.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 2
        The paper's r: the bottleneck has C / r channels, at least one.
    use_relu : bool, default True
        Whether a ReLU follows the first normalisation (the paper's ablation leaves it out).
    use_global : bool, default False
        Average over all positions first: the paper's SEActivation ablation, a gate of shape
        (N, C, 1, 1).
    norm_layer : callable, default BatchNorm
        The network's normalisation, called with ``in_channels=`` and `norm_kwargs`.
    norm_kwargs : dict, optional
        Options of `norm_layer`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=2, use_relu=True, use_global=False,
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        inter_channels = hidden_channels(channels, reduction)
        norm = norm_factory(norm_layer, norm_kwargs)
        with self.module.name_scope():
            if use_global:
                self.module.add(nn.GlobalAvgPool2D())
            self.module.add(conv1x1(channels, inter_channels), norm(inter_channels))
            if use_relu:
                self.module.add(nn.Activation("relu"))
            self.module.add(conv1x1(inter_channels, channels), norm(channels))


@ACTIVATIONS.register("SpaATAC")
class SpaATAC(_SigmoidGated):
    r"""Spatial attentional activation: each channel's gate looks at its own surroundings.

    .. math:: y = x \cdot \sigma(BN(D_2\, relu(BN(D_1 x))))

    with depth-wise k x k convolutions D. The authors' code names this unit but no public
    definition of it exists: this is our reconstruction, ATAC's two-layer gate (arXiv
    2007.07729, section III) with spatial instead of channel context.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kernel_size : int, default 3
        Side k of the neighbourhood; odd.
    dilation : int, default 1
        Spacing of the neighbourhood's points.
    use_relu : bool, default True
        Whether a ReLU follows the first normalisation.
    norm_layer, norm_kwargs
        As in `ChaATAC`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, kernel_size=3, dilation=1, use_relu=True,
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        norm = norm_factory(norm_layer, norm_kwargs)
        with self.module.name_scope():
            self.module.add(depthwise(channels, kernel_size, dilation), norm(channels))
            if use_relu:
                self.module.add(nn.Activation("relu"))
            self.module.add(depthwise(channels, kernel_size, dilation), norm(channels))


@ACTIVATIONS.register("SeqATAC")
class SeqATAC(_SigmoidGated):
    r"""Spatial, then channel context in one gate.

    .. math:: y = x \cdot \sigma(BN(W_2\, relu(BN(W_1\, BN(D x)))))

    with a depth-wise k x k convolution D and point-wise W1 (C -> C/r), W2 (C/r -> C). The
    authors' code names this unit but no public definition of it exists: this is our
    reconstruction from arXiv 2007.07729, section III.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    reduction : int, default 2
        The bottleneck has C / r channels, at least one.
    kernel_size : int, default 3
        Side k of the neighbourhood; odd.
    dilation : int, default 1
        Spacing of the neighbourhood's points.
    use_relu : bool, default True
        Whether a ReLU follows the bottleneck's normalisation.
    norm_layer, norm_kwargs
        As in `ChaATAC`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, reduction=2, kernel_size=3, dilation=1, use_relu=True,
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        inter_channels = hidden_channels(channels, reduction)
        norm = norm_factory(norm_layer, norm_kwargs)
        with self.module.name_scope():
            self.module.add(depthwise(channels, kernel_size, dilation), norm(channels),
                            conv1x1(channels, inter_channels), norm(inter_channels))
            if use_relu:
                self.module.add(nn.Activation("relu"))
            self.module.add(conv1x1(inter_channels, channels), norm(channels))


# The gates of xUnit: what turns the spatial response z into a weight in (0, 1].
_XUNIT_GATES = {
    "gaussian": lambda F, z: F.exp(-F.square(z)),
    "sigmoid": lambda F, z: F.sigmoid(z),
}


@ACTIVATIONS.register("xUnit")
class xUnit(Gated):  # noqa: N801  (the published name)
    r"""Spatial activation of Kligvasser et al.

    .. math:: y = x \cdot \exp(-z^2), \quad z = BN(D\, relu(BN(x)))

    with a depth-wise k x k convolution D. I. Kligvasser, T. Rott Shaham, T. Michaeli:
    xUnit: Learning a Spatial Activation Function for Efficient Image Restoration, CVPR 2018,
    https://arxiv.org/abs/1711.06445, section 3.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kernel_size : int, default 9
        Side k of the depth-wise convolution; odd. 9 is the publication's.
    gate : {'gaussian', 'sigmoid'}, default 'gaussian'
        What maps z to a weight: exp(-z^2), or a sigmoid.
    norm_layer, norm_kwargs
        As in `ChaATAC`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, kernel_size=9, gate="gaussian",
                 norm_layer=nn.BatchNorm, norm_kwargs=None, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        check_choice("gate", gate, _XUNIT_GATES)
        norm = norm_factory(norm_layer, norm_kwargs)
        self._to_gate = _XUNIT_GATES[gate]
        with self.name_scope():
            self.module = nn.HybridSequential(prefix="")
            self.module.add(norm(channels),
                            nn.Activation("relu"),
                            depthwise(channels, kernel_size), norm(channels))

    def gate(self, F, x):
        """The gate, in (0, 1], of x (N, C, H, W); of the same shape."""
        return self._to_gate(F, self.module(x))


@ACTIVATIONS.register("xUnitS")
class xUnitS(_SigmoidGated):  # noqa: N801  (the published name)
    r"""The slim xUnit: what the ATAC paper's xUnit is, by its count of parameters.

    .. math:: y = x \cdot \sigma(BN(D x + b))

    with a depth-wise k x k convolution D and its bias b. Defined in the code of xUnit's authors
    (github.com/kligvasser/xUnit, ``xUnitS``). That it is the xUnit of "Attention as Activation"
    is inferred: there the parameter axis gives 12 trained parameters a channel, which are those
    of k = 3 (9 weights, a bias, scale and shift); `xUnit` has 85, or 13 with k = 3.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kernel_size : int, default 3
        Side k of the depth-wise convolution; odd.
    norm_layer, norm_kwargs
        As in `ChaATAC`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, kernel_size=3, norm_layer=nn.BatchNorm, norm_kwargs=None,
                 **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)
        with self.module.name_scope():
            self.module.add(nn.Conv2D(channels, kernel_size, padding=same_padding(kernel_size),
                                      groups=channels, in_channels=channels),
                            norm_factory(norm_layer, norm_kwargs)(channels))


def _register_gluon(name, build_block):
    """File one of Gluon's own activations under `name`.

    They need no channel count; the adaptor takes and ignores it, so that no host asks which
    kind of unit it has.
    """
    @ACTIVATIONS.register(name)
    def build(channels, **options):
        check_positive(channels=channels)
        return build_block(**options)
    build.__wrapped__ = build_block    # so that its options are known


_register_gluon("relu", partial(nn.Activation, "relu"))
_register_gluon("prelu", nn.PReLU)
_register_gluon("elu", nn.ELU)
_register_gluon("selu", nn.SELU)
_register_gluon("gelu", nn.GELU)
_register_gluon("swish", nn.Swish)


@ACTIVATIONS.register("mish")
class Mish(nn.HybridBlock):
    r"""The self-regularised activation :math:`y = x \tanh(softplus(x))`.

    D. Misra: Mish, BMVC 2020, https://arxiv.org/abs/1908.08681.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels)

    def hybrid_forward(self, F, x):
        return x * F.tanh(F.Activation(x, act_type="softrelu"))
