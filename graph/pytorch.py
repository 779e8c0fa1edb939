"""A network's graph as a PyTorch module, which computes and trains as the network in MXNet does.

    module = to_pytorch(net, (3, 32, 32))          a Gluon network, or
    module = to_pytorch(graph, arrays=arrays)      what `graph.load` read, without MXNet
    load_params(module, "best.params")

A table gives a function of tensors for each of MXNet's operators. They are called once, with
PyTorch's proxies of tensors, while the module is made; it is the record of what they called:
straight-line code, in which all attributes are constants and which ``torch.compile`` takes
whole. Sizes are read while it runs, so that any number of images of any size fits. Parameters
and buffers have their structural names, those of .params files.

Where PyTorch has another habit, MXNet's is kept: running variances are the biased ones, a
momentum counts the old value, the first of equal maxima gets the gradient of a pooling.
"""
import inspect
import itertools
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from common.errors import FileError, UserError
from common.params import ParamsError, difference, read_params

from .graph import Graph, trace
from .torch_gate import GATE
from .torch_gate import gate as chaatac

__all__ = ["Untranslatable", "load_params", "to_pytorch", "weights"]

# Attributes that say how to compute, not what; or what the inputs' shapes say, too.
_IGNORED = {"workspace", "cudnn_tune", "cudnn_off", "num_args", "num_filter", "num_hidden",
            "forward_stype", "is_int", "key", "ndev", "input_dim", "output_dim", "sparse_grad"}
_OPERATORS = {}


class Untranslatable(UserError):
    """A network holds what has no translation to PyTorch; the text names it."""


class _Unsupported(Exception):
    """An attribute of an operator has a value that is not translated."""


def to_pytorch(net, image_shape=None, arrays=None, rules=()):
    """A network as a PyTorch module.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock or Graph
        A Gluon network has its parameters; it is left as it is.
    image_shape : tuple of int, optional
        Of one image of a Gluon network, such as (3, 32, 32); others fit, too, if they fit the
        network.
    arrays : dict of str to numpy.ndarray, optional
        A value for each of a graph's variables.
    rules : iterable of callable, optional
        For `Graph.rewrite`: what is to be computed in another way.

    Returns
    -------
    torch.fx.GraphModule
        In training mode, on the CPU; its ``state_dict`` has the names and values that
        ``save_parameters`` writes. Takes (N, C, H, W) and returns what the network does.

    Raises
    ------
    Untranslatable
        If an operator, or one of its attributes, has no translation.
    GraphError
        If a Gluon network has no graph.
    """
    graph = net
    if not isinstance(net, Graph):
        graph, arrays = trace(net, image_shape), _gluon_arrays(net)
    trained = {id(arrays[name]) for name, node in graph.variables.items()
               if node.attrs.get("trained")}
    own = {}    # one tensor for each array, whose names may be several
    for array in arrays.values():
        tensor = torch.from_numpy(np.array(array))
        own.setdefault(id(array), nn.Parameter(tensor) if id(array) in trained else tensor)
    tensors = {name: own[id(array)] for name, array in arrays.items()}
    _check_names(tensors)
    return fx.GraphModule({"training": True, **tensors}, _recorded(graph.rewrite(*rules), tensors),
                          "Network")


def _gluon_arrays(net):
    """Arrays by structural name; a parameter that blocks share is one array of several names."""
    parameters, arrays = net._collect_params_with_prefix(), {}
    for name, parameter in parameters.items():
        if parameter._data is None:
            raise UserError(f"the network's {name} has no values yet: initialize the network and "
                            "call it once")
        if parameter not in arrays:
            arrays[parameter] = parameter.data(parameter.list_ctx()[0]).asnumpy()
    return {name: arrays[parameter] for name, parameter in parameters.items()}


def _check_names(names):
    """Each part of a name becomes an attribute, and stands in the module's code."""
    taken = {name.rpartition(".")[0] for name in names}
    for name in names:
        for part in name.split("."):
            if (not re.fullmatch(r"[A-Za-z0-9_]+", part) or part == "training"
                    or hasattr(fx.GraphModule, part) or name in taken):
                raise Untranslatable(f"a parameter cannot be called {name!r} in PyTorch")


