"""Exported networks compute what MXNet does: every unit, every network, every operator."""
import numpy as np
import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed "
                                         "(pip install --no-deps -r requirements-export.txt)")

import mxnet as mx  # noqa: E402
import onnx  # noqa: E402
from gluoncv import model_zoo  # noqa: E402
from mxnet.gluon import nn  # noqa: E402
from onnx import helper  # noqa: E402
from onnxruntime import InferenceSession, SessionOptions  # noqa: E402

from graph.fast_cpu import hybridize  # noqa: E402
from graph.graph import read_arrays, trace  # noqa: E402
from graph.onnx import OPSETS, Unexportable, to_onnx  # noqa: E402
from model.activation import list_activations  # noqa: E402
from model.attention import list_attentions  # noqa: E402
from model.structure import OPERATIONS, SearchableAttention  # noqa: E402
from model.zoo import list_models  # noqa: E402
from tests.random_networks import random_network, randomise  # noqa: E402


def written(net, shape):
    return to_onnx(trace(net, shape), read_arrays(net))


def session(graph, opset=13):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options,
                            providers=["CPUExecutionProvider"])


def assert_same(net, shape=(3, 17, 13), opset=13):
    """What is written gives the logits of the network, for one image and for three."""
    graph = written(net, shape)
    runtime = session(graph, opset)
    for count in (1, 3):
        x = np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)
        expected = net(mx.nd.array(x)).asnumpy()
        found, = runtime.run(None, {"images": x})
        assert np.ptp(expected) > 1e-3
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    return graph


def operators(graph):
    return {node.op_type for node in graph.node}


def finished(layer, shape=(3, 16, 16)):
    """A layer with a small network behind it."""
    net = nn.HybridSequential()
    net.add(layer, nn.Conv2D(4, 3), nn.GlobalAvgPool2D(), nn.Flatten())
    net.initialize()
    net(mx.nd.zeros((1, *shape)))
    return randomise(net)


# ---- every unit and network --------------------------------------------------------------------

@pytest.mark.parametrize("name", list_activations())
def test_every_activation(name):
    assert_same(random_network({"model": "resnet_v2_cifar",
                                "options": {"blocks": 1, "activation": name}}))


@pytest.mark.parametrize("options", [
    {"activation": "ChaATAC", "act_options": {"use_global": True}},
    {"activation": "ChaATAC", "act_options": {"use_relu": False, "reduction": 4}},
    {"activation": "SeqATAC", "act_options": {"dilation": 2}},
    {"activation": "xUnit", "act_options": {"gate": "sigmoid"}},
    {"activation": "prelu", "act_options": {"in_channels": 1}},
    {"activation": "ChaATAC", "drop_rate": 0.5},
], ids=str)
def test_options_of_activations(options):
    assert_same(random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1, **options}}))


_ATTENTION_OPTIONS = {
    "CBAM": [{"spatial_norm": True, "order": "spatial-channel"}],
    "ChannelAttention": [{"statistics": ["var", "max"]}],
    "SpatialAttention": [{"statistics": ["mean", "max", "var"]}],
    "GE": [{"variant": variant, "extent": extent} for variant in ("theta-", "theta", "theta+")
           for extent in ("global", 2, 4)],
}


def attention_cases():
    for name in list_attentions():
        for options in [{}, *_ATTENTION_OPTIONS.get(name, [])]:
            yield pytest.param(name, options, id=f"{name}-{options}")


@pytest.mark.parametrize("name, options", attention_cases())
def test_every_attention(name, options):
    graph = assert_same(random_network({"model": "resnet18", "options": {
        "width": 0.0625, "attention": name, "attn_options": options,
        "attention_at": ["block", "classifier"]}}))
    # Means, maxima and spreads are what they are, not products and picks.
    assert not {"MatMul", "GatherElements", "ArgMax", "Expand", "Shape"} & operators(graph)


@pytest.mark.parametrize("kind", ("CBAM", "MVAM"))
def test_every_operation_of_a_searched_structure(kind):
    operations = [*OPERATIONS, *OPERATIONS[:2]]
    assert_same(random_network({"model": "resnet18", "options": {"width": 0.0625, "structure": {
        "kind": kind, "operations": operations, "unit_options": {"reduction": 4}}}}))


_FLAT = {"layers": [1, 1, 1, 1]}
_SMALL = {"resnet_v2_cifar": {"blocks": 1}, "aa_resnet50": {**_FLAT, "input_size": 32}}


def small(name):
    """Options that make a network small."""
    return _SMALL.get(name) or (_FLAT if "v1b" in name or name.startswith("fa_")
                                else {"width": 0.0625})


