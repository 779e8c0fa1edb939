"""ResNet-50 with self-attention in place of, or beside, its 3x3 convolutions.

The two rows of the paper's ImageNet comparison that are neither activation nor attention
units but layers of their own:

* AA-ResNet: I. Bello, B. Zoph, A. Vaswani, J. Shlens, Q. V. Le: Attention Augmented
  Convolutional Networks, ICCV 2019, https://arxiv.org/abs/1904.09925.
* FA-ResNet: P. Ramachandran, N. Parmar, A. Vaswani, I. Bello, A. Levskaya, J. Shlens:
  Stand-Alone Self-Attention in Vision Models, NeurIPS 2019, https://arxiv.org/abs/1906.05909.

Both fill the place of ``conv2`` in the bottlenecks of `ResNetV1b`, whose other slots stay
open. They run on images of any size.
"""
import inspect

from mxnet import init
from mxnet.gluon import nn

from .layers import LAYERS, check_positive, conv1x1, conv3x3, same_padding
from .registry import UserError
from .resnet_v1b import ResNetV1b, replace_child

__all__ = ["LocalSelfAttention", "RelativeSelfAttention", "AugmentedConv",
           "fa_resnet50", "aa_resnet50"]


def _check_heads(heads, per_head=1, **widths):
    """Raise ValueError unless every width splits into heads of whole multiples of `per_head`."""
    check_positive(heads=heads, **widths)
    for name, width in widths.items():
        if width % (heads * per_head):
            raise UserError(f"{name} must be a multiple of heads: of {heads * per_head}, "
                             f"not {width}")


