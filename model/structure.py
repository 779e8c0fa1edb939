"""Attention whose structure is learned, and what is made of it.

In every block, channel attention CA and spatial attention SA are offered in five ways:
left out, one after the other in either order, or one alone. X(+)Y means X first, then Y.
A weight for each way, p = softmax(alpha), is learned beside the network (first-order DARTS:
H. Liu, K. Simonyan, Y. Yang, ICLR 2019, arXiv 1806.09055); the way of largest weight is then
kept and the network trained anew. After chrisqqq123/Searchable-CBAM, with which values and
gradients agree.
"""
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from mxnet.gluon import nn

from .attention import CBAM, ChannelAttention, SpatialAttention
from .registry import UserError, check_choice

__all__ = ["SEARCHED", "OPERATIONS", "KINDS", "SearchableAttention", "ParallelAttention",
           "searchable_units", "derive", "structure_unit", "Structure"]

# The operations of the search, in the order of alpha, and those that can be derived.
SEARCHED = ("identity", "CA(+)SA", "SA(+)CA", "CA", "SA")
OPERATIONS = (*SEARCHED, "CA||SA")

# Statistics that the maps of each kind are made of.
KINDS = {"CBAM": ("mean", "max"), "MVAM": ("mean", "var")}

_FORMAT = "attention-structure 1"
# Type and largest value of the units' options; the units themselves check the rest.
_UNIT_OPTIONS = {"reduction": (int, 4096), "kernel_size": (int, 255), "use_bias": (bool, True),
                 "spatial_bias": (bool, True)}
# Types of the fields of a structure file.
_TYPES = {"network": str, "kind": str, "operations": list, "unit_options": dict, "search": dict}
_ORDERS = {"CA(+)SA": "channel-spatial", "SA(+)CA": "spatial-channel"}


def _kind_statistics(kind):
    check_choice("kind", kind, KINDS)
    return KINDS[kind]


def _check_operation(operation):
    if operation not in OPERATIONS:
        raise UserError(f"unknown operation {operation!r}. Known: {', '.join(OPERATIONS)}.")


class _ChannelAndSpatial(nn.HybridBlock):
    """A channel and a spatial unit, `channel` and `spatial`, whose maps are of one kind."""

    def __init__(self, channels, kind="CBAM", reduction=16, kernel_size=3, use_bias=True,
                 spatial_bias=False, **kwargs):
        super().__init__(**kwargs)
        statistics = _kind_statistics(kind)
        with self.name_scope():
            self.channel = ChannelAttention(channels, reduction, use_bias, statistics,
                                            prefix="channel_")
            self.spatial = SpatialAttention(channels, kernel_size, statistics, spatial_bias,
                                            prefix="spatial_")


def _ones(F, x):
    """Ones for each channel of x (N, C, H, W), (N, C, 1), and each position, (N, 1, H W)."""
    corner = F.slice_axis(F.slice_axis(x, axis=2, begin=0, end=1), axis=3, begin=0, end=1)
    one_channel = F.slice_axis(x, axis=1, begin=0, end=1)
    return (F.reshape(F.ones_like(corner), shape=(0, 0, -1)),
            F.reshape(F.ones_like(one_channel), shape=(0, 0, -1)))


