"""Exported files give the network's own logits, whatever its units and options."""
import json

import numpy as np
import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed "
                                         "(make env EXTRAS=export)")

import onnx  # noqa: E402
from mxnet import nd  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime import InferenceSession  # noqa: E402

import evaluate  # noqa: E402
import export  # noqa: E402
from common.errors import UserError  # noqa: E402
from data import get_dataset  # noqa: E402
from tests.random_networks import CIFAR, random_network  # noqa: E402
from tests.scripts import drawn_cifar  # noqa: E402


def _saved(folder, model, options, size=32):
    """A network of random parameters in folder/net.params, described beside it."""
    description = {"model": model, "options": options, "dataset": {**CIFAR, "image_size": size}}
    net = random_network(description)
    net(nd.zeros((1, 3, size, size)))
    net.save_parameters(str(folder / "net.params"))
    (folder / "net.json").write_text(json.dumps(description))
    return net


def _exported(folder, *arguments):
    path = folder / "net.onnx"
    assert export.main(["--params", str(folder / "net.params"), "--output", str(path),
                        "--overwrite", *map(str, arguments)]) == 0
    return path


def _run(path, batch):
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def _distance(found, expected):
    """Largest difference, relative to the largest logit of the image."""
    return (np.abs(found - expected) / np.abs(expected).max(axis=1, keepdims=True)).max()


_NARROW, _FLAT = {"width": 1 / 16}, {"layers": [1, 1, 1, 1]}


@pytest.mark.parametrize("model, options, size", [
    ("fa_resnet50", {**_FLAT, "dilated": True, "kernel_size": 3}, 32),
    ("aa_resnet50", {**_FLAT, "dilated": True, "input_size": 32}, 32),
    ("resnet50_v1b", {**_FLAT, "dilated": True, "avg_down": True, "attention": "SE"}, 32),
    ("resnet18_v1b", {**_FLAT, "deep_stem": True, "activation": "xUnitS", "attention": "ECA"}, 40),
    ("resnet18", {**_NARROW, "attention": "BAM"}, 32),
    ("resnet18", {**_NARROW, "attention": "BAM", "attn_options": {"dilation": 2}}, 24),
    ("resnet18", {**_NARROW, "attention": "GE", "attention_at": ["classifier"],
                  "attn_options": {"variant": "theta+", "size": 3, "reduction": 4}}, 24),
    ("resnet18", {**_NARROW, "attention": "ZAM", "attn_options": {
        "skip": True, "order": "spatial-channel"}}, 24),
    ("resnet18", {**_NARROW, "attention": "MVAM", "stem": "conv7", "act_last": True,
                  "activation": "swish", "act_options": {"beta": 1.7}}, 33),
    ("resnet18", {**_NARROW, "attention": "CBAM", "attention_at": ["identity"], "attn_options": {
        "spatial_norm": True, "use_bias": False, "kernel_size": 5}}, 19),
    ("resnet18", {**_NARROW, "structure": {"kind": "MVAM", "unit_options": {"reduction": 2},
                                           "operations": ["CA||SA", "SA", "CA", "SA(+)CA",
                                                          "CA(+)SA", "identity", "CA||SA", "SA"]}},
     17),
    ("resnet_v2_cifar", {"blocks": 1, "activation": "SpaATAC", "act_options": {
        "kernel_size": 5, "dilation": 3}}, 32),
    ("resnet_v2_cifar", {"blocks": 1, "activation": "elu", "act_options": {"alpha": 0.3},
                         "replace_act": "prelu", "act_layers": 2, "attention": "ATAC"}, 20),
    ("resnet_v2_cifar", {"blocks": 1, "activation": "gelu", "replace_act": "selu",
                         "act_layers": 2, "act_order": "pre"}, 16),
], ids=str)
def test_logits_are_the_network_s(model, options, size, tmp_path):
    net = _saved(tmp_path, model, options, size)
    path = _exported(tmp_path)
    for count in (1, 3):
        x = np.random.default_rng(count).normal(size=(count, 3, size, size)).astype(np.float32)
        expected = net(nd.array(x)).asnumpy()
        assert np.ptp(expected) > 1e-3
        assert _distance(_run(path, x), expected) < 1e-4