class LocalSelfAttention(nn.HybridBlock):
    r"""Multi-head self-attention over each position's neighbourhood.

    .. math:: y_{ij} = \sum_{ab} softmax_{ab}(q_{ij} \cdot (k_{ab} + r_{a-i,b-j}))\, v_{ab}

    with point-wise q, k, v and :math:`r` half an embedding of the row offset, half one of the
    column offset. Ramachandran et al., section 3, arXiv 1906.05909. Neighbours beyond the
    map's edge get no weight. The unfolded keys and values take kernel_size^2 times the map's
    memory.

    Parameters
    ----------
    channels : int
        Channels C of input and output; a multiple of 2 * heads.
    heads : int, default 8
        Attention heads, each on C / heads channels.
    kernel_size : int, default 7
        Side k of the neighbourhood; odd.
    stride : int, default 1
        Side of the average pooling that follows, as the paper has it.
    dilation : int, default 1
        Spacing of the neighbours.

    Inputs: data (N, C, H, W). Outputs: (N, C, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels, heads=8, kernel_size=7, stride=1, dilation=1, **kwargs):
        super().__init__(**kwargs)
        check_positive(stride=stride)
        _check_heads(heads, per_head=2, channels=channels)
        width = channels // heads
        self._heads, self._width, self._points = heads, width, kernel_size ** 2
        self._window = {"kernel": (kernel_size,) * 2, "stride": (1, 1), "dilate": (dilation,) * 2,
                        "pad": (same_padding(kernel_size, dilation),) * 2}
        with self.name_scope():
            self.query = conv1x1(channels, channels)
            self.key = conv1x1(channels, channels)
            self.value = conv1x1(channels, channels)
            shape, normal = (heads, width // 2, kernel_size), init.Normal(width ** -0.5)
            self.row_embedding = self.params.get("row_embedding", shape=shape, init=normal)
            self.column_embedding = self.params.get("column_embedding", shape=shape, init=normal)
            self.pool = None
            if stride > 1:
                self.pool = nn.AvgPool2D(stride, ceil_mode=True, count_include_pad=False)

    def _neighbours(self, F, x):
        """(N, C, H, W) -> (N, heads, C / heads, k * k, H * W)."""
        return F.reshape(F.im2col(x, **self._window),
                         shape=(0, self._heads, self._width, self._points, -1))

    def _flatten(self, F, neighbours):
        """(N, heads, d, k * k, H * W) -> (N * heads * H * W, d, k * k)."""
        return F.reshape(F.transpose(neighbours, axes=(0, 1, 4, 2, 3)),
                         shape=(-1, self._width, self._points))

    def _offsets(self, F, rows, columns):
        """Two (heads, d / 2, k) -> (1, heads, d, k * k, 1)."""
        k = self._window["kernel"][0]
        rows = F.broadcast_axis(F.expand_dims(rows, axis=3), axis=3, size=k)
        columns = F.broadcast_axis(F.expand_dims(columns, axis=2), axis=2, size=k)
        return F.reshape(F.concat(rows, columns, dim=1),
                         shape=(1, self._heads, self._width, self._points, 1))

    def _edge(self, F, x):
        """(N, C, H, W) -> (1, 1, H * W, k * k): 0 inside the map, -10000 beyond its edge."""
        # Not F.slice: on a CPU its oneDNN form divides by zero on some convolutions' output.
        one = F.slice_axis(F.slice_axis(x, axis=0, begin=0, end=1), axis=1, begin=0, end=1)
        inside = F.im2col(F.ones_like(one), **self._window)            # (1, k * k, H * W)
        return F.expand_dims(F.transpose(inside - 1, axes=(0, 2, 1)), axis=1) * 1e4

    def hybrid_forward(self, F, x, row_embedding, column_embedding):
        query = F.reshape(self.query(x), shape=(0, self._heads, self._width, -1))
        query = F.transpose(query, axes=(0, 1, 3, 2))                  # (N, heads, H * W, d)
        keys = F.broadcast_add(self._neighbours(F, self.key(x)),
                               self._offsets(F, row_embedding, column_embedding))
        values = self._neighbours(F, self.value(x))

        scores = F.batch_dot(F.reshape(query, shape=(-1, 1, self._width)),
                             self._flatten(F, keys))                   # (.., 1, k * k)
        scores = F.reshape_like(scores, query, lhs_begin=0, lhs_end=2, rhs_begin=0, rhs_end=3)
        weights = F.softmax(F.broadcast_add(scores, self._edge(F, x)), axis=-1)

        out = F.batch_dot(F.reshape(weights, shape=(-1, 1, self._points)),
                          self._flatten(F, values), transpose_b=True)  # (N * heads * H * W, 1, d)
        out = F.transpose(F.reshape_like(out, query), axes=(0, 1, 3, 2))
        out = F.reshape_like(F.reshape(out, shape=(0, -3, 0)), x,
                             lhs_begin=2, lhs_end=3, rhs_begin=2, rhs_end=4)
        return out if self.pool is None else self.pool(out)


class RelativeSelfAttention(nn.HybridBlock):
    r"""Multi-head self-attention over the whole map, with relative positions.

    .. math:: y_i = \sum_j softmax_j(q_i \cdot (k_j + r^h_{j_y-i_y} + r^w_{j_x-i_x}))\, v_j

    q scaled by one over the root of its width; a point-wise convolution mixes the heads.
    Bello et al., section 3.1, arXiv 1904.09925; convolutions without bias.

    Parameters
    ----------
    in_channels : int
        Channels C of the input.
    key_channels, value_channels : int
        Channels of q and k, and of v and the output; multiples of `heads`.
    heads : int, default 8
        Attention heads.
    size : int, default 14
        Side of the map that the embeddings are for: offsets of up to size - 1 each way. On a
        larger map, farther offsets share the last embedding.

    Inputs: data (N, C, H, W). Outputs: (N, value_channels, H, W).
    """

    def __init__(self, in_channels, key_channels, value_channels, heads=8, size=14, **kwargs):
        super().__init__(**kwargs)
        check_positive(in_channels=in_channels, size=size)
        _check_heads(heads, key_channels=key_channels, value_channels=value_channels)
        self._heads, self._size = heads, size
        self._key_channels, self._scale = key_channels, (key_channels // heads) ** -0.5
        with self.name_scope():
            self.qkv = conv1x1(in_channels, 2 * key_channels + value_channels)
            self.project = conv1x1(value_channels, value_channels)
            shape, normal = (2 * size - 1, key_channels // heads), init.Normal(self._scale)
            self.row_embedding = self.params.get("row_embedding", shape=shape, init=normal)
            self.column_embedding = self.params.get("column_embedding", shape=shape, init=normal)

    def _heads_first(self, F, x, begin, end):
        """Channels `begin` to `end` of (N, C, H, W) -> (N * heads, d, H, W)."""
        x = F.slice_axis(x, axis=1, begin=begin, end=end)
        x = F.reshape(x, shape=(0, -4, self._heads, -1, 0, 0))
        return F.reshape(x, shape=(-3, 0, 0, 0))

    def _offset_scores(self, F, query, embedding):
        """Products with the embeddings of the offsets along the first axis.

        query (L, B, M, d), embedding (2 * size - 1, d) -> (L, B, M, L).
        """
        line = F.contrib.arange_like(query, axis=0)
        offset = F.broadcast_sub(F.reshape(line, shape=(1, -1)), F.reshape(line, shape=(-1, 1)))
        table = F.take(embedding, offset + (self._size - 1), mode="clip")  # (L, L, d)
        scores = F.batch_dot(F.reshape(query, shape=(0, -3, 0)), table, transpose_b=True)
        return F.reshape_like(scores, query, lhs_begin=1, lhs_end=2, rhs_begin=1, rhs_end=3)

    def hybrid_forward(self, F, x, row_embedding, column_embedding):
        qkv, k = self.qkv(x), self._key_channels
        query = self._heads_first(F, qkv, 0, k) * self._scale          # (B, d, H, W)
        key = F.reshape(self._heads_first(F, qkv, k, 2 * k), shape=(0, 0, -1))
        value = F.reshape(self._heads_first(F, qkv, 2 * k, None), shape=(0, 0, -1))

        rows = self._offset_scores(F, F.transpose(query, axes=(2, 0, 3, 1)), row_embedding)
        rows = F.expand_dims(F.transpose(rows, axes=(1, 0, 2, 3)), axis=4)       # (B, H, W, H, 1)
        columns = self._offset_scores(F, F.transpose(query, axes=(3, 0, 2, 1)), column_embedding)
        columns = F.expand_dims(F.transpose(columns, axes=(1, 2, 0, 3)), axis=3)  # (B, H, W, 1, W)
        offsets = F.reshape(F.broadcast_add(rows, columns), shape=(0, -3, -3))

        scores = F.batch_dot(F.reshape(query, shape=(0, 0, -1)), key, transpose_a=True)
        weights = F.softmax(scores + offsets, axis=-1)                 # (B, H * W, H * W)
        out = F.batch_dot(value, weights, transpose_b=True)            # (B, d, H * W)
        out = F.reshape(F.reshape(out, shape=(-4, -1, self._heads, 0, 0)), shape=(0, -3, 0))
        return self.project(F.reshape_like(out, x, lhs_begin=2, lhs_end=3,
                                           rhs_begin=2, rhs_end=4))


class AugmentedConv(nn.HybridBlock):
    """A 3x3 convolution, some of whose output channels come from self-attention.

    Bello et al., section 3.2, arXiv 1904.09925.

    Parameters
    ----------
    channels : int
        Channels C of input and output.
    key_fraction, value_fraction : float, default 0.2 and 0.1
        The paper's kappa and upsilon: parts of C that q and k, and the attention's output,
        have; to the nearest multiple of `heads`.
    min_key : int, default 20
        Least number of q's channels in a head, as in the paper's ResNets.
    heads, size : int
        As in `RelativeSelfAttention`; `size` is the side of the attended map.
    stride, dilation : int, default 1
        Of the convolution; the attention's input is average-pooled (3x3) by the same stride.
    pool : bool, default False
        Attend on a map of half the side and enlarge the result bilinearly, as the paper does
        where maps are large.

    Inputs: data (N, C, H, W). Outputs: (N, C, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels, key_fraction=0.2, value_fraction=0.1, min_key=20, heads=8,
                 size=14, stride=1, dilation=1, pool=False, **kwargs):
        super().__init__(**kwargs)
        check_positive(channels=channels, heads=heads, stride=stride, dilation=dilation)
        key_channels = heads * max(round(key_fraction * channels / heads), min_key)
        value_channels = heads * max(round(value_fraction * channels / heads), 1)
        if value_channels >= channels:
            raise UserError(f"the attention's {value_channels} channels leave none of "
                             f"{channels} to the convolution")
        with self.name_scope():
            self.conv = conv3x3(channels, channels - value_channels, stride, dilation)
            self.pools = nn.HybridSequential(prefix="")
            for step in (stride, 2 if pool else 1):
                if step > 1:
                    self.pools.add(nn.AvgPool2D(3, step, 1, count_include_pad=False))
            self.attention = RelativeSelfAttention(channels, key_channels, value_channels,
                                                   heads, size)
        self._enlarge = pool

    def hybrid_forward(self, F, x):
        out = self.conv(x)
        context = self.attention(self.pools(x))
        if self._enlarge:
            context = F.contrib.BilinearResize2D(context, out, mode="like")
        # As three axes: on a CPU, the backward pass of concat on four is oneDNN's, which fails
        # where the channels of a part are no multiple of its blocks (232 of 256).
        joined = F.concat(F.reshape(out, shape=(0, 0, -1)), F.reshape(context, shape=(0, 0, -1)),
                          dim=1)
        return F.reshape_like(joined, out, lhs_begin=2, lhs_end=3, rhs_begin=2, rhs_end=4)


