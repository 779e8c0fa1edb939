"""A training graph with fewer passes over memory, where a CPU's library offers them.

oneDNN normalises and rectifies a map in one pass, forward and backward; MXNet offers it as an
operator of its own. The networks are written with the two operators, which run everywhere and
can be exported; only the graph that trains on a CPU is rewritten, after it was traced. The
results are the same, mostly to the bit.
"""
import collections
import json
import os

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx

__all__ = ["hybridize", "fuse_norm_relu"]

_FUSED = "_contrib_BatchNormWithReLU"
_NARROW, _WIDE = 8, 16    # channels in a block
# Operators that leave a map in its layout -> how many of their inputs are maps.
_KEEPS_LAYOUT = {"BatchNorm": 1, _FUSED: 1, "Activation": 1, "Pooling": 1, "elemwise_add": 2}


def hybridize(net, shape, contexts, dtype="float32"):
    """Compile a network for training.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Maps (N, C, H, W) to anything.
    shape : tuple of int
        Of a batch: (N, C, H, W).
    contexts : list of mxnet.Context
    dtype : str, default 'float32'
        In which it computes.
    """
    net.hybridize(static_alloc=True, static_shape=True)
    if (dtype == "float32" and all(ctx.device_type == "cpu" for ctx in contexts)
            and mx.runtime.Features().is_enabled("MKLDNN")
            and os.environ.get("MXNET_MKLDNN_ENABLED") != "0"):
        inputs, outputs = net._get_graph(mx.sym.var("data"))
        net._cached_graph = inputs, fuse_norm_relu(outputs, shape)


def fuse_norm_relu(symbol, shape):
    """Replace each BatchNorm that only a ReLU reads, and that ReLU, by one operator.

    The forward pass leaves the ReLU's mask in the order of its data's memory layout, and
    MXNet's backward pass brings plain data into the layout of the gradient: it would read the
    mask in another order, and return wrong gradients. So only that is fused whose data is
    surely in oneDNN's blocks of channels, with a gradient in the same blocks.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        Of one input, ``data``.
    shape : tuple of int
        The input's.

    Returns
    -------
    mxnet.symbol.Symbol
        With the same arguments and auxiliary states.
    """
    graph = _Graph(symbol, shape)
    for number, node in enumerate(graph.nodes):
        if node["op"] == "Activation" and node["attrs"]["act_type"] == "relu":
            source, output = node["inputs"][0][:2]
            norm = graph.nodes[source]
            if (norm["op"] == "BatchNorm" and norm["attrs"].get("axis", "1") == "1"
                    and len(graph.entries[source, output]) == 1
                    and graph.in_blocks(source) and graph.gradient_in_blocks(number)):
                norm["op"] = _FUSED
                for entry in graph.entries[number, 0]:
                    entry[0] = source    # the ReLU's node stays behind, read by nobody
    return mx.sym.load_json(json.dumps(graph.json))


class _Graph:
    """What a symbol's JSON says, and what follows for the memory layouts on a CPU."""

    def __init__(self, symbol, shape):
        self.json = json.loads(symbol.tojson())
        self.nodes = self.json["nodes"]
        self.entries = collections.defaultdict(list)    # (node, its output) -> where it is read
        self._readers = collections.defaultdict(list)
        for node in self.nodes:
            for entry in node["inputs"]:
                self.entries[entry[0], entry[1]].append(entry)
                self._readers[entry[0]].append(node)
        for entry in self.json["heads"]:
            self.entries[entry[0], entry[1]].append(entry)
        internals = symbol.get_internals()
        _, shapes, _ = internals.infer_shape(data=shape)
        self._shapes = dict(zip(internals.list_outputs(), shapes))

    def in_blocks(self, number):
        """Whether a node's output is surely in blocks of channels."""
        node = self.nodes[number]
        if node["op"] == "Convolution":
            shape = self._shapes[node["name"] + "_output"]
            return (len(shape) == 4 and shape[1] % _NARROW == 0
                    and node["attrs"].get("num_group", "1") == "1")
        if node["op"] in _KEEPS_LAYOUT:
            maps = node["inputs"][:_KEEPS_LAYOUT[node["op"]]]
            return all(self.in_blocks(entry[0]) for entry in maps)
        return False

    def gradient_in_blocks(self, number):
        """Whether no gradient of a node's output comes in narrower blocks than the output."""
        channels = self._shapes[self.nodes[number]["name"] + "_output"][1]
        block = _WIDE if channels % _WIDE == 0 else _NARROW
        return all(int(reader["attrs"]["num_filter"]) % block == 0
                   for reader in self._readers[number] if reader["op"] == "Convolution")
