"""A network as a graph of operators, for every engine and file format.

    graph = trace(net, (3, 32, 32))              from any Gluon network
    graph = graph.rewrite(rule, another_rule)
    save("net.safetensors", graph, arrays)
    graph, arrays = load("net.safetensors")      where MXNet need not be installed

Operators and their attributes are MXNet's. Parameters have their structural names, those that
``save_parameters`` writes. MXNet is imported only to trace a network, to infer shapes and to
make a symbol.
"""
import ast
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from common.errors import FileError, UserError
from common.files import open_file, replacing

__all__ = ["Graph", "GraphError", "Node", "trace", "read_arrays", "from_symbol", "compute",
           "save", "load"]

# Nodes that compute nothing.
_VARIABLES = ("input", "parameter", "state")
# Without it, MXNet takes a symbol for one of its first versions and changes it.
_MXNET_VERSION = 10901
_FORMAT = "graph 1"
_MOST_HEADER_BYTES = 1 << 26


class GraphError(UserError):
    """A network has no graph, or none for images of that shape."""


@dataclass(eq=False)
class Node:
    """An operator, or a variable that operators read.

    Attributes
    ----------
    op : str
        MXNet's name of the operator; or ``input``, ``parameter``, or ``state``: an auxiliary
        state, such as a running mean, which computing changes.
    name : str
        Of a parameter or a state: its structural name, such as ``features.1.0.conv1.weight``.
    inputs : tuple of (Node, int)
        What it reads: nodes and which of their outputs.
    attrs : dict
        Numbers, booleans, strings, tuples of them, or None; what has its default may be absent.
        A parameter's ``trained`` says whether it gets a gradient.
    shapes : tuple of (tuple of int, tuple of int), optional
        For each output its shape for one image and for two; what differs between them grows
        with the batch. None: not inferred yet.
    """

    op: str
    name: str
    inputs: tuple = field(default=(), repr=False)
    attrs: dict = field(default_factory=dict)
    shapes: tuple = None

    @property
    def is_variable(self):
        """Whether it computes nothing."""
        return self.op in _VARIABLES

    def shape(self, output=0):
        """Shape of an output for one image."""
        return self.shapes[output][0]

    def batch_axis(self, output=0):
        """The one axis of an output that grows with the batch; None if none or several do."""
        one, two = self.shapes[output]
        axes = [axis for axis, (a, b) in enumerate(zip(one, two)) if a != b]
        return axes[0] if len(axes) == 1 else None


class Graph:
    """Operators that lead to some outputs. It does not change: `rewrite` makes another one.

    Parameters
    ----------
    outputs : iterable of (Node, int)

    Attributes
    ----------
    nodes : tuple of Node
        All of them, each after those that it reads.
    """

    def __init__(self, outputs):
        self.outputs = tuple(outputs)
        self.nodes = _in_order(node for node, _ in self.outputs)

    @property
    def variables(self):
        """Parameters and states by name, in the order in which they are read."""
        return {node.name: node for node in self.nodes if node.op in ("parameter", "state")}

    @cached_property
    def _readers(self):
        readers = {}
        for node in self.nodes:
            for position, entry in enumerate(node.inputs):
                readers.setdefault(entry, []).append((node, position))
        for position, entry in enumerate(self.outputs):
            readers.setdefault(entry, []).append((None, position))
        return readers

    def readers(self, node, output=0):
        """Who reads a node's output: list of (Node, number of its input).

        None stands for the outputs of the graph itself.
        """
        return self._readers.get((node, output), [])

    def rewrite(self, *rules):
        """Another graph, in which rules have replaced nodes.

        Parameters
        ----------
        *rules : callable
            Each is applied to the whole graph before the next one. ``rule(node, graph, new)``
            returns the entry (Node, int) that stands for the node's first output, or None to
            leave the node. `node` and all that it reads are those of the old graph, `new` turns
            one of their entries into that of the new graph, which an inserted node is to read.

        Returns
        -------
        Graph
            Inserted nodes that came without shapes have got them.
        """
        graph = self
        for rule in rules:
            graph = graph._rewritten(rule)
        return graph

    def _rewritten(self, rule):
        entries = {}

        def new(entry):
            return entries.get(entry) or (entries[entry[0], None], entry[1])

        for node in self.nodes:
            inputs = tuple(map(new, node.inputs))
            same = all(a is b for (a, _), (b, _) in zip(inputs, node.inputs))
            entries[node, None] = node if same else Node(node.op, node.name, inputs, node.attrs,
                                                         node.shapes)
            replacement = rule(node, self, new)
            if replacement is not None:
                entries[node, 0] = replacement
        graph = Graph(map(new, self.outputs))
        if any(node.shapes is None for node in graph.nodes):
            (image,) = (node.shape()[1:] for node in graph.nodes if node.op == "input")
            _infer(graph.to_symbol(), graph.nodes, image)
        return graph

    def to_symbol(self, names=None):
        """The graph as an MXNet symbol.

        Parameters
        ----------
        names : dict of str to str, optional
            Structural names -> those of the symbol's variables; names that are not there stay.

        Returns
        -------
        mxnet.symbol.Symbol
        """
        import model.mxnet_compat  # noqa: F401  (comes before mxnet)
        import mxnet as mx

        names, numbers, used, rows = names or {}, {}, Counter(), []
        for number, node in enumerate(self.nodes):
            numbers[node] = number
            name = names.get(node.name, node.name) if node.is_variable else node.name
            used[name] += 1
            if used[name] > 1:
                name = f"{name}_again{used[name]}"
            attrs = {key: str(value) for key, value in node.attrs.items()}
            if node.is_variable:
                attrs = {}
                if node.op != "input" and node.shapes:
                    attrs = {"__shape__": str(node.shape())}
            rows.append({"op": "null" if node.is_variable else node.op, "name": name,
                         "attrs": attrs,
                         "inputs": [[numbers[source], output, 0]
                                    for source, output in node.inputs]})
        return mx.sym.load_json(json.dumps({
            "nodes": rows,
            "arg_nodes": [numbers[node] for node in self.nodes if node.is_variable],
            "heads": [[numbers[node], output, 0] for node, output in self.outputs],
            "attrs": {"mxnet_version": ["int", _MXNET_VERSION]}}))


