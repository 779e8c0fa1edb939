"""The graph of a network: what it tells, what rules make of it, and its file."""
import json
import subprocess
import sys

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from mxnet.gluon import nn

from common.errors import FileError, UserError
from graph.graph import Graph, GraphError, Node, load, save, trace
from model import get_model
from tests.scripts import ROOT

SHAPE = (3, 12, 10)


def _network(**options):
    net = get_model("resnet_v2_cifar", blocks=1, **options)
    net.initialize(mx.init.Xavier())
    return net


def _arrays(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def _output(graph, net, x):
    """What a graph computes with a network's parameters."""
    names = {key: p.name for key, p in net._collect_params_with_prefix().items()}
    block = mx.gluon.SymbolBlock(graph.to_symbol(names), mx.sym.var("data"), net.collect_params())
    return block(x)


def test_it_tells_operators_attributes_shapes_and_structural_names():
    net = _network(activation="ChaATAC")
    graph = trace(net, SHAPE)
    conv = next(node for node in graph.nodes if node.op == "Convolution")
    assert conv.attrs["kernel"] == (3, 3) and conv.attrs["no_bias"] is True
    assert conv.attrs["num_filter"] == 16
    assert conv.shapes == (((1, 16, 12, 10), (2, 16, 12, 10)),)
    assert conv.batch_axis() == 0
    (norm, _), (weight, _) = conv.inputs
    assert (norm.op, norm.attrs["fix_gamma"]) == ("BatchNorm", True)
    assert norm.attrs["eps"] == 1e-5
    assert (weight.op, weight.name, weight.shape()) == ("parameter", "features.1.weight",
                                                        (16, 3, 3, 3))
    assert weight.batch_axis() is None
    assert [source.op for source, _ in norm.inputs] == ["input", "parameter", "parameter",
                                                        "state", "state"]
    assert [weight.attrs, norm.inputs[1][0].attrs] == [{"trained": True}, {"trained": False}]
    assert graph.variables.keys() == net._collect_params_with_prefix().keys()


def test_each_node_follows_what_it_reads_and_knows_its_readers():
    graph = trace(_network(activation="swish"), SHAPE)
    seen = set()
    for node in graph.nodes:
        assert all(source in seen for source, _ in node.inputs)
        for output in range(len(node.shapes)):
            readers = graph.readers(node, output)
            assert readers
            assert all(graph.outputs[k] == (node, output) if reader is None
                       else reader.inputs[k] == (node, output) for reader, k in readers)
        seen.add(node)


def test_every_output_of_a_node_has_its_shape():
    class Halves(nn.HybridBlock):
        def hybrid_forward(self, F, x):
            a, b = F.split(x, num_outputs=2, axis=3)
            return b, F.sum(a, axis=(0, 2))

    graph = trace(Halves(), SHAPE)
    split, total = (node for node in graph.nodes if not node.is_variable)
    assert [split.shape(0), split.shape(1)] == [(1, 3, 12, 5)] * 2
    assert total.shapes == (((3, 5), (3, 5)),) and total.attrs["axis"] == (0, 2)
    assert graph.outputs == ((split, 1), (total, 0))


def test_a_shared_parameter_is_one_node():
    net = nn.HybridSequential()
    first = nn.Dense(30, flatten=False, in_units=30)
    net.add(first, nn.Dense(30, flatten=False, in_units=30, params=first.params))
    assert list(trace(net, (30,)).variables) == ["0.weight", "0.bias"]


def test_shapes_that_gluon_leaves_open_are_inferred():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.BatchNorm())
    shapes = {name: node.shape() for name, node in trace(net, SHAPE).variables.items()}
    assert shapes["0.weight"] == (4, 3, 3, 3) and shapes["1.running_var"] == (4,)


@pytest.mark.parametrize("options", [{"activation": "ChaATAC"},
                                     {"activation": "prelu", "attention": "MVAM"}], ids=str)
def test_its_symbol_computes_the_same(options):
    net = _network(**options)
    x = nd.random.normal(shape=(3, *SHAPE))
    np.testing.assert_array_equal(_output(trace(net, SHAPE), net, x).asnumpy(), net(x).asnumpy())


def _doubled_relu(node, graph, new):
    """relu(x) -> 2 relu(x), with a node that has no shape yet."""
    if node.op == "Activation" and node.attrs["act_type"] == "relu":
        relu = Node(node.op, node.name, tuple(map(new, node.inputs)), node.attrs, node.shapes)
        return Node("_mul_scalar", f"{node.name}_doubled", ((relu, 0),), {"scalar": 2.0}), 0


def _no_relu(node, graph, new):
    if node.op == "Activation":
        return new(node.inputs[0])