def _recorded(graph, names):
    """The calls that compute a graph, as one of PyTorch's graphs."""
    record = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(record)

    def proxy(fx_node, node=None):
        result = fx.Proxy(fx_node, tracer)
        if node:
            result.ndim = len(node.shape())
        return result

    data = [node for node in graph.nodes if node.op == "input"]
    values = {node: proxy(record.placeholder(node.name), node) for node in data}
    training = proxy(record.create_node("get_attr", "training"))
    own = {name: record.create_node("get_attr", name) for name in names}
    for node in graph.nodes:
        if node.op in ("parameter", "state"):
            values[node] = proxy(own[node.name], node)
        elif node.op != "input":
            values[node] = _translated(node, values, training)
    outputs = [_output(values, *entry).node for entry in graph.outputs]
    record.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    return record


def _output(values, node, number):
    result = values[node]
    if isinstance(result, list):
        result = result[number]
    elif number:
        raise Untranslatable(f"output {number} of the operator {node.op} ({node.name}) has no "
                             "translation to PyTorch")
    if not node.is_variable:
        result.ndim = len(node.shape(number))
    return result


def _translated(node, values, training):
    """What an operator returns for the proxies of its inputs: a proxy, or a list of them."""
    where = f"the operator {node.op} ({node.name})"
    if node.op not in _OPERATORS:
        raise Untranslatable(f"{where} has no translation to PyTorch")
    function = _OPERATORS[node.op]
    signature = inspect.signature(function)
    options = signature.parameters
    attrs = {key: value for key, value in node.attrs.items()
             if key in options or key not in _IGNORED}
    unknown = [key for key in attrs if key not in options]
    if "training" in options:
        attrs["training"] = training
    inputs = [_output(values, *entry) for entry in node.inputs]
    try:
        if unknown:
            _refuse(**{key: attrs[key] for key in unknown})
        call = signature.bind(*inputs, **attrs)
        return function(*call.args, **call.kwargs)
    except _Unsupported as error:
        raise Untranslatable(f"{where} has no translation to PyTorch with {error}") from None
    except TypeError as error:
        raise Untranslatable(f"{where} is not as MXNet has it: {error}") from None


def _refuse(**attrs):
    raise _Unsupported(", ".join(f"{key}={value!r}" for key, value in attrs.items()))


# ---- weights -----------------------------------------------------------------------------------

def weights(module):
    """Arrays of all that a module holds, by structural name: what .params files hold."""
    return {name: tensor.detach().cpu().numpy().copy()
            for name, tensor in module.state_dict().items()}


def load_params(module, path):
    """Read a .params file into a module.

    Raises
    ------
    FileError
        If the file is not sound, or is of another network; the module is as it was.
    """
    try:
        arrays = read_params(path)
    except ParamsError as error:
        raise FileError(f"{path}: {error}") from None
    found = difference({name: tensor.shape for name, tensor in module.state_dict().items()},
                       arrays)
    if found:
        raise FileError(f"{path} is of another network: {found}")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


# ---- the table ---------------------------------------------------------------------------------
# A function's inputs are tensors; its keywords are the attributes, with MXNet's defaults, and
# `training`. While a module is made, the tensors are proxies that know their `ndim`.

def _translates(*names):
    def register(function):
        _OPERATORS.update(dict.fromkeys(names, function))
        return function
    return register


def _whole(function):
    """Have a module call a function as a whole, for what depends on more than attributes."""
    def call(x, *args):
        return x.tracer.create_proxy("call_function", function, (x, *args), {})
    return call


_CHANNELS_FIRST = (None, "None", "NCW", "NCHW", "NCDHW")


def _check_layout(layout):
    if layout not in _CHANNELS_FIRST:
        _refuse(layout=layout)


def _positive(axis, x):
    return axis + x.ndim if axis < 0 else axis


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _axes(axis, x, exclude=False):
    """The axes of x (tuple) that an attribute names, or all others; all if it names none."""
    if axis in (None, ()):
        return tuple(range(x.ndim))
    axes = tuple(_positive(k, x) for k in _tuple(axis))
    return tuple(k for k in range(x.ndim) if k not in axes) if exclude else axes