def _in_order(nodes):
    """These nodes and all that they read, as MXNet orders them: inputs first."""
    done, stack = {}, [(node, False) for node in nodes][::-1]
    while stack:
        node, ready = stack.pop()
        if ready:
            done[node] = None
        elif node not in done:
            stack.append((node, True))
            stack += [(source, False) for source, _ in reversed(node.inputs)]
    return tuple(done)


# ---- from MXNet --------------------------------------------------------------------------------

def trace(net, image_shape):
    """The graph of a Gluon network of one input.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialized or not, hybridized or not; left as it is.
    image_shape : tuple of int
        Of one image, such as (3, 32, 32).

    Returns
    -------
    Graph

    Raises
    ------
    GraphError
        If the network cannot be traced, or does not fit such images.
    """
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    if not isinstance(net, mx.gluon.HybridBlock):
        raise GraphError(f"{type(net).__name__} is not a HybridBlock: it cannot be traced")
    outputs = _flat(net(mx.sym.var("data")))
    return from_symbol(mx.sym.Group(outputs), image_shape, net._collect_params_with_prefix())


def read_arrays(net):
    """Parameters and states of an initialized Gluon network by structural name.

    Returns
    -------
    dict of str to numpy.ndarray
        In float32.
    """
    return {name: parameter.data(parameter.list_ctx()[0]).asnumpy().astype(np.float32)
            for name, parameter in net._collect_params_with_prefix().items()}


def _flat(outputs):
    if isinstance(outputs, (list, tuple)):
        return [symbol for part in outputs for symbol in _flat(part)]
    return [outputs]


def from_symbol(symbol, image_shape, parameters=None):
    """The graph of an MXNet symbol.

    Parameters
    ----------
    symbol : mxnet.symbol.Symbol
        Of one input, ``data``.
    image_shape : tuple of int
        Of one image.
    parameters : dict of str to mxnet.gluon.Parameter, optional
        By structural name. Variables that are not among them keep the symbol's names.

    Raises
    ------
    GraphError
        If it has control flow, or does not fit such images.
    """
    content = json.loads(symbol.tojson())
    known = {}
    for name, parameter in (parameters or {}).items():
        # A parameter that two blocks share has the first one's name.
        known.setdefault(parameter.name, (name, parameter.grad_req != "null"))
    states = set(symbol.list_auxiliary_states())
    nodes = []
    for row in content["nodes"]:
        if row.get("subgraphs"):
            raise GraphError(f"{row['op']} ({row['name']}) is control flow, of which no graph "
                             "can be made")
        op, name, attrs = row["op"], row["name"], _attributes(row)
        if op == "null":
            op = ("input" if name == "data" else "state" if name in states else "parameter")
            name, trained = known.get(name, (name, True))
            attrs = {"trained": trained} if op == "parameter" else {}
        nodes.append(Node(op, name, tuple((nodes[i], k) for i, k, *_ in row["inputs"]), attrs))
    _infer(symbol, nodes, image_shape)
    return Graph((nodes[i], k) for i, k, *_ in content["heads"])


def _attributes(row):
    return {key: _parse(text) for key, text in row.get("attrs", {}).items()
            if not key.startswith("__")}