def test_rules_make_another_graph_whose_nodes_have_shapes():
    net = nn.HybridSequential()
    net.add(nn.Activation("relu"), nn.Activation("relu"))
    before = trace(net, SHAPE)
    after = before.rewrite(_doubled_relu)
    assert [node.op for node in before.nodes] == ["input", "Activation", "Activation"]
    assert [node.op for node in after.nodes] == ["input"] + 2 * ["Activation", "_mul_scalar"]
    assert all(node.shapes == (((1, *SHAPE), (2, *SHAPE)),) for node in after.nodes)
    x = nd.random.normal(shape=(2, *SHAPE))
    np.testing.assert_array_equal(_output(after, net, x).asnumpy(), 4 * nd.relu(x).asnumpy())
    assert [node.op for node in after.rewrite(_no_relu).nodes] == ["input"] + 2 * ["_mul_scalar"]
    assert [node.op for node in before.rewrite(_no_relu).nodes] == ["input"]


class _Loop(nn.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.contrib.foreach(lambda step, state: (step, state), x, [])[0]


@pytest.mark.parametrize("net, shape, message", [
    (nn.Dense(4, in_units=7), (3, 2, 2), r"does not fit images of shape \(3, 2, 2\)"),
    (mx.gluon.nn.Lambda("relu"), SHAPE, "Lambda is not a HybridBlock"),
    (_Loop(), SHAPE, "control flow")], ids=["shape", "no symbol", "loop"])
def test_what_has_no_graph_is_said(net, shape, message):
    with pytest.raises(GraphError, match=message):
        trace(net, shape)


# ---- files ----

@pytest.fixture
def saved(tmp_path):
    net = _network(activation="ChaATAC")
    net(nd.zeros((1, *SHAPE)))
    save(tmp_path / "net.safetensors", trace(net, SHAPE), _arrays(net))
    return net, tmp_path / "net.safetensors"


def test_a_file_holds_it_whole(saved):
    net, path = saved
    before = trace(net, SHAPE)
    after, arrays = load(path)
    assert len(after.nodes) == len(before.nodes)
    for a, b in zip(after.nodes, before.nodes):
        assert (a.op, a.name, a.attrs, a.shapes) == (b.op, b.name, b.attrs, b.shapes)
    for name, array in _arrays(net).items():
        np.testing.assert_array_equal(arrays[name], array)
    x = nd.random.normal(shape=(2, *SHAPE))
    np.testing.assert_array_equal(_output(after, net, x).asnumpy(), net(x).asnumpy())


def test_a_file_is_read_without_mxnet(saved):
    code = ("import sys; from graph.graph import load; graph, arrays = load(sys.argv[1]); "
            "print(len(graph.nodes), len(arrays), 'mxnet' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(saved[1])], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    graph, arrays = load(saved[1])
    assert done.stdout.split() == [str(len(graph.nodes)), str(len(arrays)), "False"]


def test_arrays_are_those_of_the_graph(tmp_path):
    net = nn.Dense(2, in_units=3)
    with pytest.raises(ValueError, match=r"weight has no array of shape \(2, 3\)"):
        save(tmp_path / "net", trace(net, (3,)), {"weight": np.zeros((3, 2))})
    assert list(tmp_path.iterdir()) == []


def _changed(path, change):
    """Rewrite a file's graph and header; returns its path."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + length])
    graph = json.loads(header["__metadata__"]["graph"])
    change(graph, header)
    header["__metadata__"]["graph"] = json.dumps(graph)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length:])
    return path


def _entry(header):
    return header["features.1.weight"]


_DAMAGES = {
    "format": lambda graph, header: graph.update(format="graph 2"),
    "no list": lambda graph, header: graph.update(nodes=7),
    "a node reads itself": lambda graph, header: graph["nodes"][7].update(inputs=[[7, 0]]),
    "a node reads nothing that is": lambda graph, header: graph["nodes"][7].update(
        inputs=[[0, 5]]),
    "before the first": lambda graph, header: graph.update(outputs=[[-1, 0]]),
    "shape": lambda graph, header: graph["nodes"][1].update(shapes=[[[-3], [3]]]),
    "no shapes": lambda graph, header: graph["nodes"][1].update(shapes=None),
    "huge": lambda graph, header: _entry(header).update(shape=[1 << 40, 3, 3, 3]),
    "overlap": lambda graph, header: _entry(header).update(data_offsets=[0, 1728]),
    "type": lambda graph, header: _entry(header).update(dtype="F64"),
    "unknown type": lambda graph, header: _entry(header).update(dtype="O"),
    "missing": lambda graph, header: header.pop("features.1.weight"),
    "more": lambda graph, header: header.update(other=_entry(header)),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_strangers_file_is_checked(saved, damage):
    path = _changed(saved[1], _DAMAGES[damage])
    with pytest.raises(FileError, match="net.safetensors is not a saved graph: .+"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + bytes(100), bytes(8) + b"{}",
                                     (9).to_bytes(8, "little") + b'{"a": []}'], ids=str)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match="file is not a saved graph"):
        load(path)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x"])
def test_a_file_of_another_length_is_refused(saved, change):
    path = saved[1]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FileError, match="its arrays have"):
        load(path)


def test_an_unchanged_graph_keeps_its_nodes():
    graph = trace(nn.Activation("relu"), SHAPE)
    assert graph.rewrite(lambda node, graph, new: None).nodes == graph.nodes
    assert Graph(graph.outputs).nodes == graph.nodes
