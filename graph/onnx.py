"""A network's graph as ONNX: for each operator of the networks here one function that writes it.

All shapes are known but for the number of images, so reshapes, slices and the like get
constants. What does not depend on the images, such as ones of a map's shape, is written for
one image; where an operator does not broadcast it, it is repeated for all of them.
"""
import math
from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.errors import UserError

from .graph import Node

__all__ = ["OPSETS", "Unexportable", "to_onnx"]

# In all of them, what is written here means the same: 18 moved the axes of means.
OPSETS = range(13, 18)
_INPUT, _OUTPUT = "images", "logits"


class Unexportable(UserError):
    """A network holds something that has no counterpart in ONNX; one line that names it."""


def to_onnx(graph, arrays):
    """A graph as ONNX nodes, for any of `OPSETS`.

    Parameters
    ----------
    graph : graph.graph.Graph
        Of one output.
    arrays : dict of str to numpy.ndarray
        Its parameters and states, in float32.

    Returns
    -------
    onnx.GraphProto
        From ``images`` to ``logits``; the first axis of both is ``batch``.

    Raises
    ------
    Unexportable
        If an operator, or one of its options, cannot be expressed.
    """
    if len(graph.outputs) != 1:
        raise Unexportable(f"the network has {len(graph.outputs)} outputs instead of one")
    writer = _Writer(arrays)
    for node in graph.nodes:
        writer.write(node)
    (last, output), = graph.outputs
    nodes, constants = writer.finish(last, output)
    (image,) = (node for node in graph.nodes if node.op == "input")
    return helper.make_graph(
        nodes, "network", [_value_info(_INPUT, image.shapes[0])],
        [_value_info(_OUTPUT, last.shapes[output])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()])


def _value_info(name, shapes):
    one, two = shapes
    sizes = [a if a == b else "batch" for a, b in zip(one, two)]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def _refuse(node, why="has no counterpart in ONNX here"):
    raise Unexportable(f"{node.op} ({node.name}) {why}")


