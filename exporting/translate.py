"""From MXNet's operators to ONNX's, with all shapes known but for the number of images.

MXNet's exporter translates each operator by itself and knows no shapes: it computes them in
the graph, and refuses most reshapes. Here the shapes are inferred first, for one image and for
two; what differs between the two depends on the number of images. So reshapes, slices and the
like get constants.

The attention units write means as products with a vector of 1 / n, and spread a map with a
product with ones, because that is quick in MXNet (see `model.attention`). Runtimes have quick
means and broadcasts. So two things are tracked for each tensor:

* its `stored` shape: a tensor that repeats itself along an axis is kept with length 1 there,
  and spread only where something other than an element-wise operator reads it;
* its value, if it is the same number everywhere.

A product with ones then becomes nothing at all, one with 1 / n a mean, and the pick of an
argmax the maximum that it is.
"""
import json
import math
import operator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .mxnet_exporter import Unexportable

__all__ = ["Translation"]

_TRANSLATORS = {}
_FAR = 2 ** 63 - 1

# MXNet's operators on numbers -> ONNX's, and the same for two Python numbers.
_BINARY = {
    **dict.fromkeys(("elemwise_add", "broadcast_add", "_plus_scalar"), ("Add", operator.add)),
    **dict.fromkeys(("elemwise_sub", "broadcast_sub", "_minus_scalar"), ("Sub", operator.sub)),
    **dict.fromkeys(("elemwise_mul", "broadcast_mul", "_mul_scalar"), ("Mul", operator.mul)),
    **dict.fromkeys(("elemwise_div", "broadcast_div", "_div_scalar"), ("Div", operator.truediv)),
    **dict.fromkeys(("_maximum", "broadcast_maximum", "_maximum_scalar"), ("Max", max)),
}
_UNARY = ("Activation", "exp", "sigmoid", "tanh", "relu", "BlockGrad", "_copy", "identity")


def translates(*names):
    """Return a decorator that files a translation under operators' names.

    It takes a `_Node`, emits its ONNX nodes or values and returns nothing, or returns
    NotImplemented to leave it to MXNet's exporter.
    """
    def file_under_names(function):
        for name in names:
            _TRANSLATORS[name] = function
        return function
    return file_under_names


class Translation:
    """The translations for one network, and what is known of its tensors.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
    input_shape : tuple of 3 int
        (3, H, W) of the input ``images``.
    theirs : dict of str to callable
        MXNet's own translations.
    """

    def __init__(self, symbol, input_shape, theirs):
        self.theirs = theirs
        self.nodes = json.loads(symbol.tojson())["nodes"]
        self.shapes = _infer_shapes(symbol, self.nodes, input_shape)
        self.stored, self.values = {}, {}

    def functions(self):
        """Operator -> function for MXNet's registry; covers every operator of the network."""
        return {node["op"]: self._translate for node in self.nodes}

    def _translate(self, node, **kwargs):
        """As MXNet's exporter wants it: a list of nodes, or (list, types)."""
        if node["op"] == "null":
            return self._weight(node, kwargs)
        current = _Node(self, node, kwargs)
        translator = _TRANSLATORS.get(node["op"])
        if translator is None or translator(current) is NotImplemented:
            return self._leave(current, node, kwargs)
        return current.emitted

    def _weight(self, node, kwargs):
        if kwargs["is_input"]:
            return self.theirs["null"](node, **kwargs)
        array = kwargs["weights"][node["name"]]
        kwargs["initializer"].append(numpy_helper.from_array(array, node["name"]))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return [helper.make_tensor_value_info(node["name"], kind, array.shape)], (array.dtype,)

    def _leave(self, current, node, kwargs):
        """What MXNet's exporter makes of a node, its inputs spread to their full shapes."""
        if node["op"] not in self.theirs:
            raise Unexportable(f"{current.what} has no counterpart in ONNX here")
        if current.is_true("exclude"):
            # MXNet's exporter reads over it.
            raise Unexportable(f"{current.what} excludes axes: name those that it is over")
        names = [current.full(k) for k in range(len(node["inputs"]))]
        if names != current.inputs:
            lookup = {tuple(source[:2]): name for source, name in zip(node["inputs"], names)}
            kwargs = {**kwargs, "outputs_lookup": _Renamed(kwargs["outputs_lookup"], lookup)}
        try:
            result = self.theirs[node["op"]](node, **kwargs)
        except (NotImplementedError, AttributeError, AssertionError, LookupError, TypeError,
                ValueError) as error:
            raise Unexportable(f"{current.what} cannot be written as ONNX: "
                               f"{' '.join(map(str, error.args))}") from None
        nodes, dtypes = result if isinstance(result, tuple) else (result, None)
        return [*current.emitted, *nodes], dtypes


