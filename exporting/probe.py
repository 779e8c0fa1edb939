"""The child process that tries an ONNX file: ``python -m exporting.probe``, file on stdin.

Prints what the file is (the fields of `opening.OnnxFile`) as JSON, or why it is refused. ONNX
and the runtime themselves refuse most of what is damaged. Checked here is what they would
accept and what could do harm later, with other images or more of them: data in other files,
control flow, tensors of absurd size. Crashes and endless loops are the parent's to notice;
memory and processor time are bounded here.
"""
import contextlib
import json
import math
import resource
import sys

import numpy as np
import onnx

from .packages import first_line
from .runtimes import RUNTIMES

_MEMORY, _SECONDS = 6 << 30, 100
# Values of one tensor, for one image; the side of an image; and a network's outputs.
_MOST_VALUES, _LARGEST_SIDE, _MOST_OUTPUTS = 1 << 28, 4096, 1 << 20


def describe(content, runtime):
    """What a file is, by ONNX and by what it makes of two images.

    Raises
    ------
    ValueError
        If the file is refused.
    """
    with _refusing("it is damaged or no ONNX file: it cannot be parsed"):
        model = onnx.load_model_from_string(content)
    _check_graph(model)
    with _refusing("it is not sound"):
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model)
    for value in inferred.graph.value_info:
        sizes = [size or 1 for size in _sizes(value)]
        if min(sizes, default=0) < 0 or math.prod(sizes) > _MOST_VALUES:
            raise ValueError(f"the tensor {value.name!r} has the shape {tuple(sizes)}; the most "
                             f"accepted is {_MOST_VALUES:,} values")
    name, pixels, side = _input(model)
    with _refusing(f"it does not run in {runtime}"):
        logits = RUNTIMES[runtime](content, name)(
            np.zeros((2, 3, side, side), np.uint8 if pixels else np.float32))
    if logits.dtype != np.float32:
        raise ValueError(f"its output is {logits.dtype}, not float32")
    if logits.ndim != 2 or len(logits) != 2 or not 1 <= logits.shape[1] <= _MOST_OUTPUTS:
        raise ValueError("it is no image classifier: two images give an output of the shape "
                         f"{logits.shape}")
    return {"input_name": name, "pixels": pixels, "image_size": side,
            "outputs": logits.shape[1], "description": _description(model)}


@contextlib.contextmanager
def _refusing(what):
    """Whatever ONNX or a runtime raises becomes a ValueError of one line, which begins so."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {first_line(error)}") from None


def _check_graph(model):
    graph = model.graph
    if len(model.functions):
        raise ValueError("it holds functions, not only a network")
    attributes = [(node, attribute) for node in graph.node for attribute in node.attribute]
    tensors = list(graph.initializer)
    for node, attribute in attributes:
        if attribute.HasField("g") or len(attribute.graphs):
            raise ValueError(f"it holds control flow ({node.op_type!r})")
        tensors += [attribute.t, *attribute.tensors]
    if len(graph.sparse_initializer) or any(
            attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors)
            for _, attribute in attributes):
        raise ValueError("it holds sparse tensors")
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            raise ValueError(f"the tensor {tensor.name!r} is in another file")


def _sizes(value):
    """The sizes of a value; None for those that are not given."""
    return [dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim]


def _input(model):
    """Name of the input, whether it takes pixels, and the side of its images."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs; an "
                         "image classifier has one of each")
    sizes, kind = _sizes(inputs[0]), inputs[0].type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise ValueError("its input is neither float32 nor uint8")
    side = sizes[-1] if sizes else None
    if side is None or sizes != [None, 3, side, side] or not 1 <= side <= _LARGEST_SIDE:
        shown = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"its input has the shape ({shown}), not (any, 3, S, S), any number of "
                         "square colour images")
    return inputs[0].name, kind == onnx.TensorProto.UINT8, side


def _description(model):
    """The description of the network in our metadata, or None."""
    from .onnx_file import PREFIX

    for entry in model.metadata_props:
        if entry.key == PREFIX + "network":
            with _refusing("the description of its network is damaged"):
                return dict(json.loads(entry.value))
    return None


def main():
    content = sys.stdin.buffer.read()
    memory = _MEMORY + 8 * len(content)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = describe(content, sys.argv[1])
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