class SearchableAttention(_ChannelAndSpatial):
    r"""All operations at once, weighted by p = softmax(alpha).

    .. math:: y = p_0 x + p_1 SA(CA(x)) + p_2 CA(SA(x)) + p_3 CA(x) + p_4 SA(x)

    CA and SA are one shared unit each and multiply their input by their map. So all five terms
    multiply x, by maps that are outer products of a vector over channels, (N, C, 1), and one
    over positions, (N, 1, H W). Their sum is therefore one gate, a single product of matrices,
    and x is multiplied once.

    The network's own weights and `alpha` have separate optimizers.

    Parameters
    ----------
    channels : int
        Channels C of the feature map.
    kind : {'CBAM', 'MVAM'}, default 'CBAM'
        Maps of mean and maximum, or of mean and unbiased variance.
    reduction : int, default 16
        The channel bottleneck has C / reduction channels, at least one.
    kernel_size : int, default 3
        Side of the spatial convolution; odd. As in the reference; CBAM's paper has 7.
    use_bias : bool, default True
        Whether the channel bottleneck has biases.
    spatial_bias : bool, default False
        Whether the spatial convolution has a bias.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def __init__(self, channels, *args, **kwargs):
        super().__init__(channels, *args, **kwargs)
        with self.name_scope():
            self.alpha = self.params.get("structure_alpha", shape=(len(SEARCHED),), init="zeros",
                                         wd_mult=0)

    def hybrid_forward(self, F, x, alpha):
        left_out, channel_first, spatial_first, channel_alone, spatial_alone = F.split(
            F.reshape(F.softmax(alpha), shape=(1, 1, -1)), num_outputs=5, axis=2)
        channels, positions = _ones(F, x)
        columns, rows = [F.broadcast_mul(channels, left_out)], [positions]

        gate = self.channel.gate(F, x)
        columns.append(F.reshape(gate, shape=(0, 0, -1)))
        rows.append(self._after(F, x, gate, self.spatial, positions, channel_alone, channel_first))

        gate = self.spatial.gate(F, x)
        rows.append(F.reshape(gate, shape=(0, 0, -1)))
        columns.append(self._after(F, x, gate, self.channel, channels, spatial_alone,
                                   spatial_first))

        gate = F.batch_dot(F.concat(*columns, dim=2), F.concat(*rows, dim=1))
        return x * F.reshape_like(gate, x)

    @staticmethod
    def _after(F, x, gate, second, ones, alone, both):
        """What multiplies first(x) = x * gate in the sum: p_alone + p_both second.gate(first(x)).

        `ones` has the shape of the result, a vector over channels or over positions.
        """
        second_gate = F.reshape(second.gate(F, F.broadcast_mul(x, gate)), shape=(0, 0, -1))
        return F.broadcast_mul(ones, alone) + F.broadcast_mul(second_gate, both)


class ParallelAttention(_ChannelAndSpatial):
    """The mean of channel attention and spatial attention, y = (CA(x) + SA(x)) / 2.

    Parameters are those of `SearchableAttention`.

    Inputs: data (N, C, H, W). Outputs: (N, C, H, W).
    """

    def hybrid_forward(self, F, x):
        return (self.channel(x) + self.spatial(x)) * 0.5


# ---- the units of a network ----

def searchable_units(net):
    """The `SearchableAttention` units of a network, in the order of the forward pass."""
    units = [net] if isinstance(net, SearchableAttention) else []
    for child in net._children.values():
        units += searchable_units(child)
    return units


def derive(p):
    """The operation that the weights of one block ask for.

    That of the largest weight; except CA and SA in parallel ('CA||SA') where their two
    weights together exceed every other and are nearly equal: p3 + p4 > max(p0, p1, p2) and
    |p3 - p4| < 0.1.

    Parameters
    ----------
    p : sequence of 5 numbers
        Weights in the order of `SEARCHED`.

    Returns
    -------
    str
        One of `OPERATIONS`.
    """
    p = np.asarray(p, dtype=np.float64)
    if p.shape != (len(SEARCHED),) or not np.isfinite(p).all():
        raise UserError(f"a block has {len(SEARCHED)} finite weights, not {p.tolist()}")
    if p[3] + p[4] > p[:3].max() and abs(p[3] - p[4]) < 0.1:
        return "CA||SA"
    return SEARCHED[int(p.argmax())]


def structure_unit(operation, kind="CBAM", reduction=16, kernel_size=3, use_bias=True,
                   spatial_bias=False):
    """A factory of the unit that holds the chosen operation and nothing else.

    Parameters
    ----------
    operation : str
        One of `OPERATIONS`.
    kind, reduction, kernel_size, use_bias, spatial_bias
        As in `SearchableAttention`.

    Returns
    -------
    callable or None
        ``f(channels)`` -> HybridBlock, for a host's attention slot; None for 'identity'.

    Raises
    ------
    UserError
        If the operation or the kind is unknown.
    """
    _check_operation(operation)
    statistics = _kind_statistics(kind)
    if operation == "identity":
        return None
    if operation == "CA":
        return partial(ChannelAttention, reduction=reduction, use_bias=use_bias,
                       statistics=statistics)
    if operation == "SA":
        return partial(SpatialAttention, kernel_size=kernel_size, statistics=statistics,
                       use_bias=spatial_bias)
    options = {"reduction": reduction, "kernel_size": kernel_size, "use_bias": use_bias,
               "spatial_bias": spatial_bias}
    if operation == "CA||SA":
        return partial(ParallelAttention, kind=kind, **options)
    return partial(CBAM, order=_ORDERS[operation], channel_statistics=statistics,
                   spatial_statistics=statistics, **options)


# ---- structures ----

@dataclass(frozen=True)
class Structure:
    """A derived structure: which operation stands in which block of which network.

    Attributes
    ----------
    network : str
        Name of the network that was searched.
    kind : {'CBAM', 'MVAM'}
        Statistics of the maps.
    operations : tuple of str
        One of `OPERATIONS` for each block, in the order of the forward pass.
    unit_options : dict
        Options of `structure_unit`: ``reduction``, ``kernel_size`` ...
    search : dict
        The options that led here, JSON-compatible; for the record only.

    Raises
    ------
    UserError
        If an operation, the kind or an option of the units is unknown.
    """

    network: str
    kind: str
    operations: tuple
    unit_options: dict = field(default_factory=dict)
    search: dict = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "operations", tuple(self.operations))
        _kind_statistics(self.kind)
        for operation in self.operations:
            _check_operation(operation)
        for name, value in self.unit_options.items():
            if name not in _UNIT_OPTIONS:
                raise UserError(f"a structure's units have no option {name!r}")
            wanted, largest = _UNIT_OPTIONS[name]
            if type(value) is not wanted or not 0 <= value <= largest:
                raise UserError(f"{name} of a structure's units cannot be {value!r}")

    def check(self, network, blocks):
        """Raise ValueError unless the structure is for `network`, of that many blocks."""
        if network.lower() != self.network.lower():
            raise UserError(f"the structure is for {self.network}, not for {network}")
        if len(self.operations) != blocks:
            raise UserError(f"the structure has {len(self.operations)} rows, but {network} has "
                             f"{blocks} blocks")

    def attention(self):
        """One factory, or None, for each block: a host's option ``attention``."""
        return [structure_unit(operation, self.kind, **self.unit_options)
                for operation in self.operations]

    def content(self):
        """What describes it, as a dict ready for JSON; `from_content` reads it."""
        return {"format": _FORMAT, "network": self.network, "kind": self.kind,
                "operations": list(self.operations), "unit_options": self.unit_options,
                "search": self.search}

    @classmethod
    def from_content(cls, content):
        """The structure of what `content` returned.

        Raises
        ------
        UserError
            If it is not a valid structure.
        """
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise UserError(f"not a structure file (its format is not '{_FORMAT}')")
        for name in ("network", "kind", "operations"):
            if name not in content:
                raise UserError(f"'{name}' is missing")
        fields = {name: content[name] for name in _TYPES if name in content}
        for name, value in fields.items():
            if not isinstance(value, _TYPES[name]):
                raise UserError(f"'{name}' must be a {_TYPES[name].__name__}, "
                                f"not {type(value).__name__}")
        return cls(**fields)
