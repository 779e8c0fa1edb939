"""ChaATAC's gate as one operator of PyTorch, for training on a CPU.

``x * sigmoid(BN(W2 relu(BN(W1 x))))`` is seven operators, each of which reads and writes maps;
with few channels that takes most of a training step. The rule `fuse_gate` puts one node in their
place, and `gate` computes it, by gate.cpp, which is compiled for the channels at hand when it is
first needed. Definition, parameters' names and statistics stay as they are; between the passes
only x and ``W1 x`` are kept.
"""
import ctypes
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir

from common.errors import UserError
from common.files import replacing

from .graph import Node

__all__ = ["GATE", "fuse_gate", "gate"]

GATE = "_chaatac"    # the node's operator
_MOST_CHANNELS = 64    # with more, products of matrices take the time: PyTorch computes them faster
_SOURCE = Path(__file__).with_name("gate.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp",
          "-shared", "-fPIC")
_ELEMENTS = {torch.float32: "float", torch.bfloat16: "bfloat16"}


# ---- the rule ----------------------------------------------------------------------------------

def fuse_gate(node, graph, new):
    """A rule for `Graph.rewrite`: x * sigmoid(BN(W2 relu(BN(W1 x)))) becomes one node."""
    if node.op not in ("broadcast_mul", "elemwise_mul"):
        return None
    for x, gate_entry in (node.inputs, node.inputs[::-1]):
        layers = _chain(gate_entry, graph)
        if layers and layers[-1].inputs[0] == x and x[0].shapes[x[1]] == node.shapes[0]:
            norm2, conv2, _, norm1, conv1 = layers
            break
    else:
        return None
    attrs, others = map(_numbers, (norm1, norm2))
    if (max(node.shape()[1], norm1.shape()[1]) > _MOST_CHANNELS or attrs != others
            or not all(map(_is_pointwise, (conv1, conv2)))
            or not all(map(_is_plain, (norm1, norm2)))):
        return None
    inputs = (x, conv1.inputs[1], *norm1.inputs[1:], conv2.inputs[1], *norm2.inputs[1:])
    return Node(GATE, node.name, tuple(map(new, inputs)), attrs, node.shapes), 0


def _chain(entry, graph):
    """The layers between a sigmoid and the gate's input, if each is read by the next alone."""
    layers = []
    for kind in ("sigmoid", "BatchNorm", "Convolution", "relu", "BatchNorm", "Convolution"):
        layer, output = entry
        if (layer.attrs.get("act_type", layer.op) != kind
                or len(graph.readers(layer, output)) != 1):
            return None
        layers.append(layer)
        entry = layer.inputs[0]
    return layers[1:]


def _numbers(norm):
    """What MXNet's BatchNorm computes with, whose defaults may be absent."""
    return {"eps": norm.attrs.get("eps", 1e-3), "momentum": norm.attrs.get("momentum", 0.9)}


def _is_pointwise(conv):
    return (conv.attrs["kernel"] == (1, 1) and conv.attrs.get("no_bias")
            and conv.attrs.get("stride", (1, 1)) == (1, 1)
            and conv.attrs.get("pad", (0, 0)) == (0, 0) and conv.attrs.get("num_group", 1) == 1)


def _is_plain(norm):
    return (norm.attrs.get("axis", 1) == 1 and not norm.attrs.get("fix_gamma", True)
            and not norm.attrs.get("use_global_stats"))


# ---- the operator ------------------------------------------------------------------------------

