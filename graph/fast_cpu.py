"""The graph that MXNet computes quickly on a CPU.

The networks are written as their formulas. Some of those formulas cost MXNet on a CPU several
times what others with the same value cost, and oneDNN, which does the convolutions, works on
blocks of channels that other operators have to copy. Each rule here puts the quick way in the
place of one formula; benchmarks/NOTES.md tells what each is worth. Neither batch size nor
height and width are written into the graph.
"""
import os
from functools import partial

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx

from .graph import Node, compute, from_symbol

__all__ = ["RULES", "hybridize"]

_NORM_RELU = "_contrib_BatchNormWithReLU"
_NARROW, _WIDE = 8, 16    # channels in a block of oneDNN's
# Operators that leave a map in its layout -> how many of their inputs are maps.
_KEEPS_LAYOUT = {"BatchNorm": 1, _NORM_RELU: 1, "Activation": 1, "Pooling": 1, "elemwise_add": 2}
_ELEMENTWISE = {f"broadcast_{name}": f"elemwise_{name}" for name in ("add", "sub", "mul", "div")}


def hybridize(net, shape, contexts, dtype="float32", static=True):
    """Compile a network for training or prediction, by the rules if it computes on a CPU.

    To compile it otherwise afterwards, or to cast it, undoes the rules without a word: then
    the next call raises RuntimeError.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Maps (N, C, H, W) to anything. Initialized or not.
    shape : tuple of int
        Of a batch: (N, C, H, W).
    contexts : list of mxnet.Context
        Where it computes.
    dtype : str, default 'float32'
        In which it computes; the rules are for float32.
    static : bool, default True
        Whether memory is planned once, for batches of one shape.
    """
    if getattr(net, "_fast_check", None):
        net._fast_check.detach()
    net.hybridize(static_alloc=static, static_shape=static)
    if not (dtype == "float32" and all(ctx.device_type == "cpu" for ctx in contexts)
            and mx.runtime.Features().is_enabled("MKLDNN")
            and os.environ.get("MXNET_MKLDNN_ENABLED") != "0"):
        return
    inputs, outputs = net._get_graph(mx.sym.var("data"))
    parameters = net._collect_params_with_prefix()
    graph = from_symbol(outputs, shape[1:], parameters).rewrite(*RULES)
    compiled = inputs, graph.to_symbol({name: p.name for name, p in parameters.items()})

    def check(block, _):
        if block._active and block._cached_graph is not compiled:
            raise RuntimeError("the network was hybridized or cast after its graph was made "
                               "fast: call graph.fast_cpu.hybridize last")

    net._fast_check = net.register_forward_pre_hook(check)
    net._cached_graph = compiled


# ---- what stands for means, maxima and broadcasts: products of matrices and picks --------------
# A mean is a product with a vector of 1 / n. A map is spread to the input's shape by an outer
# product with ones, which is exact. A maximum is picked by its index, so that its backward pass
# writes one number instead of comparing all.

def _ones_per_channel(F, x):
    """(N, C, 1) ones for x (N, C, H, W)."""
    corner = F.slice(x, begin=(None, None, 0, 0), end=(None, None, 1, 1))
    return F.reshape(F.ones_like(corner), shape=(0, 0, -1))


def _ones_per_position(F, x):
    """(N, 1, H W) ones for x (N, C, H, W)."""
    return F.reshape(F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1)), shape=(0, 0, -1))


def _spread_channels(F, x, channel_map):
    """A channel map (N, C, 1, 1) at every position of x (N, C, H, W)."""
    column = F.reshape(channel_map, shape=(0, 0, -1))                  # (N, C, 1)
    return F.reshape_like(F.batch_dot(column, _ones_per_position(F, x)), x)


def _spread_positions(F, x, spatial_map):
    """A spatial map (N, 1, H, W) in every channel of x (N, C, H, W)."""
    row = F.reshape(spatial_map, shape=(0, 0, -1))                     # (N, 1, H W)
    return F.reshape_like(F.batch_dot(_ones_per_channel(F, x), row), x)


def _outer_sum(F, channel_map, spatial_map):
    """(N, C, 1, 1) + (N, 1, H, W) as one product of matrices: (N, C, H, W)."""
    column = F.reshape(channel_map, shape=(0, 0, -1))
    row = F.reshape(spatial_map, shape=(0, 0, -1))
    total = F.batch_dot(F.concat(column, F.ones_like(column), dim=2),
                        F.concat(F.ones_like(row), row, dim=1))        # (N, C, H W)
    return F.reshape_like(total, spatial_map, lhs_begin=2, lhs_end=3, rhs_begin=2, rhs_end=4)


def _position_mean(F, x, keepdims=True):
    ones = _ones_per_position(F, x)
    weights = F.broadcast_div(ones, F.sum(ones, axis=2, keepdims=True))
    mean = F.batch_dot(F.reshape(x, shape=(0, 0, -3)), weights, transpose_b=True)  # (N, C, 1)
    return F.reshape(mean, shape=(0, 0, 1, 1) if keepdims else (0, 0))