_OPERATORS.update({
    "Embedding": lambda indices, weight, *, dtype=None: F.embedding(indices.long(), weight),
    "im2col": lambda x, *, kernel, stride=1, dilate=1, pad=0: F.unfold(x, kernel, dilate, pad,
                                                                       stride),
    "InstanceNorm": lambda x, gamma, beta, *, eps=1e-3: F.instance_norm(
        x, None, None, gamma, beta, True, 0.0, eps),
    "log_softmax": lambda x, *, axis=-1: torch.log_softmax(x, axis),
    "Flatten": lambda x: x.flatten(1),
    "expand_dims": lambda x, *, axis: x.unsqueeze(axis),
    "squeeze": lambda x, *, axis=None: x.squeeze() if axis is None else x.squeeze(axis),
    "transpose": lambda x, *, axes=(): x.permute(axes or tuple(range(x.ndim))[::-1]),
    "SwapAxis": lambda x, *, dim1=0, dim2=0: x.transpose(dim1, dim2),
    "Concat": lambda *inputs, dim=1: torch.cat(inputs, dim),
    "stack": lambda *inputs, axis=0: torch.stack(inputs, axis),
    "broadcast_like": lambda x, y: x.expand_as(y),
    "add_n": lambda first, *others: sum(others, first),
    "clip": lambda x, *, a_min, a_max: x.clamp(a_min, a_max)})


# -- products

@_translates("Convolution")
def _convolution(x, weight, bias=None, *, kernel, stride=(), pad=(), dilate=(), num_group=1,
                 no_bias=False, layout=None):
    _check_layout(layout)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    ones = (1,) * len(kernel)
    return convolve(x, weight, bias, stride or ones, pad or 0, dilate or ones, num_group)


@_translates("Deconvolution")
def _deconvolution(x, weight, bias=None, *, kernel, stride=(), pad=(), adj=(), dilate=(),
                   num_group=1, no_bias=True, layout=None, target_shape=()):
    _check_layout(layout)
    if target_shape:
        _refuse(target_shape=target_shape)
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    ones = (1,) * len(kernel)
    return convolve(x, weight, bias, stride or ones, pad or 0, adj or 0, num_group,
                    dilate or ones)


@_translates("FullyConnected")
def _dense(x, weight, bias=None, *, flatten=True, no_bias=False):
    return F.linear(x.flatten(1) if flatten and x.ndim != 2 else x, weight, bias)


@_translates("batch_dot")
def _batch_dot(a, b, *, transpose_a=False, transpose_b=False):
    return torch.matmul(a.transpose(-2, -1) if transpose_a else a,
                        b.transpose(-2, -1) if transpose_b else b)


# -- normalisations

@_translates("BatchNorm", "_contrib_SyncBatchNorm")
def _batch_norm(x, gamma, beta, mean, variance, *, training, eps=1e-3, momentum=0.9,
                fix_gamma=True, use_global_stats=False, output_mean_var=False, axis=1):
    if output_mean_var:
        _refuse(output_mean_var=True)
    axis = _positive(axis, x)
    y = _normalized(x if axis == 1 else x.movedim(axis, 1), None if fix_gamma else gamma, beta,
                    mean, variance, False if use_global_stats else training, eps, momentum)
    return y if axis == 1 else y.movedim(1, axis)