@torch.library.custom_op("atac::gate", mutates_args=(), device_types="cpu")
def gate(x: Tensor, w1: Tensor, gamma1: Tensor, beta1: Tensor, w2: Tensor, gamma2: Tensor,
         beta2: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gated map, in training.

    Parameters
    ----------
    x : Tensor (N, C, H, W), float32 or bfloat16
    w1 : Tensor (C / r, C, 1, 1)
    gamma1, beta1 : Tensor (C / r,)
    w2 : Tensor (C, C / r, 1, 1)
    gamma2, beta2 : Tensor (C,)
    eps : float
        Of both normalisations.

    Returns
    -------
    y : Tensor (N, C, H, W)
    mean1, inverse_std1, mean2, inverse_std2 : Tensor
        The batch's statistics, (C / r,) and (C,).
    z1 : Tensor (N, C / r, H, W)
        ``W1 x``, which the backward pass reads. Only y has a gradient.

    Raises
    ------
    ValueError
        If the tensors have other types or shapes.
    UserError
        If the C++ compiler fails.
    """
    x, parameters = _in_rows(x), [w1, gamma1, beta1, w2, gamma2, beta2]
    _check(x, parameters)
    outputs = _outputs(x, w1)
    y, *statistics, z1 = outputs
    parameters = [each.contiguous() for each in parameters]
    _library(x, w1).forward(_gate(x, parameters, statistics, eps), _address(x), _address(z1),
                            _address(y))
    return outputs


def _check(x, parameters):
    hidden, channels = parameters[0].size(0), x.size(1)
    shapes = [(hidden, channels, 1, 1), (hidden,), (hidden,), (channels, hidden, 1, 1),
              (channels,), (channels,)]
    if (x.dtype not in _ELEMENTS or any(each.dtype != torch.float32 for each in parameters)
            or [tuple(each.shape) for each in parameters] != shapes):
        raise ValueError(f"a gate of maps of {channels} channels needs maps in float32 or bfloat16 "
                         f"and parameters in float32, of shapes {shapes}")


def _outputs(x, w1):
    hidden, channels = w1.shape[:2]
    statistics = [w1.new_empty(size) for size in (hidden, hidden, channels, channels)]
    z1 = torch.empty((x.size(0), hidden, *x.shape[2:]), dtype=x.dtype, device=x.device,
                     memory_format=torch.channels_last)
    return torch.empty_like(x), *statistics, z1


@gate.register_fake
def _(x, w1, *_):
    return _outputs(_in_rows(x), w1)


@torch.library.custom_op("atac::gate_backward", mutates_args=(), device_types="cpu")
def gate_backward(dy: Tensor, x: Tensor, z1: Tensor, parameters: list[Tensor],
                  statistics: list[Tensor], eps: float) -> list[Tensor]:
    """Gradients of x and of the six parameters, in their shapes.

    Parameters
    ----------
    dy : Tensor (N, C, H, W)
        The gradient of the gated map.
    x, z1, parameters, statistics, eps
        What `gate` got and returned.
    """
    dy, x = _in_rows(dy), _in_rows(x)
    parameters = [each.contiguous() for each in parameters]
    dx, scratch = torch.empty_like(x), torch.empty_like(z1)
    gradients = [torch.empty_like(parameter) for parameter in parameters]
    _library(x, parameters[0]).backward(
        _gate(x, parameters, statistics, eps), _address(x), _address(z1), _address(dy),
        _address(scratch), _addresses(gradients), _address(dx))
    return [dx, *gradients]


@gate_backward.register_fake
def _(dy, x, z1, parameters, statistics, eps):
    return [torch.empty_like(_in_rows(x)), *map(torch.empty_like, parameters)]


def _keep(ctx, inputs, output):
    x, *parameters, ctx.eps = inputs
    _, *statistics, z1 = output
    ctx.save_for_backward(x, z1, *parameters, *statistics)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, dy, *_):
    x, z1, *others = ctx.saved_tensors
    return *gate_backward(dy, x, z1, others[:6], others[6:], ctx.eps), None


gate.register_autograd(_backward, setup_context=_keep)


# ---- the library -------------------------------------------------------------------------------

class _Gate(ctypes.Structure):
    _fields_ = [("arrays", ctypes.c_void_p * 10), ("epsilon", ctypes.c_float),
                ("positions", ctypes.c_int64), ("threads", ctypes.c_int)]


def _gate(x, parameters, statistics, eps):
    return ctypes.byref(_Gate(_addresses([*parameters, *statistics]), eps,
                              x.numel() // x.size(1), torch.get_num_threads()))


def _in_rows(x):
    return x.contiguous(memory_format=torch.channels_last)


def _address(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def _addresses(tensors):
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _library(x, w1):
    return _compiled(x.size(1), w1.size(0), _ELEMENTS[x.dtype])


@cache
def _compiled(channels, hidden, element):
    """gate.cpp, compiled for so many channels; it is kept where PyTorch's compiler keeps its."""
    command = [os.environ.get("CXX", "g++"), *_FLAGS, f"-DCHANNELS={channels}",
               f"-DHIDDEN={hidden}", f"-DELEMENT={element}", str(_SOURCE), "-o"]
    key = hashlib.sha256(" ".join(command).encode() + _SOURCE.read_bytes() + _cpu()).hexdigest()
    path = Path(cache_dir(), f"gate-{key[:32]}.so")
    if not path.exists():
        with replacing(path) as temporary:
            # Not in the terminal's session: Ctrl-C is this process's to handle.
            done = subprocess.run([*command, str(temporary)], capture_output=True, text=True,
                                  errors="replace", start_new_session=True)
            if done.returncode:
                raise UserError(f"{command[0]} cannot compile {_SOURCE.name} (--no-compile goes "
                                f"without it): {_reason(done)}")
    return ctypes.CDLL(str(path))


def _reason(done):
    """The line in which a compiler says why it failed."""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in lines if "error" in line), lines[-1]).strip()


def _cpu():
    """What this machine's processors can do: a home may be that of several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return b""
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
