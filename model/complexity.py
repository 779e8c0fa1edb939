"""How large a network is, and how much it computes, without running it.

Shapes are inferred on the network's symbol: no parameter is initialised, nothing is computed,
and a hybridized network is as good as another. What is counted are products of learned or
computed matrices: convolutions, dense layers and the products inside attention. Two counts
stand side by side:

* multiply-adds: a multiply-add is 1; biases, normalisations, activations and element-wise
  products are 0. The usual "GFLOPs" of the classification literature.
* the rule of the paper's code (``utils/flops.py``), which its figures of 4.1 and 4.4 G
  follow: a convolution's multiply-add is 1 and its bias adds 1 per output value; a dense layer
  is 2 * out * in - in, plus its bias; anything else is 0.
"""
import json
import math
from collections import namedtuple

__all__ = ["Complexity", "Layer", "count", "num_params"]

Layer = namedtuple("Layer", "name op output_shape num_params multiply_adds reference_flops")
Layer.__doc__ = """One operator that has parameters or multiplies matrices.

`num_params` counts its own parameters and running statistics, each at its first use;
`output_shape` includes the batch axis.
"""

Complexity = namedtuple("Complexity", "num_params num_params_with_statistics multiply_adds "
                                      "reference_flops layers")
Complexity.__doc__ = """Totals of a network and its `Layer` rows, in the order of the forward pass.

`num_params` counts what is trained; `num_params_with_statistics` also running statistics and
what is fixed, as the paper's code does.
"""


# ---------------------------------------------------------------- counting

def _true(attrs, name):
    return attrs.get(name, "False") in ("True", "1", "true")


def _convolution(attrs, inputs, output):
    positions = output[0] * math.prod(output[2:])
    products = math.prod(inputs[1]) * positions            # weight (out, in / groups, k, k)
    bias = 0 if _true(attrs, "no_bias") else output[1] * positions
    return products, products + bias


def _transposed_convolution(attrs, inputs, _):
    data, weight = inputs[:2]                              # weight (in, out / groups, k, k)
    return math.prod(weight) * data[0] * math.prod(data[2:]), 0


def _dense(attrs, inputs, output):
    out_units, in_units = inputs[1]
    bias = 0 if _true(attrs, "no_bias") else out_units
    rows = math.prod(output) // out_units
    return rows * out_units * in_units, 2 * out_units * in_units - in_units + bias


def _matrix_product(attrs, inputs, output):
    summed = inputs[0][-2 if _true(attrs, "transpose_a") else -1]
    return math.prod(output) * summed, 0


# Operator -> f(attributes, input shapes, output shape) -> (multiply-adds, paper's rule).
_RULES = {
    "Convolution": _convolution,
    "Deconvolution": _transposed_convolution,
    "FullyConnected": _dense,
    "batch_dot": _matrix_product,
    "_linalg_gemm2": _matrix_product,
    "dot": _matrix_product,
}


def _infer(net, input_shape):
    """The nodes of the network's graph and the shape of each of their outputs.

    Returns
    -------
    nodes : list of dict
        As in MXNet's JSON: op, name, attrs, inputs.
    shapes : dict
        (node, output) -> shape.
    """
    import mxnet as mx

    out = net(mx.sym.var("data"))
    internals = (mx.sym.Group(out) if isinstance(out, (list, tuple)) else out).get_internals()
    try:
        _, shapes, _ = internals.infer_shape(data=tuple(input_shape))
    except mx.base.MXNetError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise ValueError(f"an input of {tuple(input_shape)} does not fit: {reason}") from error
    graph = json.loads(internals.tojson())
    return graph["nodes"], {(node, index): shape
                            for (node, index, _), shape in zip(graph["heads"], shapes)}


def _layer_name(node, nodes, keys):
    """Structural name of the layer that owns the node's first parameter, else the node's own."""
    for source, *_ in node["inputs"]:
        if nodes[source]["name"] in keys:
            return keys[nodes[source]["name"]].rpartition(".")[0] or "(network)"
    return node["name"]


def _layers(nodes, shapes, keys):
    """`Layer` rows. keys: the network's parameters, name -> structural name."""
    seen = set()
    for index, node in enumerate(nodes):
        if node["op"] == "null":
            continue
        inputs = [shapes.get((source, output)) for source, output, *_ in node["inputs"]]
        own = {nodes[source]["name"]: shape
               for (source, *_), shape in zip(node["inputs"], inputs)
               if nodes[source]["name"] in keys}
        size = sum(math.prod(shape) for name, shape in own.items() if name not in seen)
        seen.update(own)
        rule = _RULES.get(node["op"])
        products = rule(node.get("attrs", {}), inputs, shapes[index, 0]) if rule else (0, 0)
        if size or any(products):
            yield Layer(_layer_name(node, nodes, keys), node["op"], shapes[index, 0], size,
                        *products)


def count(net, input_shape=(1, 3, 224, 224)):
    """Parameters and multiply-adds of a network.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Any network of one input; initialised or not, hybridized or not. It is left as it is.
    input_shape : tuple of int
        (N, C, H, W); the counts are for the whole batch, so N is 1 by custom.

    Returns
    -------
    Complexity

    Raises
    ------
    ValueError
        If the network cannot take such an input.
    """
    nodes, shapes = _infer(net, input_shape)
    # Gluon offers structural names in this method only; save_parameters uses it.
    keys = {parameter.name: key for key, parameter in net._collect_params_with_prefix().items()}
    inferred = {nodes[node]["name"]: shape for (node, _), shape in shapes.items()}
    sizes = {name: (math.prod(inferred.get(name) or parameter.shape), parameter.grad_req)
             for name, parameter in net.collect_params().items()}
    layers = tuple(_layers(nodes, shapes, keys))
    return Complexity(sum(size for size, grad_req in sizes.values() if grad_req != "null"),
                      sum(size for size, _ in sizes.values()),
                      sum(layer.multiply_adds for layer in layers),
                      sum(layer.reference_flops for layer in layers),
                      layers)


def num_params(net, input_shape=(1, 3, 224, 224)):
    """Number of trained parameters.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
    input_shape : tuple of int
        Used where the network leaves shapes to be inferred from its first input.
    """
    parameters = net.collect_params().values()
    if all(p.shape is not None and math.prod(p.shape) > 0 for p in parameters):
        return sum(math.prod(p.shape) for p in parameters if p.grad_req != "null")
    return count(net, input_shape).num_params