@pytest.mark.parametrize("name", list_models())
def test_every_network(name):
    assert_same(random_network({"model": name, "options": small(name)}), (3, 33, 31))


@pytest.mark.parametrize("name, options", [
    ("resnet18_v1b", {"activation": "ChaATAC", "attention": "CBAM", "deep_stem": True,
                      "avg_down": True, "norm_layer": "SyncBatchNorm"}),
    ("resnet50_v1b", {"dilated": True, "avg_down": True, "norm_layer": "GroupNorm"}),
    ("fa_resnet50", {"dilated": True, "kernel_size": 3}),
    ("aa_resnet50", {"dilated": True, "input_size": 32}),
], ids=str)
def test_options_of_the_imagenet_networks(name, options):
    assert_same(random_network({"model": name, "options": {**_FLAT, **options}}), (3, 33, 30))


def test_a_network_of_gluoncv():
    net = model_zoo.get_model("resnet18_v2")
    net.initialize()
    net(mx.nd.zeros((1, 3, 64, 64)))
    assert_same(randomise(net), (3, 64, 64))


def test_an_attention_that_is_being_searched():
    net = finished(SearchableAttention(3, reduction=1))
    net[0].alpha.set_data(mx.nd.array([0, 1, -60, 2, 0.5]))
    assert_same(net, (3, 16, 16))


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset):
    assert_same(random_network({"model": "resnet18", "options": {
        "width": 0.0625, "attention": "MVAM"}}), opset=opset)


def test_a_network_that_was_made_fast_is_written_as_it_is_defined():
    net = random_network({"model": "resnet_v2_cifar", "options": {
        "blocks": 1, "activation": "SeqATAC", "attention": "MVAM"}})
    before = written(net, (3, 16, 16))
    hybridize(net, (2, 3, 16, 16), [mx.cpu()])
    net(mx.nd.zeros((2, 3, 16, 16)))
    assert written(net, (3, 16, 16)) == before


def test_weights_are_constants_that_runtimes_can_fold():
    net = random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1,
                                                                  "activation": "ChaATAC"}})
    graph = assert_same(net)
    assert [value.name for value in graph.input] == ["images"]
    shape = graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", 3, 17, 13]
    assert operators(graph) == {"Conv", "BatchNormalization", "Relu", "Sigmoid", "Mul", "Add",
                                "ReduceMean", "Gemm"}


def test_a_gamma_that_is_not_used_is_written_as_ones():
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(scale=False, in_channels=3), nn.GlobalAvgPool2D(), nn.Flatten())
    randomise(net)
    graph = assert_same(net)
    gamma, = (onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
              if tensor.name.endswith("gamma"))
    assert (gamma == 1).all()


def test_slopes_of_each_channel():
    net = nn.HybridSequential()
    net.add(nn.PReLU(in_channels=3), nn.GlobalAvgPool2D(), nn.Flatten())
    assert_same(randomise(net))


def _spread(F, x):
    """The mean of each channel, at every position of x (N, C, H, W)."""
    return F.broadcast_axis(F.mean(x, axis=(2, 3), keepdims=True), axis=(2, 3), size=(16, 16))


def _quarter(F, x):
    """(N, C, H, W) -> (N, C, 1, 1): a quarter of the sum, as a product with quarters."""
    rows = F.reshape(x, shape=(0, 0, -3))
    quarters = F.ones_like(F.slice_axis(rows, axis=1, begin=0, end=1)) / 4
    return F.reshape(F.batch_dot(rows, quarters, transpose_b=True), shape=(0, 0, 1, 1))