class _Writer:
    """The ONNX nodes written so far, and what our graph's outputs are called in them."""

    def __init__(self, arrays):
        self._arrays, self._nodes, self._constants = arrays, [], {}
        self._names, self._fixed, self._repeated = {}, set(), {}
        self._used, self._label = Counter([_INPUT, _OUTPUT, *arrays]), ""

    def write(self, node):
        """Write one node; all that it reads has been written."""
        if node.op == "input":
            self._names[node, 0] = _INPUT
        elif node.is_variable:
            self._fixed.add(node)
            self._names[node, 0] = self.constant(self._arrays[node.name], node.name)
        elif node.op not in _OPERATORS:
            _refuse(node)
        else:
            if self._is_fixed(node):
                self._fixed.add(node)
            own = [source.name for source, _ in node.inputs if source.op in ("parameter", "state")]
            self._label = own[0].rpartition(".")[0] + "/" if own else ""
            names = _OPERATORS[node.op](node, self)
            for output, name in enumerate([names] if isinstance(names, str) else names):
                self._names[node, output] = name

    def _is_fixed(self, node):
        """Whether it is the same for each image, so that it can be computed for one."""
        sources = () if node.op in _LIKE else node.inputs
        if not all(source in self._fixed for source, _ in sources):
            return False
        repeats = any(source.batch_axis(output) is not None for source, output in sources)
        for output, (one, two) in enumerate(node.shapes):
            axis = node.batch_axis(output)
            if axis is None and (repeats or one != two):
                return False    # such as a sum over the images
            if axis is not None and one[axis] != 1:
                return False
        return True

    # ---- what functions of operators use ----

    def read(self, node, k=0):
        """Name of the tensor that a node reads, for as many images as it computes."""
        source, output = entry = node.inputs[k]
        axis = source.batch_axis(output)
        if source not in self._fixed or node in self._fixed or axis is None:
            return self._name(entry)
        if entry not in self._repeated:
            shapes = [[images if each == axis else 1 for each in range(len(_shape(node, k)))]
                      for images in (1, 2)]
            self._repeated[entry] = self.emit("Expand", self._name(entry), self.sizes(shapes))
        return self._repeated[entry]

    def read_broadcast(self, node):
        """Names of all that a node reads, which repeats what is of one image by itself."""
        if any(source not in self._fixed and source.batch_axis(output) is not None
               for source, output in node.inputs):
            return [self._name(entry) for entry in node.inputs]
        return [self.read(node, k) for k in range(len(node.inputs))]

    def _name(self, entry):
        if entry not in self._names:
            _refuse(entry[0], f"has an output {entry[1]} that is not written as ONNX")
        return self._names[entry]

    def shapes(self, node, output=0):
        """Shape of an output for one image and for two, as it is written."""
        one, two = node.shapes[output]
        return (one, one) if node in self._fixed else (one, two)

    def reshape(self, node, name):
        """A tensor in the shape of a node's output."""
        target = [a if a == b else -1 for a, b in zip(*self.shapes(node))]
        if target.count(-1) > 1:
            _refuse(node, "makes two axes depend on the number of images")
        return self.emit("Reshape", name, target)

    def sizes(self, shapes):
        """A tensor that holds a shape, given for one image and for two."""
        one, two = shapes
        if tuple(one) == tuple(two):
            return self.constant(np.array(one, np.int64))
        images = self.emit("Slice", self.emit("Shape", _INPUT), [0], [1])
        factors = [b - a if a != b else 0 for a, b in zip(one, two)]
        fixed = [a if a == b else 0 for a, b in zip(one, two)]
        return self.emit("Add", self.emit("Mul", images, factors), fixed)

    def constant(self, values, name=None):
        """Name of a constant; of floats in float32, of integers in int64."""
        values = np.asarray(values)
        values = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
        if name is None:
            name = next((known for known, array in self._constants.items()
                         if known.startswith("constant") and array.dtype == values.dtype
                         and np.array_equal(array, values)), None) or self._unique("constant")
        self._constants[name] = values
        return name

    def emit(self, operator, *inputs, outputs=1, **attributes):
        """Write an ONNX node. Inputs are names or the values of constants.

        Returns
        -------
        str, or list of str if there are several outputs
        """
        name = self._unique(self._label + operator)
        results = [name] if outputs == 1 else [f"{name}:{k}" for k in range(outputs)]
        inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self._nodes.append(helper.make_node(operator, inputs, results, name, **attributes))
        return results[0] if outputs == 1 else results

    def _unique(self, name):
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name]}"

    # ---- the whole ----

    def finish(self, node, output):
        """Nodes and constants that lead to an output, which is called ``logits``."""
        name = self.read(Node("output", _OUTPUT, ((node, output),)))
        if not any(name in written.output for written in self._nodes):
            name = self.emit("Identity", name)
        wanted, kept = {name}, []
        for written in reversed(self._nodes):
            if wanted.intersection(written.output):
                wanted.update(written.input)
                kept.append(written)
        for written in kept:
            for field in (written.input, written.output):
                field[:] = [_OUTPUT if each == name else each for each in field]
        return kept[::-1], {each: array for each, array in self._constants.items()
                            if each in wanted}


# ---- the operators -----------------------------------------------------------------------------

_OPERATORS = {}
_LIKE = ("ones_like", "zeros_like", "_contrib_arange_like")    # read a shape only


def _writes(*operators):
    """A decorator that files a function under MXNet's names of operators.

    ``function(node, to)`` writes the node to the `_Writer` and returns the name of its output,
    or a list of names.
    """
    def file_under_names(function):
        _OPERATORS.update(dict.fromkeys(operators, function))
        return function
    return file_under_names


def _shape(node, k=0):
    """Shape of a node's input for one image."""
    source, output = node.inputs[k]
    return source.shape(output)


def _axis(node, default=None, attribute="axis"):
    """An axis of the first input, counted from the front."""
    axis = node.attrs.get(attribute, default)
    if axis is None:
        _refuse(node, "without an axis cannot be written as ONNX")
    return axis % len(_shape(node))


# ---- element by element ----

_UNARY = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus",
          "softsign": "Softsign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
          "negative": "Neg", "reciprocal": "Reciprocal", "erf": "Erf"}