class _Renamed:
    """MXNet's table of output names, with some of them replaced."""

    def __init__(self, lookup, names):
        self._lookup, self._names = lookup, names

    def __getitem__(self, number):
        return [type(output)(self._names.get((number, k), output.name), output.dtype)
                for k, output in enumerate(self._lookup[number])]


def _infer_shapes(symbol, nodes, input_shape):
    """For each node the shapes of its outputs, each as a pair: for one image, and for two."""
    internals = symbol.get_internals()
    names = internals.list_outputs()
    one, two = (internals.infer_shape(images=(count, *input_shape))[1] for count in (1, 2))
    shapes, position = [], 0
    for node in nodes:
        start = position
        position += 1
        while (node["op"] != "null" and position < len(names)
               and names[position].startswith(node["name"] + "_")
               and names[position] != names[start]
               and not any(names[position] == other["name"] for other in nodes)):
            position += 1
        shapes.append(list(zip(one[start:position], two[start:position])))
    if position != len(names):
        raise Unexportable("its outputs cannot be told apart by their names")
    return shapes


class _Node:
    """One node of MXNet's graph while it is translated.

    Attributes
    ----------
    inputs : list of str
        Names of the tensors that it reads, as they are stored.
    attrs : dict of str to str
    emitted : list of onnx.NodeProto or onnx.ValueInfoProto
    """

    def __init__(self, translation, node, kwargs):
        self.translation, self._initializer = translation, kwargs["initializer"]
        self.op, self.name, self.attrs = node["op"], node["name"], node.get("attrs", {})
        self._sources = [tuple(source[:2]) for source in node["inputs"]]
        self.inputs = [kwargs["outputs_lookup"][i][k].name for i, k in self._sources]
        self._number = kwargs["idx"]
        self.emitted = []

    @property
    def what(self):
        """The node, for error messages."""
        return f"{self.op} ({self.name})"

    def source(self, k):
        """Operator, attributes and sources of the node that input `k` comes from."""
        node = self.translation.nodes[self._sources[k][0]]
        return node["op"], node.get("attrs", {}), [tuple(s[:2]) for s in node["inputs"]]

    def shapes(self, k):
        """Shapes of input `k` for one image and for two."""
        number, output = self._sources[k]
        return self.translation.shapes[number][output]

    @property
    def out_shapes(self):
        return self.translation.shapes[self._number][0]

    @property
    def out_rank(self):
        return len(self.out_shapes[0])

    def stored(self, k):
        """For each axis of input `k`, whether it is stored with length 1 though it is longer."""
        rank = len(self.shapes(k)[0])
        return self.translation.stored.get(self.inputs[k], (False,) * rank)

    def value(self, k):
        """The number that input `k` holds everywhere, or None."""
        return self.translation.values.get(self.inputs[k])

    def axis(self, k, attribute="axis", default=None):
        """An axis of input `k`, counted from the front."""
        return int(self.attrs.get(attribute, default)) % len(self.shapes(k)[0])

    def axes(self, k):
        """The axes of input `k` that a reduction is over, counted from the front."""
        given = self.attrs.get("axis", "()").strip("()[] ").replace("None", "")
        every = range(len(self.shapes(k)[0]))
        named = [int(axis) % len(every) for axis in given.split(",") if axis.strip()]
        if self.is_true("exclude"):
            return [axis for axis in every if axis not in named] if named else list(every)
        return named or list(every)

    def is_true(self, attribute):
        """Whether an attribute, False if it is not there, is true."""
        return self.attrs.get(attribute, "False") in ("True", "1")

    # ---- emitting ----

    def constant(self, values, dtype=np.int64):
        """Name of a new constant."""
        name = f"{self.name}_constant{len(self._initializer)}"
        self._initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, operator_type, inputs, final=False, **attributes):
        """Emit an ONNX node; the `final` one makes the output. Returns its output's name."""
        name = self.name if final else f"{self.name}_{operator_type}{len(self.emitted)}"
        self.emitted.append(helper.make_node(operator_type, inputs, [name], name=name,
                                             **attributes))
        return name

    def finish(self, operator_type, inputs, stored=None, **attributes):
        """Emit the final node, whose output is stored with length 1 along some axes."""
        self.add(operator_type, inputs, final=True, **attributes)
        if stored is not None and any(stored):
            self.translation.stored[self.name] = tuple(stored)

    def uniform(self, value):
        """The output is one number everywhere."""
        self.translation.values[self.name] = value
        self.translation.stored[self.name] = (True,) * self.out_rank
        array = np.full((1,) * self.out_rank, value, np.float32)
        self._initializer.append(numpy_helper.from_array(array, self.name))
        self.emitted.append(helper.make_tensor_value_info(
            self.name, onnx.TensorProto.FLOAT, array.shape))

    def target(self, shapes, stored=None):
        """A constant for Reshape: -1 where the shape depends on the number of images."""
        stored = stored or (False,) * len(shapes[0])
        target = [1 if short else one if one == two else -1
                  for one, two, short in zip(*shapes, stored)]
        if target.count(-1) > 1:
            raise Unexportable(f"{self.what} makes two axes depend on the number of images")
        return self.constant(target)

    def full(self, k):
        """Name of input `k`, spread to its full shape."""
        if not any(short and one_two != (1, 1) for short, one_two
                   in zip(self.stored(k), zip(*self.shapes(k)))):
            return self.inputs[k]
        return self.add("Expand", [self.inputs[k], self._shape_tensor(self.shapes(k))])

    def _shape_tensor(self, shapes):
        """Name of a tensor with a shape, which may depend on the number of images."""
        if shapes[0] == shapes[1]:
            return self.constant(shapes[0])
        images = self.add("Slice", [self.add("Shape", ["images"]), self.constant([0]),
                                    self.constant([1])])
        factors = [two - one if one != two else 0 for one, two in zip(*shapes)]
        fixed = [one if one == two else 0 for one, two in zip(*shapes)]
        return self.add("Add", [self.add("Mul", [images, self.constant(factors)]),
                                self.constant(fixed)])


