"""8-bit versions of exported networks, calibrated with training images.

Static quantisation by ONNX Runtime: weights per output channel, activations per tensor, in the
QDQ form that other runtimes read, too. Convolutions, dense layers and what follows them element
by element compute in 8 bits: to leave these for a gate and to come back costs more time than
the gate. Means, squares and what is made of them keep their resolution.
"""
import contextlib
import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace

import onnx

from .packages import require

__all__ = ["quantise"]

_LAYERS, _ELEMENTWISE = ("Conv", "Gemm"), ("Add", "Mul", "Relu", "Sigmoid")


def quantise(model, batches):
    """An 8-bit version of a model.

    Parameters
    ----------
    model : onnx.ModelProto
        As `onnx_file.make_model` makes it.
    batches : iterable of numpy.ndarray
        What the model takes: training images, some hundreds in all.

    Returns
    -------
    onnx.ModelProto
        With the same input, output and metadata.
    """
    require("onnxruntime")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    input_name = model.graph.input[0].name
    feeds = ({input_name: batch} for batch in batches)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, folded, small = (Path(folder, f"{name}.onnx")
                                for name in ("plain", "folded", "small"))
        plain.write_bytes(model.SerializeToString())
        # Folds each BatchNorm into its convolution, so that no sum is rounded twice.
        quant_pre_process(str(plain), str(folded), skip_symbolic_shape=True)
        quantize_static(str(folded), str(small),
                        SimpleNamespace(get_next=lambda: next(feeds, None)),
                        quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        op_types_to_quantize=[*_LAYERS, *_ELEMENTWISE],
                        nodes_to_quantize=_chosen(onnx.load_model(str(folded)).graph))
        result = onnx.load_model(str(small))
    for field in ("metadata_props", "opset_import"):
        result.ClearField(field)
        getattr(result, field).extend(getattr(model, field))
    result.producer_name, result.ir_version = model.producer_name, model.ir_version
    onnx.checker.check_model(result)
    return result


def _chosen(graph):
    """Names of the nodes that are to compute in 8 bits: layers, and what reads them directly.

    A sum with a constant, such as a variance's epsilon, and a square do not.
    """
    constants = {array.name for array in graph.initializer}
    names, outputs = [], set()
    for node in graph.node:
        inputs = set(node.input)
        if node.op_type in _LAYERS or (
                node.op_type in _ELEMENTWISE and inputs & outputs and not inputs & constants
                and len(inputs) == len(node.input)):
            names.append(node.name)
            outputs.update(node.output)
    return names


@contextlib.contextmanager
def _quiet():
    """Silence advice that the quantisation logs for people who call it by hand."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