_BINARY = {
    "Add": ("elemwise_add", "broadcast_add", "_plus_scalar"),
    "Sub": ("elemwise_sub", "broadcast_sub", "_minus_scalar"),
    "Mul": ("elemwise_mul", "broadcast_mul", "_mul_scalar"),
    "Div": ("elemwise_div", "broadcast_div", "_div_scalar"),
    "Max": ("_maximum", "broadcast_maximum", "_maximum_scalar"),
    "Min": ("_minimum", "broadcast_minimum", "_minimum_scalar"),
    "Pow": ("_power", "broadcast_power", "_power_scalar"),
}
_BINARY = {name: operator for operator, names in _BINARY.items() for name in names}
_REVERSED = {"_rminus_scalar": "Sub", "_rdiv_scalar": "Div", "_rpower_scalar": "Pow"}


@_writes("Activation", *_UNARY)
def _unary(node, to):
    return to.emit(_UNARY[node.attrs.get("act_type", node.op)], to.read(node))


@_writes(*_BINARY)
def _binary(node, to):
    scalar = [float(node.attrs["scalar"])] if len(node.inputs) == 1 else []
    return to.emit(_BINARY[node.op], *to.read_broadcast(node), *scalar)


@_writes(*_REVERSED)
def _binary_with_scalar_first(node, to):
    return to.emit(_REVERSED[node.op], float(node.attrs["scalar"]), to.read(node))


@_writes("square")
def _square(node, to):
    x = to.read(node)
    return to.emit("Mul", x, x)


@_writes("rsqrt")
def _rsqrt(node, to):
    return to.emit("Reciprocal", to.emit("Sqrt", to.read(node)))


@_writes("BlockGrad", "_copy", "Dropout")
def _identity(node, to):
    if node.attrs.get("mode") == "always":
        _refuse(node, "draws at random also in prediction")
    return to.read(node)


@_writes("LeakyReLU")
def _leaky_relu(node, to):
    kind, slope = node.attrs.get("act_type", "leaky"), float(node.attrs.get("slope", 0.25))
    x = to.read(node)
    if kind == "gelu":
        half = to.emit("Add", to.emit("Erf", to.emit("Div", x, math.sqrt(2))), 1.0)
        return to.emit("Mul", to.emit("Mul", x, half), 0.5)
    if kind == "prelu":
        slopes = to.read(node, 1)
        if _shape(node, 1) != (1,):
            # ONNX aligns them with the last axis, MXNet with the channels.
            slopes = to.emit("Reshape", slopes, [-1] + [1] * (len(_shape(node)) - 2))
        return to.emit("PRelu", x, slopes)
    if kind == "selu":
        return to.emit("Selu", x)
    if kind not in ("leaky", "elu"):
        _refuse(node, f"of the kind {kind} has no counterpart in ONNX")
    return to.emit({"leaky": "LeakyRelu", "elu": "Elu"}[kind], x, alpha=slope)


@_writes("softmax")
def _softmax(node, to):
    if node.attrs.get("use_length") or node.attrs.get("temperature"):
        _refuse(node, "of given lengths or a temperature cannot be written as ONNX")
    return to.emit("Softmax", to.read(node), axis=_axis(node, -1))


# ---- layers ----

def _window(node, *names):
    """Attributes of one number an axis: `names`, with MXNet's defaults."""
    if not (node.attrs.get("layout") or "NC").startswith("NC"):
        _refuse(node, f"in the layout {node.attrs['layout']} cannot be written as ONNX")
    rank = len(_shape(node)) - 2
    return [node.attrs.get(name) or (int(name != "pad"),) * rank for name in names]


@_writes("Convolution")
def _convolution(node, to):
    kernel, stride, dilate, pad = _window(node, "kernel", "stride", "dilate", "pad")
    return to.emit("Conv", *(to.read(node, k) for k in range(len(node.inputs))),
                   kernel_shape=kernel, strides=stride, dilations=dilate, pads=2 * pad,
                   group=node.attrs.get("num_group", 1))


@_writes("BatchNorm", "_contrib_SyncBatchNorm")
def _batch_norm(node, to):
    if node.attrs.get("axis", 1) % len(_shape(node)) != 1:
        _refuse(node, "over another axis than the second cannot be written as ONNX")
    x, gamma, beta, mean, variance = (to.read(node, k) for k in range(5))
    if node.attrs.get("fix_gamma", True):
        gamma = to.constant(np.ones(_shape(node, 1), np.float32), f"fixed.{gamma}")
    return to.emit("BatchNormalization", x, gamma, beta, mean, variance,
                   epsilon=float(node.attrs.get("eps", 1e-3)))