def _replace_conv2(net, stages, build):
    """Put ``build(stage index, channels, stride, dilation)`` in the place of each conv2."""
    for i in stages:
        stage = net.stages()[i]
        with stage.name_scope():
            for block in stage:
                replace_child(block, "conv2",
                              build(i, block.channels, block.strides, block.dilation))
    return net


def _with_options_of_host(build):
    """Have the signature of `build` list what its ``**kwargs`` pass on to `ResNetV1b`."""
    own = inspect.signature(build).parameters
    host = inspect.signature(ResNetV1b).parameters
    build.__signature__ = inspect.Signature(
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
         for name, parameter in {**host, **own}.items() if name not in ("depth", "kwargs")])
    return build


@_with_options_of_host
def fa_resnet50(layers=LAYERS[50], heads=8, kernel_size=7, **kwargs):
    """ResNet-50 with local self-attention in place of every 3x3 convolution.

    The variant of arXiv 1906.05909 that keeps the convolutional stem.

    Parameters
    ----------
    layers : sequence of 4 int
        Bottlenecks in each stage.
    heads, kernel_size
        As in `LocalSelfAttention`.
    **kwargs
        As in `ResNetV1b` (``classes``, ``activation``, ...), without ``depth``.
    """
    def build(_, channels, stride, dilation):
        return LocalSelfAttention(channels, heads, kernel_size, stride, dilation)

    return _replace_conv2(ResNetV1b(depth=50, layers=layers, **kwargs), range(4), build)


@_with_options_of_host
def aa_resnet50(layers=LAYERS[50], input_size=224, **kwargs):
    """ResNet-50 with attention-augmented 3x3 convolutions in its last three stages.

    As in arXiv 1904.09925: 8 heads, kappa 0.2, upsilon 0.1, at least 20 key channels in a
    head. The first of the three stages attends on maps of half the side, which the paper does
    to save memory without saying where; by the paper's FLOPs it did so here.

    Parameters
    ----------
    layers : sequence of 4 int
        Bottlenecks in each stage.
    input_size : int, default 224
        Side of the images that the position embeddings are for, in pixels.
    **kwargs
        As in `ResNetV1b` (``classes``, ``activation``, ...), without ``depth``.
    """
    check_positive(input_size=input_size)
    # Strides of the attended maps: 8, pooled to 16, then 16 and 32; dilated, these two are 8.
    strides = (None, 16, 8, 8) if kwargs.get("dilated") else (None, 16, 16, 32)

    def build(i, channels, stride, dilation):
        return AugmentedConv(channels, size=-(-input_size // strides[i]), stride=stride,
                             dilation=dilation, pool=i == 1)

    return _replace_conv2(ResNetV1b(depth=50, layers=layers, **kwargs), range(1, 4), build)