@pytest.mark.parametrize("function", [
    lambda F, x: F.broadcast_sub(x, F.mean(x, axis=(-2, 3), keepdims=True)),
    lambda F, x: F.broadcast_add(x, F.sum(x, axis=(2, 3), keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.max(x, axis=1, keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.sum(F.ones_like(x), axis=(2, 3), keepdims=True)),
    lambda F, x: F.reshape(F.im2col(x, kernel=(3, 3)), shape=(0, 27, 14, 14)),
    lambda F, x: F.slice_axis(F.reshape(
        F.im2col(x, kernel=(3, 3), dilate=(2, 2), pad=(2, 2), stride=(2, 2)),
        shape=(0, 27, 8, 8)), axis=1, begin=5, end=13),
    lambda F, x: F.broadcast_mul(x, F.sum(_spread(F, x), axis=(2, 3), keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.sum(_spread(F, x), axis=3, keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.mean(_spread(F, x) * x, axis=1, keepdims=True)),
    lambda F, x: F.broadcast_mul(x, _quarter(F, x)),
    lambda F, x: F.broadcast_mul(x, _quarter(F, _spread(F, x))),
    lambda F, x: F.broadcast_mul(x, F.pick(x, F.argmax(x, axis=3), axis=3, keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.pick(x, F.argmax(x, axis=-2), axis=2, keepdims=True)),
    lambda F, x: x * F.contrib.BilinearResize2D(F.Pooling(
        x, kernel=(2, 2), stride=(2, 2), pool_type="avg"), x, mode="like"),
], ids=("mean", "sum", "maximum", "sum of ones", "im2col", "windows", "sum of spread",
        "row of spread", "mean of a product", "product", "product of spread", "maximum of rows",
        "maximum of columns", "enlarged"))
def test_attributes_that_are_left_out_or_turn_others_round(function):
    assert_same(finished(nn.HybridLambda(function)), (3, 16, 16))


@pytest.mark.parametrize("layer", [
    *(pool(size, strides, padding, ceil_mode=True, **options)
      for size, strides, padding in ((3, 2, 0), (3, 2, 1), (5, 3, 2))
      for pool, options in ((nn.MaxPool2D, {}), (nn.AvgPool2D, {"count_include_pad": True}),
                            (nn.AvgPool2D, {"count_include_pad": False}))),
    nn.AvgPool2D(3, 2, 1), nn.AvgPool2D(3, 1, (1, 0), count_include_pad=False),
    nn.Conv2D(8, (3, 1), (2, 1), (2, 0), dilation=(2, 1), groups=4, in_channels=12),
    nn.Dense(7, flatten=False), nn.Dense(7, flatten=False, use_bias=False),
    nn.LeakyReLU(0.3), nn.Activation("softsign"),
], ids=lambda layer: repr(layer)[:70])
def test_layers_at_sizes_that_their_windows_do_not_fill(layer):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(12, 3), layer, nn.Flatten())
    net.initialize()
    net(mx.nd.zeros((1, 3, 16, 17)))
    assert_same(randomise(net), (3, 16, 17))


@pytest.mark.parametrize("function", [
    lambda F, x: F.broadcast_mul(x, F.sum(F.ones_like(x), axis=0, keepdims=True)),
    lambda F, x: F.broadcast_mul(F.ones_like(x), F.mean(x, axis=0, keepdims=True)),
    lambda F, x: F.concat(x, F.ones_like(x), dim=1),
    lambda F, x: F.concat(x, 2 - F.exp(F.ones_like(x)), dim=3),
    lambda F, x: F.broadcast_like(F.mean(x, axis=(0, 1), keepdims=True), x) + x,
    lambda F, x: F.reshape(F.broadcast_add(F.reshape(F.ones_like(x), shape=(-3, 0, 0)),
                                           F.reshape(x, shape=(-3, 0, 0))), shape=(-1, 3, 16, 16)),
], ids=("sum", "mean", "channels", "columns", "batch", "images and channels"))
def test_what_is_the_same_for_every_image_is_there_for_each(function):
    assert_same(finished(nn.HybridLambda(function)), (3, 16, 16))


@pytest.mark.parametrize("layer, name", [
    (lambda: nn.GroupNorm(1), "GroupNorm"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.argmax(x, axis=1, keepdims=True))),
     "argmax"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.sum(
        x, axis=0, exclude=True, keepdims=True))),
     "sum .* axes"),
    (lambda: nn.HybridLambda("sort"), "sort"),
    (lambda: nn.HybridLambda(lambda F, x: F.pick(x, F.max(x, axis=1), axis=1, keepdims=True)),
     "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.pick(
        x, F.argmax(x, axis=3), axis=2, keepdims=True))), "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.pick(
        x, F.argmax(-x, axis=3), axis=3, keepdims=True))), "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.LeakyReLU(x, act_type="rrelu")[0]), "LeakyReLU"),
    (lambda: nn.HybridLambda(lambda F, x: F.Dropout(x, mode="always")), "Dropout"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_add(
        x, F.contrib.arange_like(x, axis=3, repeat=2))),
     "arange_like"),
    (lambda: nn.MaxPool2D(1, 2, ceil_mode=True), "Pooling .* beyond the edge"),
    (lambda: nn.BatchNorm(axis=3), "BatchNorm .* axis"),
], ids=("GroupNorm", "an index", "every other axis", "sort", "pick", "another axis",
        "another tensor", "rrelu", "dropout", "arange_like", "pooling", "norm"))
def test_what_cannot_be_written_is_refused_by_name(layer, name):
    with pytest.raises(Unexportable, match=name):
        written(finished(layer()), (3, 16, 16))


def test_several_outputs_are_refused():
    with pytest.raises(Unexportable, match="has 3 outputs instead of one"):
        written(nn.HybridLambda(lambda F, x: F.split(x, num_outputs=3)), (3, 16, 16))