@_writes("FullyConnected")
def _dense(node, to):
    x, weight, *bias = (to.read(node, k) for k in range(len(node.inputs)))
    if len(_shape(node)) > 2:
        if not node.attrs.get("flatten", True):
            product = to.emit("MatMul", x, to.emit("Transpose", weight, perm=[1, 0]))
            return to.emit("Add", product, *bias) if bias else product
        x = to.emit("Flatten", x)
    return to.emit("Gemm", x, weight, *bias, transB=1)


@_writes("Pooling")
def _pooling(node, to):
    kind = node.attrs.get("pool_type", "max")
    if kind not in ("max", "avg"):
        _refuse(node, f"of the kind {kind} cannot be written as ONNX")
    x, name = to.read(node), {"max": "MaxPool", "avg": "AveragePool"}[kind]
    if node.attrs.get("global_pool"):
        return to.emit(f"Global{name}", x)
    kernel, stride, pad = _window(node, "kernel", "stride", "pad")
    # MXNet may round the number of windows up: then the last one reaches beyond the padding.
    end = [max(p, (count - 1) * s + k - size - p) for count, size, k, s, p
           in zip(node.shape()[2:], _shape(node)[2:], kernel, stride, pad)]
    if any(e >= k for e, k in zip(end, kernel)):
        _refuse(node, "has windows beyond the edge of the map")
    options = {"kernel_shape": kernel, "strides": stride, "pads": [*pad, *end]}
    if kind == "max":
        return to.emit(name, x, **options)
    if node.attrs.get("count_include_pad") not in (None, True):
        return to.emit(name, x, count_include_pad=0, **options)
    # The padding counts, but not what is beyond it.
    if any(pad):
        x = to.emit("Pad", x, [0, 0, *pad, 0, 0, *pad])
        options["pads"] = [*[0] * len(pad), *(e - p for e, p in zip(end, pad))]
    return to.emit(name, x, count_include_pad=0, **options)


@_writes("UpSampling")
def _upsampling(node, to):
    if node.attrs.get("sample_type") != "nearest" or len(node.inputs) != 1:
        _refuse(node, "other than to the nearest of one map cannot be written as ONNX")
    scale = float(node.attrs["scale"])
    return to.emit("Resize", to.read(node), "", [1.0, 1.0, scale, scale], mode="nearest",
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@_writes("_contrib_BilinearResize2D")
def _bilinear_resize(node, to):
    if not node.attrs.get("align_corners", True):
        _refuse(node, "without align_corners has no counterpart in ONNX here")
    return to.emit("Resize", to.read(node), "", "", to.sizes(to.shapes(node)), mode="linear",
                   coordinate_transformation_mode="align_corners")


@_writes("im2col")
def _im2col(node, to):
    """Each value of each window as a channel: a convolution with kernels of a single one."""
    channels = _shape(node)[1]
    kernel, stride, dilate, pad = _window(node, "kernel", "stride", "dilate", "pad")
    points = math.prod(kernel)
    kernels = np.tile(np.eye(points, dtype=np.float32), (channels, 1))
    windows = to.emit("Conv", to.read(node), kernels.reshape(-1, 1, *kernel), group=channels,
                      kernel_shape=kernel, strides=stride, dilations=dilate, pads=2 * pad)
    return to.reshape(node, windows)


# ---- sums and products ----

_REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}


@_writes(*_REDUCTIONS)
def _reduction(node, to):
    axes, keep = node.attrs.get("axis"), bool(node.attrs.get("keepdims"))
    if axes in (None, ()) or node.attrs.get("exclude"):
        _refuse(node, "without the axes that it is over cannot be written as ONNX")
    axes = [axis % len(_shape(node)) for axis in (axes if isinstance(axes, tuple) else (axes,))]
    x, name = to.read(node), _REDUCTIONS[node.op]
    if node.op == "sum":    # whose axes are an input of its own since opset 13
        return to.emit(name, x, axes, keepdims=keep)
    return to.emit(name, x, axes=axes, keepdims=keep)


@_writes("argmax")
def _index_of_maximum(node, to):
    """Nothing: only a pick reads it, as `_pick` sees to."""
    return []