# ---- numbers -----------------------------------------------------------------------------------

@translates(*_BINARY)
def _binary(node):
    operation, compute = _BINARY[node.op]
    if node.op.endswith("_scalar"):
        scalar = float(node.attrs["scalar"])
        if node.value(0) is not None:
            return node.uniform(compute(node.value(0), scalar))
        return node.finish(operation, [node.inputs[0], node.constant(scalar, np.float32)],
                           node.stored(0))
    if None not in (node.value(0), node.value(1)):
        return node.uniform(compute(node.value(0), node.value(1)))
    if len(node.shapes(0)[0]) != len(node.shapes(1)[0]):
        return NotImplemented
    # Short in the output where each input is short or has length 1 anyway.
    long = [[not short and size != 1 for short, size in zip(node.stored(k), node.shapes(k)[1])]
            for k in range(2)]
    stored = [not (a or b) and size != 1 for a, b, size in zip(*long, node.out_shapes[1])]
    return node.finish(operation, node.inputs, stored)


@translates(*_UNARY)
def _unary(node):
    if node.op in ("BlockGrad", "_copy", "identity"):
        if node.value(0) is not None:
            return node.uniform(node.value(0))
        return node.finish("Identity", node.inputs, node.stored(0))
    names = {"exp": "Exp", "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu",
             "softrelu": "Softplus", "softsign": "Softsign"}
    kind = node.attrs.get("act_type", node.op)
    if kind not in names:
        return NotImplemented
    return node.finish(names[kind], node.inputs, node.stored(0))


@translates("square")
def _square(node):
    if node.value(0) is not None:
        return node.uniform(node.value(0) ** 2)
    return node.finish("Mul", [node.inputs[0], node.inputs[0]], node.stored(0))


@translates("Dropout")
def _dropout(node):
    if node.attrs.get("mode") == "always":
        raise Unexportable(f"{node.what} draws at random also in prediction")
    return node.finish("Identity", node.inputs[:1], node.stored(0))


@translates("LeakyReLU")
def _leaky_relu(node):
    slopes = node.shapes(1)[0] if len(node.inputs) > 1 else (1,)
    if node.attrs.get("act_type") != "prelu" or slopes == (1,):
        return NotImplemented
    # ONNX aligns the slopes with the last axis, MXNet with the channels.
    slope = node.add("Reshape", [node.inputs[1], node.constant([-1, 1, 1])])
    return node.finish("PRelu", [node.full(0), slope])


# ---- shapes ------------------------------------------------------------------------------------

def _groups(before, after):
    """Pairs of runs of axes, of as many elements, that a reshape turns into one another."""
    i = j = 0
    while i < len(before) or j < len(after):
        start, begin = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        yield range(start, i), range(begin, j)