def _channel_mean(F, x):
    ones = F.swapaxes(_ones_per_channel(F, x), 1, 2)                   # (N, 1, C)
    weights = F.broadcast_div(ones, F.sum(ones, axis=2, keepdims=True))
    mean = F.batch_dot(weights, F.reshape(x, shape=(0, 0, -3)))        # (N, 1, H W)
    return F.reshape_like(mean, F.slice_axis(x, axis=1, begin=0, end=1))


def _variance(F, x, mean, spread):
    # The gradient through the mean is zero: deviations sum to zero. It is stopped at x, not
    # at the mean: MXNet crashes on a BlockGrad after a product of matrices and another step.
    fixed = F.BlockGrad(x)
    return mean(F, F.square(x - spread(F, fixed, mean(F, fixed))))


def _position_max(F, x):
    rows = F.pick(x, F.argmax(x, axis=3), axis=3)                      # (N, C, H)
    largest = F.pick(rows, F.argmax(rows, axis=2), axis=2)             # (N, C)
    return F.reshape(largest, shape=(0, 0, 1, 1))


def _plain(F, x):
    """x (N, C, H, W) in the plain memory layout: a copy out of oneDNN's blocks."""
    return F.reshape(x, shape=(0, 0, 0, 0))


# ---- what nodes are ----------------------------------------------------------------------------

def _shapes(entry):
    """Shapes of an output, for one image and for two."""
    node, output = entry
    return node.shapes[output]


def _is_map(entry):
    """Whether it is (N, C, H, W) with more than one channel and position."""
    one, two = _shapes(entry)
    return (len(one) == 4 and two == (2 * one[0], *one[1:])
            and one[1] > 1 and one[2] * one[3] > 1)


def _spread_of(small, x):
    """How to spread `small` to a map `x`; None if it is neither a channel nor a spatial map."""
    if _is_map(x):
        if _shapes(small) == tuple((n, c, 1, 1) for n, c, _, _ in _shapes(x)):
            return _spread_channels
        if _shapes(small) == tuple((n, 1, h, w) for n, _, h, w in _shapes(x)):
            return _spread_positions
    return None


def _mean_axes(node):
    """Axes of the map that a node takes the mean over; None if it takes none."""
    attrs = node.attrs
    if node.op == "Pooling" and attrs.get("global_pool") and attrs.get("pool_type") == "avg":
        return (2, 3)
    if node.op != "mean" or attrs.get("exclude"):
        return None
    axes = attrs.get("axis")
    axes = axes if isinstance(axes, tuple) else (axes,)
    return axes if attrs.get("keepdims") or axes == (2, 3) else None


def _activation(entry):
    """Which activation an output is of; None if of none."""
    node, _ = entry
    return node.attrs["act_type"] if node.op == "Activation" else None


# ---- rules -------------------------------------------------------------------------------------

def use_onednn_activation(node, graph, new):
    """MXNet's operators ``relu`` and ``sigmoid`` do not run in oneDNN; ``Activation`` does."""
    if node.op in ("relu", "sigmoid"):
        return Node("Activation", node.name, (new(node.inputs[0]),), {"act_type": node.op},
                    node.shapes), 0
    return None


def multiply_for_variance(node, graph, new):
    """mean((x - mean(x))^2), over positions or channels."""
    axes = _mean_axes(node)
    square = node.inputs[0][0] if axes else node
    difference = square.inputs[0][0] if square.op == "square" else node
    if difference.op != "broadcast_sub" or not node.attrs.get("keepdims"):
        return None
    x, (mean, _) = difference.inputs
    known = {(2, 3): (_position_mean, _spread_channels), (1,): (_channel_mean, _spread_positions)}
    if not (axes in known and _is_map(x) and _mean_axes(mean) == axes and mean.inputs[0] == x):
        return None
    ours, spread = known[axes]
    return compute(node.name, partial(_variance, mean=ours, spread=spread), new(x))


def multiply_for_mean(node, graph, new):
    """Means over positions and over channels."""
    axes = _mean_axes(node)
    if axes not in ((2, 3), (1,)) or not _is_map(node.inputs[0]):
        return None
    mean = _channel_mean
    if axes == (2, 3):
        mean = partial(_position_mean, keepdims=len(node.shape()) == 4)
    return compute(node.name, mean, new(node.inputs[0]))


def pick_maximum(node, graph, new):
    """The maximum over positions; as in a pooling, the first of equal ones gets the gradient."""
    if (node.op == "Pooling" and node.attrs.get("global_pool")
            and node.attrs.get("pool_type", "max") == "max" and _is_map(node.inputs[0])):
        return compute(node.name, _position_max, new(node.inputs[0]))
    return None


