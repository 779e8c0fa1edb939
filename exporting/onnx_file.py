"""ONNX files of our networks: the graph, and what evaluation needs beside it.

The input is ``images``, (batch, 3, H, W) float32, normalised as in training; or ``pixels``,
the same as uint8 from 0 to 255, where the file normalises by itself. The output is ``logits``,
(batch, outputs). The file's metadata hold, as JSON, the description of the network (see
`model.zoo`) with the data set's classes, mean and standard deviation, and the SHA-256 of the
parameter file.
"""
import json

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graph.graph import read_arrays, trace
from graph.onnx import Unexportable, to_onnx

__all__ = ["PREFIX", "make_model"]

# Before the keys of our metadata.
PREFIX = "attention-as-activation."
PRODUCER = "attention-as-activation export.py"


def make_model(net, image_size, description, params_sha256, opset=13, normalisation=None):
    """A network as an ONNX model.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Maps (N, 3, H, W) to logits (N, outputs); initialized.
    image_size : int
        H and W.
    description : dict
        What stands beside the parameter file; goes into the metadata.
    params_sha256 : str
        Of the parameter file.
    opset : int, default 13
        One of `graph.onnx.OPSETS`.
    normalisation : (mean, std), optional
        Of the channels, with pixels in [0, 1]: have the file take pixels.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    Unexportable
        If the network holds something that has no counterpart in ONNX; names it.
    """
    graph = to_onnx(trace(net, (3, image_size, image_size)), read_arrays(net))
    if normalisation:
        _take_pixels(graph, *normalisation)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], producer_name=PRODUCER)
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    for key, value in (("network", json.dumps(description)), ("params-sha256", params_sha256)):
        model.metadata_props.add(key=PREFIX + key, value=value)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Unexportable("the exported graph is not sound ONNX: "
                           f"{str(error).splitlines()[0]}") from None
    return model


def _take_pixels(graph, mean, std):
    """Put the normalisation of uint8 pixels before the first layer."""
    shape = graph.input[0].type.tensor_type.shape
    sizes = [dim.dim_param or dim.dim_value for dim in shape.dim]
    shift, scale = (255.0 * np.asarray(values, np.float32).reshape(1, 3, 1, 1)
                    for values in (mean, std))
    graph.initializer.extend([numpy_helper.from_array(shift, "pixels_shift"),
                              numpy_helper.from_array(np.float32(1) / scale, "pixels_scale")])
    nodes = [helper.make_node("Cast", ["pixels"], ["pixels_float"], "pixels_cast",
                              to=onnx.TensorProto.FLOAT),
             helper.make_node("Sub", ["pixels_float", "pixels_shift"], ["pixels_centred"],
                              "pixels_centre"),
             helper.make_node("Mul", ["pixels_centred", "pixels_scale"], ["images"],
                              "pixels_normalise"), *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("input")
    graph.input.append(helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, sizes))