@translates("Reshape", "reshape_like", "expand_dims", "Flatten")
def _reshape(node):
    if node.value(0) is not None:
        return node.uniform(node.value(0))
    source, stored = node.inputs[0], None
    if any(node.stored(0)):
        stored = [False] * node.out_rank
        for ins, outs in _groups(node.shapes(0)[1], node.out_shapes[1]):
            long = [k for k in ins if node.shapes(0)[1][k] != 1]
            if all(node.stored(0)[k] for k in long):
                for k in outs:
                    stored[k] = node.out_shapes[1][k] != 1
            elif any(node.stored(0)[k] for k in long):
                source, stored = node.full(0), None
                break
    return node.finish("Reshape", [source, node.target(node.out_shapes, stored)], stored)


@translates("transpose", "SwapAxis")
def _transpose(node):
    if node.value(0) is not None:
        return node.uniform(node.value(0))
    axes = list(range(node.out_rank))
    if node.op == "SwapAxis":
        first, second = node.axis(0, "dim1", 0), node.axis(0, "dim2", 0)
        axes[first], axes[second] = second, first
    else:
        given = node.attrs.get("axes", "()").strip("()[] ")
        axes = [int(axis) for axis in given.split(",") if axis.strip()] or axes[::-1]
    return node.finish("Transpose", node.inputs, [node.stored(0)[axis] for axis in axes],
                       perm=axes)


@translates("ones_like", "zeros_like")
def _ones_like(node):
    return node.uniform(1.0 if node.op == "ones_like" else 0.0)


@translates("slice_axis")
def _slice_axis(node):
    if node.value(0) is not None:
        return node.uniform(node.value(0))
    end = node.attrs.get("end", "None")
    return node.finish("Slice", [node.full(0), node.constant([int(node.attrs["begin"])]),
                                 node.constant([_FAR if end == "None" else int(end)]),
                                 node.constant([node.axis(0)])])


@translates("slice")
def _slice(node):
    return NotImplemented if node.value(0) is None else node.uniform(node.value(0))


@translates("slice_like")
def _slice_like(node):
    axes = [axis for axis in range(node.out_rank)
            if node.shapes(0)[1][axis] != node.out_shapes[1][axis]]
    if any(node.out_shapes[0][axis] != node.out_shapes[1][axis] for axis in axes):
        raise Unexportable(f"{node.what} slices the axis of the images")
    if not axes:
        return node.finish("Identity", [node.full(0)])
    return node.finish("Slice", [node.full(0), node.constant([0] * len(axes)),
                                 node.constant([node.out_shapes[0][axis] for axis in axes]),
                                 node.constant(axes)])


@translates("broadcast_axis")
def _broadcast_axis(node):
    if node.value(0) is not None:
        return node.uniform(node.value(0))
    stored = [short or before != after for short, before, after
              in zip(node.stored(0), node.shapes(0)[1], node.out_shapes[1])]
    return node.finish("Identity", node.inputs, stored)


@translates("_contrib_arange_like")
def _arange_like(node):
    length, count = node.out_shapes[0][0], node.out_shapes[1][0]
    if node.out_rank != 1 or length != count:
        raise Unexportable(f"{node.what} depends on the number of images")
    if node.attrs.get("repeat", "1") != "1":
        raise Unexportable(f"{node.what} repeats its numbers")
    start, step = (float(node.attrs.get(name, default))
                   for name, default in (("start", 0), ("step", 1)))
    return node.finish("Identity", [node.constant(start + step * np.arange(length), np.float32)])


# ---- sums and products -------------------------------------------------------------------------

@translates("sum", "mean")
def _sum(node):
    axes = node.axes(0)
    if node.value(0) is not None:
        if node.op == "mean":
            return node.uniform(node.value(0))
        sizes = [[shape[axis] for axis in axes] for shape in node.shapes(0)]
        if sizes[0] != sizes[1]:
            raise Unexportable(f"{node.what} adds up over the images")
        return node.uniform(node.value(0) * math.prod(sizes[0]))
    if not axes:
        return node.finish("Identity", [node.full(0)])
    keep = int(node.is_true("keepdims"))
    if len(axes) == len(node.shapes(0)[0]) and not keep:
        return NotImplemented    # MXNet's result has one axis, ONNX's none
    # MXNet's exporter computes the shape of a mean in the graph.
    if node.op == "mean":
        return node.finish("ReduceMean", [node.full(0)], axes=axes, keepdims=keep)
    return node.finish("ReduceSum", [node.full(0), node.constant(axes)], keepdims=keep)