# ---- normalisation, 8 bits -----------------------------------------------------------------------

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return drawn_cifar(tmp_path_factory.mktemp("files"), train=60, test=60)


@pytest.mark.parametrize("pixels, units", [
    (False, {}), (True, {}), (False, {"activation": "xUnit", "attention": "MVAM"}),
    (False, {"activation": "ChaATAC", "attention": "BAM"})], ids=str)
def test_eight_bits_are_near_the_network(pixels, units, files, tmp_path):
    """Their scales are of training images as the file takes them; of others nothing would be."""
    net = _saved(tmp_path, "resnet_v2_cifar", {"blocks": 1, **units})
    path = _exported(tmp_path, "--int8", "--calibration-images", 60, "--data-dir", files,
                     *["--with-normalisation"][:pixels])
    images = get_dataset("cifar10", files).test.images
    mean, std = (np.reshape(CIFAR[name], (3, 1, 1)) for name in ("mean", "std"))
    x = ((images / 255 - mean) / std).astype(np.float32)
    expected = net(nd.array(x)).asnumpy()
    batch = images if pixels else x
    assert _distance(_run(path, batch), expected) < 1e-4
    rough = _run(path.with_name("net.int8.onnx"), batch)
    assert 1e-4 < np.abs(rough - expected).mean() < 0.05 * np.abs(expected).mean()


def test_what_needs_resolution_does_not_compute_in_eight_bits(files, tmp_path):
    """Differences from a mean and squares stay floats; gates and sums of maps do not."""
    _saved(tmp_path, "resnet18", {"width": 1 / 16, "attention": "MVAM", "activation": "xUnit"})
    path = _exported(tmp_path, "--int8", "--calibration-images", 8, "--data-dir", files)
    graph = onnx.load_model(str(path.with_name("net.int8.onnx"))).graph
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    squares = {node.output[0] for node in graph.node
               if node.op_type == "Mul" and node.input[0] == node.input[1]}
    floats, bits = ({node.output[0] for node in graph.node if node.op_type in operators}
                    for operators in (("Sub", "Div", "Max"), ("Conv", "Gemm", "Sigmoid")))
    assert squares and floats and not (squares | floats) & rounded
    assert bits - rounded <= {"logits"}


# ---- files of others -----------------------------------------------------------------------------

def _foreign(path, side):
    """A file that spreads the mean colour of each image over side x side values on its way."""
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=1),
             helper.make_node("Expand", ["mean", "shape"], ["large"]),
             helper.make_node("ReduceMax", ["large"], ["colour"], axes=[2, 3], keepdims=0),
             helper.make_node("MatMul", ["colour", "weight"], ["logits"])]
    weights = [numpy_helper.from_array(np.array([1, 3, side, side], np.int64), "shape"),
               numpy_helper.from_array(np.eye(3, 10, dtype=np.float32), "weight")]
    graph = helper.make_graph(
        nodes, "foreign",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save_model(model, str(path))
    return path


def test_a_tensor_of_moderate_size_is_accepted(files, tmp_path):
    path = _foreign(tmp_path / "moderate.onnx", 64)
    assert evaluate.main(["--onnx", str(path), "--dataset", "cifar10", "--data-dir",
                          str(files)]) == 0


@pytest.mark.parametrize("side", [10_000, 2 ** 20])
def test_a_tensor_of_absurd_size_is_refused_for_its_size(side, files, tmp_path):
    path = _foreign(tmp_path / "huge.onnx", side)
    with pytest.raises(UserError, match=r"'large' has the shape .*; the most accepted is "
                                        "268,435,456 values"):
        evaluate.main(["--onnx", str(path), "--dataset", "cifar10", "--data-dir", str(files)])
