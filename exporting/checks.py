"""What an ONNX model from elsewhere must not hold."""
import math

import numpy as np

from common.screen import printable

__all__ = ["check_contents", "check_soundness", "first_line"]

# Values of one tensor, for one image; and the side of an image.
_MOST_VALUES, _LARGEST_SIDE = 1 << 28, 4096


def check_contents(onnx, model):
    """Name of a model's input, whether it takes pixels, and the side of its images.

    Raises
    ------
    ValueError
        If the model is not one that maps images to logits, or could do harm.
    """
    _check_opsets(onnx, model)
    _check_graph(onnx, model)
    return _check_input(onnx, model)


def check_soundness(onnx, model):
    """Have ONNX check a model and infer all shapes. It can crash on hostile models, with us.

    Raises
    ------
    ValueError
        If the model is not sound, or a tensor in it is of absurd size.
    """
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError,
            RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not sound: {first_line(error)}") from None
    for value in inferred.graph.value_info:
        _check_size(f"the tensor {value.name!r}", _sizes(value))


def first_line(error):
    """What an error says, as one printable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return printable(text)[:300]


def _check_opsets(onnx, model):
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            raise ValueError(f"it uses operators of {entry.domain!r}, beyond ONNX's own")
        if not 1 <= entry.version <= onnx.defs.onnx_opset_version():
            raise ValueError(f"its opset {entry.version} is unknown here")
    if not model.opset_import:
        raise ValueError("it names no opset")
    if len(model.functions) or len(model.training_info):
        raise ValueError("it holds functions or training, not only a network")


def _check_graph(onnx, model):
    graph = model.graph
    if len(graph.sparse_initializer):
        raise ValueError("it holds sparse tensors")
    for tensor in graph.initializer:
        _check_tensor(onnx, tensor)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"it uses the operator {node.op_type!r} of {node.domain!r}")
        for attribute in node.attribute:
            if attribute.HasField("g") or len(attribute.graphs):
                raise ValueError(f"it holds control flow ({node.op_type!r})")
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                raise ValueError("it holds sparse tensors")
            for tensor in (*attribute.tensors, attribute.t):
                _check_tensor(onnx, tensor)


def _check_tensor(onnx, tensor):
    """Raise ValueError unless a tensor is in this file and has as many values as it says."""
    name = f"the tensor {tensor.name!r}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
        raise ValueError(f"{name} is in another file")
    _check_size(name, tensor.dims)
    if tensor.HasField("raw_data") and tensor.data_type:
        try:
            width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{name} is of an unknown type ({tensor.data_type})") from None
        if len(tensor.raw_data) != math.prod(tensor.dims) * width:
            raise ValueError(f"{name} has {len(tensor.raw_data):,} bytes, which is not what its "
                             f"shape {tuple(tensor.dims)} says")


def _check_size(what, sizes):
    if any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_VALUES:
        raise ValueError(f"{what} has the shape {tuple(sizes)}; the most accepted is "
                         f"{_MOST_VALUES:,} values")


def _sizes(value):
    """The sizes of a value; 1 for those that are not given."""
    return [dim.dim_value if dim.HasField("dim_value") else 1
            for dim in value.type.tensor_type.shape.dim]


def _check_input(onnx, model):
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs; an "
                         "image classifier has one of each")
    tensor = inputs[0].type.tensor_type
    sizes = _sizes(inputs[0])
    fixed = [dim.HasField("dim_value") for dim in tensor.shape.dim]
    if tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise ValueError("its input is neither float32 nor uint8")
    if (fixed != [False, True, True, True] or sizes[1] != 3 or sizes[2] != sizes[3]
            or not 1 <= sizes[2] <= _LARGEST_SIDE):
        shown = ", ".join(str(size) if known else "any" for size, known in zip(sizes, fixed))
        raise ValueError(f"its input has the shape ({shown}), not (any, 3, S, S), any number of "
                         "square colour images")
    return inputs[0].name, tensor.elem_type == onnx.TensorProto.UINT8, sizes[2]