def _product_with_uniform(node, k, transposed):
    """The matrix product of input `k` with one number everywhere, on the other side."""
    # The summed axis: the last of the left factor, the one before of the right one.
    axis = (2 if not transposed else 1) if k == 0 else (1 if not transposed else 2)
    value, length = node.value(1 - k), node.shapes(k)[0][axis]
    if node.shapes(k)[1][axis] != length:
        raise Unexportable(f"{node.what} adds up over the images")
    source, stored = node.inputs[k], list(node.stored(k))
    if length == 1 or stored[axis]:
        value *= length
    elif math.isclose(value * length, 1.0, rel_tol=1e-6):
        value, source = 1.0, node.add("ReduceMean", [source], axes=[axis], keepdims=1)
    else:
        source = node.add("ReduceSum", [source, node.constant([axis])], keepdims=1)
    if transposed:
        source, stored[1], stored[2] = (node.add("Transpose", [source], perm=[0, 2, 1]),
                                        stored[2], stored[1])
    # What is left of input `k` is a vector; along the other axis the product repeats itself.
    spread = 2 if k == 0 else 1
    stored[spread] = node.out_shapes[1][spread] != 1
    if value == 1.0:
        return node.finish("Identity", [source], stored)
    return node.finish("Mul", [source, node.constant(value, np.float32)], stored)


@translates("batch_dot")
def _batch_dot(node):
    transposed = [node.attrs.get(f"transpose_{side}", "False") in ("True", "1") for side in "ab"]
    for k in (0, 1):
        if node.value(1 - k) is not None:
            if node.value(k) is not None:
                return NotImplemented
            return _product_with_uniform(node, k, transposed[k])
    factors = [node.add("Transpose", [node.full(k)], perm=[0, 2, 1]) if transposed[k]
               else node.full(k) for k in (0, 1)]
    return node.finish("MatMul", factors)


@translates("pick")
def _pick(node):
    """The pick of an argmax is the maximum; nothing else is known here."""
    operation, attributes, sources = node.source(1)
    axis = node.axis(0, default=-1)
    rank = len(node.shapes(0)[0])
    if (operation != "argmax" or sources != node._sources[:1]
            or int(attributes.get("axis", rank)) % rank != axis):
        raise Unexportable(f"{node.what} picks something other than a maximum")
    keep = node.attrs.get("keepdims", "False") in ("True", "1")
    return node.finish("ReduceMax", [node.full(0)], axes=[axis], keepdims=int(keep))


@translates("im2col")
def _im2col(node):
    """Each value of each window as a channel: a convolution with kernels of a single one."""
    channels = node.shapes(0)[0][1]
    pair = {name: [int(v) for v in node.attrs.get(name, default).strip("()[]").split(",")]
            for name, default in (("kernel", None), ("stride", "1, 1"), ("dilate", "1, 1"),
                                  ("pad", "0, 0"))}
    points = math.prod(pair["kernel"])
    kernels = np.tile(np.eye(points, dtype=np.float32), (channels, 1))
    weight = node.constant(kernels.reshape(-1, 1, *pair["kernel"]), np.float32)
    windows = node.add("Conv", [node.full(0), weight], group=channels, pads=2 * pair["pad"],
                       kernel_shape=pair["kernel"], strides=pair["stride"],
                       dilations=pair["dilate"])
    return node.finish("Reshape", [windows, node.target(node.out_shapes)])


# ---- layers that MXNet's exporter translates but for one option --------------------------------

@translates("Convolution")
def _convolution(node):
    if node.attrs.get("layout") == "NCW":
        # One axis is written as two are; MXNet's exporter only refuses the layout's name.
        node.attrs["layout"] = "NCHW"
    return NotImplemented


@translates("_contrib_SyncBatchNorm")
def _sync_batch_norm(node):
    return node.finish("BatchNormalization", [node.full(0), *node.inputs[1:]],
                       epsilon=float(node.attrs.get("eps", 1e-3)))


@translates("_contrib_BilinearResize2D")
def _bilinear_resize(node):
    if node.attrs.get("align_corners", "True") not in ("True", "1"):
        raise Unexportable(f"{node.what} without align_corners has no counterpart in ONNX here")
    sizes = node._shape_tensor(node.out_shapes)
    return node.finish("Resize", [node.full(0), "", "", sizes], mode="linear",
                       coordinate_transformation_mode="align_corners")
