"""How large a network is, and how much it computes, without running it.

What is counted are products of learned or computed matrices: convolutions, dense layers and
the products inside attention. Two counts stand side by side:

* multiply-adds: a multiply-add is 1; biases, normalisations, activations and element-wise
  products are 0. The usual "GFLOPs" of the classification literature.
* the rule of the paper's code (``utils/flops.py``), which its figures of 4.1 and 4.4 G
  follow: a convolution's multiply-add is 1 and its bias adds 1 per output value; a dense layer
  is 2 * out * in - in, plus its bias; anything else is 0.
"""
import math
from collections import namedtuple

__all__ = ["Complexity", "Layer", "count"]

Layer = namedtuple("Layer", "name op output_shape num_params multiply_adds reference_flops")
Layer.__doc__ = """One operator that has parameters or multiplies matrices.

`num_params` counts its own parameters and running statistics, each at its first use;
`output_shape` is for one image, with the batch axis.
"""

Complexity = namedtuple("Complexity", "num_params num_params_with_statistics multiply_adds "
                                      "reference_flops layers")
Complexity.__doc__ = """Totals of a network and its `Layer` rows, in the order of the forward pass.

`num_params` counts what is trained; `num_params_with_statistics` also running statistics and
what is fixed, as the paper's code does.
"""


def _convolution(attrs, inputs, output):
    positions = output[0] * math.prod(output[2:])
    products = math.prod(inputs[1]) * positions            # weight (out, in / groups, k, k)
    bias = 0 if attrs.get("no_bias") else output[1] * positions
    return products, products + bias


def _dense(attrs, inputs, output):
    out_units, in_units = inputs[1]
    bias = 0 if attrs.get("no_bias") else out_units
    rows = math.prod(output) // out_units
    return rows * out_units * in_units, 2 * out_units * in_units - in_units + bias


def _matrix_product(attrs, inputs, output):
    summed = inputs[0][-2 if attrs.get("transpose_a") else -1]
    return math.prod(output) * summed, 0


# Operator -> f(attributes, input shapes, output shape) -> (multiply-adds, paper's rule).
_RULES = {
    "Convolution": _convolution,
    "FullyConnected": _dense,
    "batch_dot": _matrix_product,
}


def _layers(graph):
    counted = set()
    for node in graph.nodes:
        if node.is_variable:
            continue
        inputs = [source.shape(output) for source, output in node.inputs]
        own = [source for source, _ in node.inputs if source.op in ("parameter", "state")]
        size = sum(math.prod(source.shape()) for source in own if source not in counted)
        counted.update(own)
        products = _RULES[node.op](node.attrs, inputs, node.shape()) if node.op in _RULES else (
            0, 0)
        if size or any(products):
            name = own[0].name.rpartition(".")[0] or "(network)" if own else node.name
            yield Layer(name, node.op, node.shape(), size, *products)


def count(graph):
    """Parameters of a network, and multiply-adds for one image.

    Parameters
    ----------
    graph : graph.graph.Graph

    Returns
    -------
    Complexity
    """
    layers = tuple(_layers(graph))
    sizes = [(math.prod(node.shape()), node.attrs.get("trained"))
             for node in graph.variables.values()]
    return Complexity(sum(size for size, trained in sizes if trained),
                      sum(size for size, _ in sizes),
                      sum(layer.multiply_adds for layer in layers),
                      sum(layer.reference_flops for layer in layers),
                      layers)