def _parse(text):
    """The value of an attribute, which MXNet writes as text."""
    try:
        return _frozen(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return float(text) if re.fullmatch("-?(inf|nan)", text) else text


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def compute(name, function, *entries):
    """What ``function(F, *symbols)`` computes of entries; for what a rule inserts.

    Parameters
    ----------
    name : str
        With which the inserted nodes' names begin.
    function : callable
        Written as a Gluon block's ``hybrid_forward`` is; returns one output.
    *entries : (Node, int)
        What it is called with.

    Returns
    -------
    (Node, int)
    """
    import mxnet as mx

    with mx.name.Prefix(f"{name}_"):
        symbol = function(mx.sym, *(mx.sym.var(str(k)) for k in range(len(entries))))
    content = json.loads(symbol.tojson())
    nodes = []

    def entry(number, output):
        row = content["nodes"][number]
        return entries[int(row["name"])] if row["op"] == "null" else (nodes[number], output)

    for row in content["nodes"]:
        inputs = tuple(entry(number, k) for number, k, *_ in row["inputs"])
        nodes.append(Node(row["op"], row["name"], inputs, _attributes(row)))
    return entry(*content["heads"][0][:2])


def _infer(symbol, nodes, image_shape):
    """Give the nodes their shapes; `symbol` is of the same nodes in the same order."""
    import mxnet as mx

    internals = symbol.get_internals()
    try:
        one, two = (internals.infer_shape(data=(count, *image_shape))[1]
                    for count in (1, 2))
    except mx.MXNetError as error:
        raise GraphError(f"the network does not fit images of shape {tuple(image_shape)}: "
                         f"{str(error).strip().splitlines()[-1]}") from None
    if one is None or two is None:
        raise GraphError(f"not all shapes follow from images of shape {tuple(image_shape)}")
    shapes = [{} for _ in nodes]
    for (number, output, *_), *pair in zip(json.loads(internals.tojson())["heads"], one, two):
        shapes[number][output] = tuple(map(tuple, pair))
    for node, outputs in zip(nodes, shapes):
        node.shapes = tuple(outputs[k] for k in range(len(outputs)))


# ---- files -------------------------------------------------------------------------------------

def save(path, graph, arrays):
    """Write a graph and its arrays: a safetensors file whose metadata hold the graph.

    Parameters
    ----------
    path : str or pathlib.Path
    graph : Graph
    arrays : dict of str to numpy.ndarray
        A value for each of ``graph.variables``; written in float32.

    Raises
    ------
    ValueError
        If an array is missing or has another shape.
    """
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    rows = [{"op": node.op, "name": node.name, "attrs": node.attrs, "shapes": node.shapes,
             "inputs": [(numbers[source], k) for source, k in node.inputs]}
            for node in graph.nodes]
    content = {"format": _FORMAT, "nodes": rows,
               "outputs": [(numbers[node], k) for node, k in graph.outputs]}
    for name, node in graph.variables.items():
        if name not in arrays or arrays[name].shape != node.shape():
            raise ValueError(f"{name} has no array of shape {node.shape()}")
    header = {"__metadata__": {"graph": json.dumps(content)}, **_places(graph.variables)[0]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in graph.variables:
            stream.write(arrays[name].astype("<f4").tobytes())


def _places(variables):
    """The header's entry of each array, in the order of `variables`, and their bytes in all."""
    entries, end = {}, 0
    for name, node in variables.items():
        start, end = end, end + 4 * math.prod(node.shape())
        entries[name] = {"dtype": "F32", "shape": list(node.shape()), "data_offsets": [start, end]}
    return entries, end


def load(path):
    """Read what `save` wrote. The file may be anybody's: it is checked before it is believed.

    Returns
    -------
    graph : Graph
    arrays : dict of str to numpy.ndarray

    Raises
    ------
    FileError
        If it cannot be read or is not such a file, whole.
    """
    with open_file(path) as stream:
        try:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MOST_HEADER_BYTES:
                raise ValueError("it does not begin as a safetensors file")
            header = json.loads(stream.read(length))
            graph = _parse_graph(json.loads(header.pop("__metadata__")["graph"]))
            return graph, _read_arrays(stream, header, graph.variables)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError,
                RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FileError(f"{path} is not a saved graph: {reason}") from None


def _parse_graph(content):
    if content["format"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT!r}")
    nodes = []
    for row in content["nodes"]:
        if not (isinstance(row["op"], str) and isinstance(row["name"], str)
                and isinstance(row["attrs"], dict)):
            raise ValueError(f"its node {len(nodes)} is no node")
        shapes = _frozen(row["shapes"])
        for shape in (shape for pair in shapes for shape in pair):
            if not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"{row['name']} has the impossible shape {shape}")
        attrs = {key: _frozen(value) for key, value in row["attrs"].items()}
        nodes.append(Node(row["op"], row["name"], _entries(row["inputs"], nodes), attrs, shapes))
    return Graph(_entries(content["outputs"], nodes))


def _entries(pairs, nodes):
    """Node and output of each pair of numbers; only nodes that are known have been read."""
    for number, output in pairs:
        if not (0 <= number < len(nodes) and output in range(len(nodes[number].shapes))):
            raise ValueError(f"it has no output {number}:{output} to be read")
    return tuple((nodes[number], output) for number, output in pairs)


def _read_arrays(stream, header, variables):
    """The arrays, which fill the rest of the file in the order of `variables`."""
    entries, size = _places(variables)
    if header != entries:
        raise ValueError("its arrays are not those of its graph, in float32 and in its order")
    start = stream.tell()
    if stream.seek(0, 2) - start != size:
        raise ValueError(f"its arrays have {size:,} bytes, the file {stream.tell() - start:,}")
    stream.seek(start)
    return {name: np.frombuffer(stream.read(4 * math.prod(node.shape())), "<f4").astype(np.float32)
            .reshape(node.shape()) for name, node in variables.items()}
