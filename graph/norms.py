"""Normalisations that erase what they normalise."""
import math

__all__ = ["erasing_norms"]


def _batch_norm(node, shape):
    if node.attrs.get("use_global_stats"):
        return None
    return math.prod(shape) // shape[node.attrs.get("axis", 1)]


def _sync_batch_norm(node, shape):
    return math.prod(shape) // shape[1] * node.attrs.get("ndev", 1)


# Operator -> f(node, input shape) -> values that share a mean, or None if it is a fixed one.
_VALUES = {
    "BatchNorm": _batch_norm,
    "_contrib_SyncBatchNorm": _sync_batch_norm,
}


def erasing_norms(graph, batch_size):
    """Normalisations that take the mean of one value in training.

    Such a value minus its mean is zero, whatever it was: all that comes before gets a gradient
    of exactly zero. An example is a batch normalisation after a global pooling, of a batch of
    one image.

    Parameters
    ----------
    graph : graph.graph.Graph
    batch_size : int
        Of each device.

    Returns
    -------
    list of str
        Names of their layers.
    """
    found = []
    for node in graph.nodes:
        if node.op not in _VALUES:
            continue
        source, output = node.inputs[0]
        one, two = source.shapes[output]
        shape = [a + (b - a) * (batch_size - 1) for a, b in zip(one, two)]
        if _VALUES[node.op](node, shape) == 1:
            found.append(node.inputs[1][0].name.rpartition(".")[0] or node.name)
    return found