@_writes("pick")
def _pick(node, to):
    """The pick of an argmax is the maximum; nothing else is known here."""
    (argmax, _), axis = node.inputs[1], _axis(node, -1)
    if argmax.op != "argmax" or argmax.inputs != node.inputs[:1] or _axis(argmax) != axis:
        _refuse(node, "picks something other than a maximum")
    return to.emit("ReduceMax", to.read(node), axes=[axis],
                   keepdims=bool(node.attrs.get("keepdims")))


@_writes("batch_dot")
def _matrix_product(node, to):
    factors = to.read_broadcast(node)
    for k, side in enumerate("ab"):
        if node.attrs.get(f"transpose_{side}"):
            *others, rows, columns = range(len(_shape(node, k)))
            factors[k] = to.emit("Transpose", factors[k], perm=[*others, columns, rows])
    return to.emit("MatMul", *factors)


# ---- shapes ----

@_writes("Reshape", "reshape_like", "expand_dims", "Flatten")
def _reshape(node, to):
    source, output = node.inputs[0]
    if source.shapes[output] == node.shapes[0]:
        return to.read(node)
    return to.reshape(node, to.read(node))


@_writes("transpose")
def _transpose(node, to):
    rank = len(_shape(node))
    axes = node.attrs.get("axes") or range(rank)[::-1]
    return to.emit("Transpose", to.read(node), perm=[axis % rank for axis in axes])


@_writes("Concat")
def _concat(node, to):
    return to.emit("Concat", *(to.read(node, k) for k in range(len(node.inputs))),
                   axis=_axis(node, 1, "dim"))


@_writes("SliceChannel")
def _split(node, to):
    axis, count = _axis(node, 1), node.attrs["num_outputs"]
    parts = to.emit("Split", to.read(node), outputs=count, axis=axis)
    parts = [parts] if count == 1 else parts
    if node.attrs.get("squeeze_axis"):
        parts = [to.emit("Squeeze", part, [axis]) for part in parts]
    return parts


@_writes("slice_axis")
def _slice_axis(node, to):
    end = node.attrs.get("end")
    return to.emit("Slice", to.read(node), [node.attrs["begin"]],
                   [np.iinfo(np.int64).max if end is None else end], [_axis(node)])


@_writes("slice_like")
def _slice_like(node, to):
    axes, sizes = node.attrs.get("axes") or (), node.shape()
    if 0 in axes or not axes:
        _refuse(node, "of the axis of the images cannot be written as ONNX")
    if sizes == _shape(node):
        return to.read(node)
    return to.emit("Slice", to.read(node), [0] * len(axes), [sizes[axis] for axis in axes],
                   list(axes))


@_writes("broadcast_axis", "broadcast_like")
def _broadcast(node, to):
    source, output = node.inputs[0]
    before, after = to.shapes(source, output), to.shapes(node)
    same = [pair == other for pair, other in zip(zip(*before), zip(*after))]
    return to.emit("Expand", to.read_broadcast(node)[0], to.sizes(
        [[1 if kept else size for size, kept in zip(shape, same)] for shape in after]))


@_writes("take")
def _take(node, to):
    if node.attrs.get("mode", "clip") != "clip":
        _refuse(node, "of positions that are not clipped cannot be written as ONNX")
    axis = node.attrs.get("axis", 0)
    places = to.emit("Clip", to.read(node, 1), 0.0, float(_shape(node)[axis] - 1))
    return to.emit("Gather", to.read(node), to.emit("Cast", places, to=onnx.TensorProto.INT64),
                   axis=axis)


@_writes("ones_like", "zeros_like")
def _ones_like(node, to):
    value = numpy_helper.from_array(np.array([node.op == "ones_like"], np.float32))
    return to.emit("ConstantOfShape", to.sizes(to.shapes(node)), value=value)


@_writes("_contrib_arange_like")
def _arange_like(node, to):
    one, two = node.shapes[0]
    if len(one) != 1 or one != two:
        _refuse(node, "depends on the number of images")
    if node.attrs.get("repeat", 1) != 1 or node.attrs.get("step", 1) != 1:
        _refuse(node, "other than by one cannot be written as ONNX")
    return to.constant(float(node.attrs.get("start", 0)) + np.arange(*one))
