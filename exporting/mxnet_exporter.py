"""MXNet 1.9.1's own exporter to ONNX, with our translations in the place of some of its own.

What it does wrong, and where that is put right:

* It reads ``onnx.mapping``, which ONNX has dropped: `_with_onnx_mapping` lends it one.
* It stamps files with the newest opset of the installed ONNX, though its translations are of
  opset 13, and checks the graph against that: we make the model ourselves, with the opset
  that was asked for.
* It ignores ``fix_gamma``: `fix_gammas` writes the ones.
* It lists weights as inputs, which keeps runtimes from folding a BatchNorm into a
  convolution, and computes shapes in the graph: see `translate` and `onnx_file`.
"""
import contextlib
import json
import sys
import types

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import numpy as np
from mxnet import nd

from .packages import require

__all__ = ["OPSETS", "Unexportable", "export_graph", "fix_gammas"]

# Of all these, what we and MXNet's exporter write means the same: 18 moved the axes of means.
OPSETS = range(13, 18)
_MXNETS_OPSET = 13


class Unexportable(ValueError):
    """A network holds something that has no counterpart in ONNX; one line that names it."""


@contextlib.contextmanager
def _with_onnx_mapping(onnx):
    """Lend the exporter the module ``onnx.mapping``."""
    types_of = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)): np.dtype(name)
                for name in ("float16", "float32", "float64", "uint8", "int8", "int32", "int64",
                             "bool")}
    mapping = types.ModuleType("onnx.mapping")
    mapping.TENSOR_TYPE_TO_NP_TYPE = types_of
    mapping.NP_TYPE_TO_TENSOR_TYPE = {dtype: number for number, dtype in types_of.items()}
    before = getattr(onnx, "mapping", None)
    onnx.mapping = sys.modules["onnx.mapping"] = mapping
    try:
        yield
    finally:
        del onnx.mapping, sys.modules["onnx.mapping"]
        if before is not None:
            onnx.mapping = sys.modules["onnx.mapping"] = before


@contextlib.contextmanager
def _checking_against(onnx, opset):
    """Have ONNX's checker, as the exporter calls it, take a graph for one of `opset`."""
    context = onnx.checker.DEFAULT_CONTEXT
    before = context.opset_imports
    context.opset_imports = {"": opset}
    try:
        yield
    finally:
        context.opset_imports = before


@contextlib.contextmanager
def _registered(graph_class, translations):
    """Have MXNet's exporter know `translations` (operator -> function) for a while."""
    before = graph_class.registry_[_MXNETS_OPSET]
    graph_class.registry_[_MXNETS_OPSET] = {**before, **translations}
    try:
        yield
    finally:
        graph_class.registry_[_MXNETS_OPSET] = before


def fix_gammas(symbol, params):
    """`params` with ones where a BatchNorm does not use its gamma.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
    params : dict of str to numpy.ndarray
    """
    nodes, fixed = json.loads(symbol.tojson())["nodes"], dict(params)
    for node in nodes:
        # MXNet's operator fixes gamma unless it is told not to.
        if node["op"] == "BatchNorm" and node.get("attrs", {}).get("fix_gamma", "True") == "True":
            gamma = nodes[node["inputs"][1][0]]["name"]
            fixed[gamma] = np.ones_like(fixed[gamma])
    return fixed


def export_graph(symbol, params, input_shape):
    """The nodes of a network, as MXNet's exporter and `translate` have them.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        With the one input ``images`` and one output.
    params : dict of str to numpy.ndarray
        All of its parameters, in float32.
    input_shape : tuple of 3 int
        (3, H, W).

    Returns
    -------
    onnx.GraphProto
        Still with everything listed as an input.

    Raises
    ------
    Unexportable
        If an operator, or one of its options, cannot be expressed.
    """
    onnx = require("onnx")
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    from .translate import Translation

    theirs = {}
    for opset in sorted(MXNetGraph.registry_):
        theirs.update(MXNetGraph.registry_[opset] if opset <= _MXNETS_OPSET else {})
    translation = Translation(symbol, input_shape, theirs)
    with _with_onnx_mapping(onnx), _checking_against(onnx, _MXNETS_OPSET), \
            _registered(MXNetGraph, translation.functions()):
        arrays = {name: nd.array(value, dtype=value.dtype)
                  for name, value in fix_gammas(symbol, params).items()}
        return MXNetGraph().create_onnx_graph_proto(
            symbol, arrays, [(1, *input_shape)], [onnx.TensorProto.FLOAT], dynamic=True,
            dynamic_input_shapes=[("batch", *input_shape)], opset_version=_MXNETS_OPSET)