def batch_norm(x, gamma, beta, running_mean, running_var, training, eps, momentum):
    """Batch normalisation of x (N, C, ...), whose running variance is MXNet's, the biased one.

    Parameters
    ----------
    x : torch.Tensor
    gamma : torch.Tensor or None
        None: ones.
    beta, running_mean, running_var : torch.Tensor
        (C,); in training, the statistics are moved in place.
    training : bool
    eps : float
    momentum : float
        The share of the old statistics.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, gamma, beta, False, 0.0, eps)
    # In the statistics' precision: compiled, PyTorch would round them to that of x.
    y, mean, inverse_std = torch.native_batch_norm(x.to(running_mean.dtype), gamma, beta, None,
                                                   None, True, 0.0, eps)
    _move_statistics(running_mean, running_var, mean, inverse_std, eps, momentum)
    return y.to(x.dtype)


def _move_statistics(running_mean, running_var, mean, inverse_std, eps, momentum):
    with torch.no_grad():
        running_mean.lerp_(mean, 1 - momentum)
        running_var.lerp_(inverse_std.pow(-2) - eps, 1 - momentum)


_normalized = _whole(batch_norm)


def gated(x, w1, gamma1, beta1, mean1, var1, w2, gamma2, beta2, mean2, var2, training, eps,
          momentum):
    """x * sigmoid(BN(W2 relu(BN(W1 x)))), x (N, C, H, W); in training by `graph.torch_gate`.

    The parameters are those of `graph.torch_gate.gate`, and of both normalisations the running
    statistics; `training`, `eps` and `momentum` are those of `batch_norm`.
    """
    if training:
        y, *found, _ = chaatac(x, w1, gamma1, beta1, w2, gamma2, beta2, eps)
        _move_statistics(mean1, var1, *found[:2], eps, momentum)
        _move_statistics(mean2, var2, *found[2:], eps, momentum)
        return y
    hidden = F.relu(batch_norm(F.conv2d(x, w1), gamma1, beta1, mean1, var1, False, eps, momentum))
    return x * torch.sigmoid(batch_norm(F.conv2d(hidden, w2), gamma2, beta2, mean2, var2, False,
                                        eps, momentum))


@_translates(GATE)
def _gated(x, *parameters, training, eps, momentum):
    return _whole(gated)(x, *parameters, training, eps, momentum)


@_translates("LayerNorm")
def _layer_norm(x, gamma, beta, *, axis=-1, eps=1e-5, output_mean_var=False):
    if output_mean_var:
        _refuse(output_mean_var=True)
    y = F.layer_norm(x.movedim(axis, -1), (gamma.size(0),), gamma, beta, eps)
    return y.movedim(-1, axis)


@_translates("GroupNorm")
def _group_norm(x, gamma, beta, *, num_groups=1, eps=1e-5, output_mean_var=False):
    if output_mean_var:
        _refuse(output_mean_var=True)
    # Unlike PyTorch's, its gamma and beta are one value for each group.
    groups = (num_groups,) + (1,) * (x.ndim - 1)
    y = F.group_norm(x, num_groups, None, None, eps).unflatten(1, (num_groups, -1))
    return (y * gamma.reshape(groups) + beta.reshape(groups)).flatten(1, 2)


@_translates("L2Normalization")
def _l2_normalization(x, *, eps=1e-10, mode="instance"):
    axes = {"instance": tuple(range(1, x.ndim)), "channel": (1,),
            "spatial": tuple(range(2, x.ndim))}[mode]
    return x / (x.square().sum(axes, keepdim=True) + eps).sqrt()


# -- activations

_ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
                "softrelu": F.softplus, "softsign": F.softsign}


@_translates("Activation")
def _activation(x, *, act_type):
    return _ACTIVATIONS[act_type](x) if act_type in _ACTIVATIONS else _refuse(act_type=act_type)


@_translates("LeakyReLU")
def _leaky_relu(x, gamma=None, *, act_type="leaky", slope=0.25):
    if act_type == "prelu":
        return F.prelu(x, gamma)
    known = {"leaky": lambda: F.leaky_relu(x, slope), "elu": lambda: F.elu(x, slope),
             "selu": lambda: _selu(x), "gelu": lambda: F.gelu(x)}
    return known[act_type]() if act_type in known else _refuse(act_type=act_type)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _selu(x):
    # Below zero MXNet's gradient is scale (alpha + y), where y is SELU(x), not scale alpha + y.
    # So that is the derivative of `below`, and only that, not its value, reaches the result.
    # Clamped, because a gradient of infinity times the zero of `where` would be NaN.
    low = x.clamp(max=0)
    below = _SELU_SCALE * _SELU_ALPHA * (low + _SELU_SCALE * (torch.expm1(low) - low))
    slope = torch.where(x > 0, _SELU_SCALE * x, below)
    return F.selu(x).detach() + (slope - slope.detach())


@_translates("hard_sigmoid")
def _hard_sigmoid(x, *, alpha=0.2, beta=0.5):
    return F.hardtanh(alpha * x + beta, 0, 1)    # unlike clamp's, its gradient is 0 at 0 and 1


@_translates("softmax")
def _softmax(x, *, axis=-1, temperature=None, use_length=False, dtype=None):
    if use_length or dtype not in (None, "None"):
        _refuse(use_length=use_length, dtype=dtype)
    return torch.softmax(x if temperature in (None, "None") else x / temperature, axis)


@_translates("Dropout")
def _dropout(x, *, training, p=0.5, mode="training", axes=()):
    training = True if mode == "always" else training
    if not axes:
        return F.dropout(x, p, training)
    one = x.detach()
    for axis in axes:
        one = one.narrow(axis, 0, 1)
    return x * F.dropout(torch.ones_like(one), p, training)    # one draw along these axes


# -- pooling and resizing

@_translates("Pooling")
def _pooling(x, *, kernel=(), pool_type="max", global_pool=False, stride=(), pad=(),
             pooling_convention="valid", count_include_pad=True, layout=None):
    _check_layout(layout)
    if pool_type not in ("max", "avg", "sum"):
        _refuse(pool_type=pool_type)
    if global_pool:
        return _global_pooling(x, pool_type)
    dims = len(kernel)
    stride, pad = stride or (1,) * dims, pad or (0,) * dims
    full = pooling_convention == "full"
    # PyTorch leaves out windows that begin beyond the map, where MXNet's hold nothing, and pads
    # by half a window at most.
    if pooling_convention not in ("valid", "full") or any(
            p > k // 2 or full and s > k - p for s, k, p in zip(stride, kernel, pad)):
        _refuse(pooling_convention=pooling_convention, kernel=kernel, stride=stride, pad=pad)
    if pool_type == "max":
        return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1](
            x, kernel, stride, pad, ceil_mode=full)
    if pool_type == "sum":
        if dims == 1:
            _refuse(pool_type="sum", kernel=kernel)
        return (F.avg_pool2d, F.avg_pool3d)[dims - 2](x, kernel, stride, pad, full, True, 1)
    return (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1](
        x, kernel, stride, pad, full, count_include_pad is not False)


def _global_pooling(x, pool_type):
    axes = tuple(range(2, x.ndim))
    if pool_type == "max":
        # Not amax, which shares the gradient among equal maxima.
        largest = x.flatten(2).max(2).values
        return largest[(...,) + (None,) * len(axes)]
    return (x.mean if pool_type == "avg" else x.sum)(axes, keepdim=True)


@_translates("UpSampling")
def _upsampling(x, *, scale, sample_type):
    if sample_type != "nearest":
        _refuse(sample_type=sample_type)
    return F.interpolate(x, scale_factor=scale, mode="nearest")


@_translates("_contrib_BilinearResize2D")
def _bilinear_resize(x, like=None, *, mode="size", height=None, width=None, align_corners=True):
    if mode not in ("size", "like"):
        _refuse(mode=mode)
    if like is None and not align_corners and 1 in (height, width):
        _refuse(align_corners=align_corners, height=height, width=width)    # MXNet's is the first
    size = (height, width) if like is None else (like.size(2), like.size(3))
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


@_translates("_contrib_AdaptiveAvgPooling2D")
def _adaptive_pooling(x, *, output_size=(1, 1)):
    sizes = _tuple(output_size)
    return F.adaptive_avg_pool2d(x, sizes * 2 if len(sizes) == 1 else sizes)


# -- shapes

@_translates("Reshape")
def _reshape(x, *, shape, reverse=False):
    if reverse:
        _refuse(reverse=True)
    sizes, axis, codes = [], 0, iter(shape)
    for code in codes:
        read = 1
        if code == 0:
            sizes.append(x.size(axis))
        elif code == -2:    # all that are left
            read = x.ndim - axis
            sizes += [x.size(k) for k in range(axis, x.ndim)]
        elif code == -3:    # two become one
            read = 2
            sizes.append(x.size(axis) * x.size(axis + 1))
        elif code == -4:    # one becomes two
            first, second = next(codes), next(codes)
            sizes += [x.size(axis) // second if first == -1 else first,
                      x.size(axis) // first if second == -1 else second]
        else:
            sizes.append(code)
        axis += read
    return x.reshape(sizes)


@_translates("reshape_like")
def _reshape_like(x, y, *, lhs_begin=None, lhs_end=None, rhs_begin=None, rhs_end=None):
    own = [x.size(k) for k in range(x.ndim)]
    others = [y.size(k) for k in range(y.ndim)]
    begin, end = (len(own) if k is None else _positive(k, x) for k in (lhs_begin or 0, lhs_end))
    return x.reshape(own[:begin] + others[slice(rhs_begin, rhs_end)] + own[end:])


@_translates("SliceChannel")
def _split(x, *, num_outputs, axis=1, squeeze_axis=False):
    parts = x.chunk(num_outputs, axis)
    parts = [parts[k].squeeze(axis) if squeeze_axis else parts[k] for k in range(num_outputs)]
    return parts


@_translates("slice")
def _slice(x, *, begin, end, step=()):
    begin, end, step = map(_tuple, (begin, end, step))
    if any(each is not None and each < 0 for each in step):
        _refuse(step=step)
    return x[tuple(slice(*each) for each in itertools.zip_longest(begin, end, step))]


@_translates("slice_axis")
def _slice_axis(x, *, axis, begin, end):
    return x[(slice(None),) * _positive(axis, x) + (slice(begin, end),)]


@_translates("slice_like")
def _slice_like(x, y, *, axes=()):
    for axis in _axes(axes, x):
        x = x.narrow(axis, 0, y.size(axis))
    return x


@_translates("broadcast_axis")
def _broadcast_axis(x, *, axis=(), size=()):
    sizes = [-1] * x.ndim
    for k, each in zip(_tuple(axis), _tuple(size)):
        sizes[k] = each
    return x.expand(sizes)


# -- picking

@_translates("argmax")
def _argmax(x, *, axis=None, keepdims=False):
    largest = torch.argmax(x, axis, keepdims).float()   # the first one; MXNet's indices are floats
    return largest.reshape(1) if axis is None and not keepdims else largest


@_translates("pick")
def _pick(x, index, *, axis=-1, keepdims=False, mode="clip"):
    if mode != "clip":
        _refuse(mode=mode)
    index = index.long() if index.ndim == x.ndim else index.long().unsqueeze(axis)
    picked = x.gather(axis, index.clamp(min=0).clamp(max=x.size(axis) - 1))
    return picked if keepdims else picked.squeeze(axis)


@_translates("take")
def _take(x, index, *, axis=0, mode="clip"):
    if axis != 0 or mode != "clip":
        _refuse(axis=axis, mode=mode)
    return x[index.long().clamp(min=0).clamp(max=x.size(0) - 1)]


def arange_like(x, start, step, axis):
    """start, start + step, ... (float32), as many as x is long on an axis."""
    return torch.arange(x.size(axis), dtype=torch.float32, device=x.device) * step + start


@_translates("_contrib_arange_like")
def _arange_like(x, *, axis=None, start=0.0, step=1.0, repeat=1):
    if axis is None or repeat != 1:
        _refuse(axis=axis, repeat=repeat)
    return _whole(arange_like)(x, start, step, axis)


# -- reductions

def _maxima(x, axes, keepdims):
    # Unlike a pooling's, its gradient goes whole to each of equal maxima.
    largest = x.detach().amax(axes, True)
    own = torch.where(x == largest, x - largest, torch.zeros_like(x)).sum(axes, keepdims)
    return own + x.detach().amax(axes, keepdims)


def _reduction(name, function):
    @_translates(name)
    def reduce(x, *, axis=None, keepdims=False, exclude=False, ord=2):
        if ord != 2:
            _refuse(ord=ord)
        axes = _axes(axis, x, exclude)
        y = function(x, axes, keepdims) if axes else x
        # Of all axes, MXNet's has the shape (1,).
        return y.reshape(1) if len(axes) == x.ndim and not keepdims else y


_reduction("mean", torch.mean)
_reduction("sum", torch.sum)
_reduction("max", _maxima)
_reduction("norm", lambda x, axes, keepdims: x.square().sum(axes, keepdims).sqrt())


# -- element by element

def _unary(**functions):
    for name, function in functions.items():
        _OPERATORS[name] = lambda x, function=function: function(x)


_unary(relu=F.relu, sigmoid=torch.sigmoid, tanh=torch.tanh, softsign=F.softsign, exp=torch.exp,
       log=torch.log, log1p=torch.log1p, expm1=torch.expm1, sqrt=torch.sqrt, rsqrt=torch.rsqrt,
       square=torch.square, abs=torch.abs, negative=torch.neg, erf=torch.erf,
       ones_like=torch.ones_like, zeros_like=torch.zeros_like, BlockGrad=lambda x: x.detach(),
       _copy=lambda x: x)

_BINARY = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
           "div": lambda a, b: a / b, "power": lambda a, b: a ** b,
           # Not torch.maximum, which shares the gradient of equal values.
           "maximum": lambda a, b: torch.where(a >= b, a, b),
           "minimum": lambda a, b: torch.where(a <= b, a, b)}
for _name, _function in _BINARY.items():
    _translates(f"elemwise_{_name}", f"broadcast_{_name}", f"_{_name}")(_function)

_SCALAR = {"plus": lambda x, s: x + s, "minus": lambda x, s: x - s, "rminus": lambda x, s: s - x,
           "mul": lambda x, s: x * s, "div": lambda x, s: x / s, "rdiv": lambda x, s: s / x,
           "power": lambda x, s: x ** s, "rpower": lambda x, s: s ** x,
           "maximum": lambda x, s: x.clamp(min=s), "minimum": lambda x, s: x.clamp(max=s)}
for _name, _function in _SCALAR.items():
    _translates(f"_{_name}_scalar")(lambda x, *, scalar, of=_function: of(x, scalar))


@_translates("Cast")
def _cast(x, *, dtype):
    types = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}
    return x.to(types[dtype]) if dtype in types else _refuse(dtype=dtype)