def multiply_for_broadcast(node, graph, new):
    """A map with a channel map or a spatial map, and the sum of these two."""
    if node.op not in _ELEMENTWISE:
        return None
    a, b = node.inputs
    operator = _ELEMENTWISE[node.op]
    if _shapes(a) == _shapes(b):
        return Node(operator, node.name, (new(a), new(b)), {}, node.shapes), 0
    if _spread_of(b, a):
        return compute(node.name, lambda F, x, y: getattr(F, operator)(
            x, _spread_of(b, a)(F, x, y)), new(a), new(b))
    if _spread_of(a, b):
        return compute(node.name, lambda F, y, x: getattr(F, operator)(
            _spread_of(a, b)(F, x, y), x), new(a), new(b))
    for channels, positions in ((a, b), (b, a)):
        if (node.op == "broadcast_add" and _spread_of(channels, (node, 0)) is _spread_channels
                and _spread_of(positions, (node, 0)) is _spread_positions):
            return compute(node.name, _outer_sum, new(channels), new(positions))
    return None


def copy_gate_out_of_blocks(node, graph, new):
    """x * sigmoid(gate) and x * sigmoid(beta * x): the product works on plain maps alone.

    Forward and backward; and it is quicker with the gate first.
    """
    if node.op != "elemwise_mul" or not _is_map((node, 0)):
        return None
    for gate, x in (node.inputs, node.inputs[::-1]):
        if _activation(gate) != "sigmoid":
            continue
        source = gate[0].inputs[0]
        if source[0].op == "_mul_scalar" and source[0].inputs[0] == x:
            beta = source[0].attrs["scalar"]
            return compute(node.name, partial(_swish, beta=beta), new(x))
        if source[0].op in ("BatchNorm", "Convolution"):
            return compute(node.name, lambda F, source, x: F.elemwise_mul(
                F.Activation(_plain(F, source), act_type="sigmoid"), x), new(source), new(x))
    return None


def _swish(F, x, beta):
    x = _plain(F, x)
    return F.elemwise_mul(F.Activation(beta * x, act_type="sigmoid"), x)


def copy_depthwise_out_of_blocks(node, graph, new):
    """A depth-wise convolution, a normalisation, and then narrower convolutions only.

    Their gradient comes in blocks of another size than the normalisation's data, and oneDNN's
    backward pass is then 100 times slower. Plain data is fitted to the gradient.
    """
    if node.op != "BatchNorm" or not _is_map((node, 0)):
        return None
    conv = node.inputs[0][0]
    channels = node.shape()[1]
    if (conv.op == "Convolution" and conv.attrs.get("num_group", 1) == channels
            and all(reader is not None and reader.op == "Convolution"
                    and reader.attrs["num_filter"] < channels
                    for reader, _ in graph.readers(node))):
        data, *others = map(new, node.inputs)
        return Node(node.op, node.name, (compute(node.name, _plain, data), *others), node.attrs,
                    node.shapes), 0
    return None


def fuse_norm_relu(node, graph, new):
    """A normalisation that only a ReLU reads, and that ReLU, in one pass over memory.

    The forward pass leaves the ReLU's mask in the order of its data's memory layout, and
    MXNet's backward pass brings plain data into the layout of the gradient: it would read the
    mask in another order, and return wrong gradients. So only that is fused whose data is
    surely in oneDNN's blocks of channels, with a gradient in the same blocks.
    """
    if _activation((node, 0)) != "relu":
        return None
    norm, output = node.inputs[0]
    if (norm.op == "BatchNorm" and norm.attrs.get("axis", 1) == 1
            and len(graph.readers(norm, output)) == 1
            and _in_blocks(norm) and _gradient_in_blocks(node, graph)):
        return Node(_NORM_RELU, norm.name, tuple(map(new, norm.inputs)), norm.attrs,
                    norm.shapes), 0
    return None


def _in_blocks(node):
    """Whether a node's output is surely in blocks of channels."""
    if node.op == "Convolution":
        shape = node.shape()
        return (len(shape) == 4 and shape[1] % _NARROW == 0
                and node.attrs.get("num_group", 1) == 1)
    maps = node.inputs[:_KEEPS_LAYOUT.get(node.op, 0)]
    return bool(maps) and all(_in_blocks(source) for source, _ in maps)


def _gradient_in_blocks(node, graph):
    """Whether no gradient of a node's output comes in narrower blocks than the output."""
    block = _WIDE if node.shape()[1] % _WIDE == 0 else _NARROW
    return all(reader.attrs["num_filter"] % block == 0
               for reader, _ in graph.readers(node)
               if reader is not None and reader.op == "Convolution")


RULES = (use_onednn_activation, multiply_for_variance, multiply_for_mean, pick_maximum,
         multiply_for_broadcast, copy_gate_out_of_blocks, copy_depthwise_out_of_blocks,
         fuse_norm_relu)
