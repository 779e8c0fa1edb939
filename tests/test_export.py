"""export.py and evaluate.py --onnx: every network, every unit, and what may go wrong."""
import json
import shutil
import sys

import numpy as np
import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed "
                                         "(pip install --no-deps -r requirements-export.txt)")

import mxnet as mx  # noqa: E402
import onnx  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

import evaluate  # noqa: E402
import export  # noqa: E402
from common.errors import UserError  # noqa: E402
from exporting import comparison  # noqa: E402
from exporting.comparison import Row, difference, warning  # noqa: E402
from exporting.mxnet_exporter import Unexportable, export_graph  # noqa: E402
from exporting.onnx_file import PREFIX, make_model  # noqa: E402
from exporting.opening import open_file  # noqa: E402
from exporting.runtimes import OnnxRuntime  # noqa: E402
from exporting.symbol import network_symbol  # noqa: E402
from model.activation import list_activations  # noqa: E402
from model.attention import list_attentions  # noqa: E402
from model.structure import OPERATIONS  # noqa: E402
from model.zoo import build, list_models  # noqa: E402
from tests.random_networks import CIFAR, random_network, randomise  # noqa: E402
from tests.scripts import assert_user_error, drawn_cifar, run  # noqa: E402
from tests.torture import fuzz_onnx  # noqa: E402


def assert_same(net, size=16, **options):
    """The exported network gives the logits of the network, for one image and for five."""
    model = make_model(net, size, {}, "0" * 64, **options)
    session = OnnxRuntime(model.SerializeToString(), "images")
    for count in (1, 5):
        x = np.random.default_rng(count).normal(size=(count, 3, size, size)).astype(np.float32)
        expected = net(mx.nd.array(x)).asnumpy()
        assert np.ptp(expected) > 1e-3
        assert difference(session(x), expected) < 1e-4
    return model


def operators(model):
    return {node.op_type for node in model.graph.node}


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
    model = assert_same(random_network({"model": "resnet18", "options": {
        "width": 0.0625, "attention": name, "attn_options": options,
        "attention_at": ["block", "classifier"]}}))
    # Means, maxima and spreads are what they are, not products and picks.
    assert not {"MatMul", "GatherElements", "ArgMax", "Expand", "Shape"} & operators(model)


@pytest.mark.parametrize("kind", ("CBAM", "MVAM"))
def test_every_operation_of_a_searched_structure(kind):
    operations = [*OPERATIONS, *OPERATIONS[:2]]
    assert_same(random_network({"model": "resnet18", "options": {"width": 0.0625, "structure": {
        "kind": kind, "operations": operations, "unit_options": {"reduction": 4}}}}))


_SMALL = {"resnet_v2_cifar": {"blocks": 1}, "aa_resnet50": {"layers": [1, 1, 1, 1],
                                                           "input_size": 32},
          "fa_resnet50": {"layers": [1, 1, 1, 1]}}


def small(name):
    """Options that make a network small."""
    if name in _SMALL:
        return _SMALL[name]
    return {} if "v1b" in name else {"width": 0.0625}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if "101" not in name
                                  and "152" not in name])
def test_every_network(name):
    assert_same(random_network({"model": name, "options": small(name)}), size=32)


@pytest.mark.slow
def test_slots_of_the_imagenet_networks():
    assert_same(random_network({"model": "resnet18_v1b", "options": {
        "activation": "ChaATAC", "attention": "CBAM", "deep_stem": True, "avg_down": True,
        "norm_layer": "SyncBatchNorm"}}), size=32)


@pytest.mark.parametrize("opset", (13, 15, 17))
def test_opsets(opset):
    model = assert_same(random_network({"model": "resnet18", "options": {
        "width": 0.0625, "attention": "MVAM"}}), opset=opset)
    assert [entry.version for entry in model.opset_import] == [opset]


def test_weights_are_constants_that_runtimes_can_fold():
    net = random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1,
                                                                  "activation": "ChaATAC"}})
    model = assert_same(net)
    assert [value.name for value in model.graph.input] == ["images"]
    shape = model.graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", 3, 16, 16]
    assert operators(model) == {"Conv", "BatchNormalization", "Relu", "Sigmoid", "Mul", "Add",
                                "ReduceMean", "Flatten", "Gemm"}


def test_a_gamma_that_is_not_used_is_written_as_ones():
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(scale=False, in_channels=3), nn.GlobalAvgPool2D(), nn.Flatten())
    randomise(net)
    model = assert_same(net)
    gamma, = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
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
    lambda F, x: F.broadcast_sub(x, F.mean(x, axis=(0, 1), exclude=True, keepdims=True)),
    lambda F, x: F.broadcast_add(x, F.sum(x, axis=(0, 1), exclude=True, keepdims=True)),
    lambda F, x: F.broadcast_mul(x, F.sum(F.ones_like(x), axis=(0, 1), exclude=True,
                                          keepdims=True)),
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
], ids=("mean", "sum", "sum of ones", "im2col", "windows", "sum of spread", "row of spread",
        "mean of a product", "product", "product of spread", "maximum of rows",
        "maximum of columns", "enlarged"))
def test_attributes_that_are_left_out_or_turn_others_round(function):
    net = nn.HybridSequential()
    net.add(nn.HybridLambda(function), nn.Conv2D(4, 3), nn.GlobalAvgPool2D(), nn.Flatten())
    net.initialize()
    net(mx.nd.zeros((1, 3, 16, 16)))
    assert_same(randomise(net))


@pytest.mark.parametrize("layer, name", [
    (lambda: nn.GroupNorm(1), "GroupNorm"),
    (lambda: nn.HybridLambda("sort"), "sort"),
    (lambda: nn.HybridLambda(lambda F, x: F.pick(x, F.argmin(x, axis=1), axis=1, keepdims=True)),
     "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.pick(
        x, F.argmax(x, axis=3), axis=2, keepdims=True))), "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_mul(x, F.pick(
        x, F.argmax(-x, axis=3), axis=3, keepdims=True))), "pick"),
    (lambda: nn.HybridLambda(lambda F, x: F.max(x, axis=(0, 2, 3), exclude=True, keepdims=True)),
     "max"),
    (lambda: nn.HybridLambda(lambda F, x: F.LeakyReLU(x, act_type="rrelu")[0]), "LeakyReLU"),
    (lambda: nn.HybridLambda(lambda F, x: F.Dropout(x, mode="always")), "Dropout"),
    (lambda: nn.HybridLambda(lambda F, x: F.broadcast_add(
        x, F.contrib.arange_like(x, axis=3, repeat=2))),
     "arange_like"),
], ids=("GroupNorm", "sort", "pick", "another axis", "another tensor", "max", "rrelu", "dropout",
        "arange_like"))
def test_what_cannot_be_written_is_refused_by_name(layer, name):
    net = nn.HybridSequential()
    net.add(layer(), nn.Conv2D(4, 3), nn.GlobalAvgPool2D(), nn.Flatten())
    net.initialize()
    net(mx.nd.zeros((1, 3, 16, 16)))
    with pytest.raises(Unexportable, match=name):
        make_model(net, 16, {}, "0" * 64)


def test_mxnet_s_exporter_is_left_as_it_was():
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    before = dict(MXNetGraph.registry_[13])
    net = random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1}})
    symbol, params = network_symbol(net)
    export_graph(symbol, params, (3, 16, 16))
    assert MXNetGraph.registry_[13] == before and "onnx.mapping" not in sys.modules
    assert onnx.checker.DEFAULT_CONTEXT.opset_imports == {"": onnx.defs.onnx_opset_version()}


# ---- comparing ---------------------------------------------------------------------------------

def test_the_difference_is_relative_to_each_image():
    reference = np.array([[100.0, 1.0], [0.1, 0.05]], np.float32)
    assert np.isclose(difference(reference + np.float32(0.01), reference), 0.1, rtol=1e-3)


@pytest.mark.parametrize("agreeing, largest, fine", [
    (10, 1e-6, True), (9, 1e-6, False), (10, 1e-3, False), (10, float("nan"), False)])
def test_a_runtime_that_differs_is_named(agreeing, largest, fine):
    rows = [Row("int8", False, 0.5, 3, 1.0, (1, 1)), Row("that", True, 0.5, agreeing, largest,
                                                        (1, 1))]
    line = warning(rows, 10)
    assert line is None if fine else line.startswith("that does not agree")


# ---- the scripts -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A parameter file for 32x32 images with its description."""
    folder = tmp_path_factory.mktemp("trained")
    description = {"model": "resnet_v2_cifar", "options": {"blocks": 1, "activation": "ChaATAC"},
                   "dataset": CIFAR}
    random_network(description).save_parameters(str(folder / "net.params"))
    (folder / "net.json").write_text(json.dumps(description))
    return folder / "net.params"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Options for a few images in the official files' format."""
    folder = drawn_cifar(tmp_path_factory.mktemp("images"), train=64, test=150)
    return ["--dataset", "cifar10", "--data-dir", str(folder)]


@pytest.fixture(scope="module")
def exported(trained):
    path = trained.with_name("exported.onnx")
    assert export.main(["--params", str(trained), "--output", str(path)]) == 0
    return path


def test_what_is_written_is_told(trained, tmp_path, capsys):
    path = tmp_path / "new" / "net.onnx"
    export.main(["--params", str(trained), "--output", str(path), "--opset", "14"])
    out = capsys.readouterr().out
    assert f"{path}: {path.stat().st_size:,} bytes, ONNX opset 14" in out
    assert "input  images (batch, 3, 32, 32) float32, normalised" in out
    assert "output logits (batch, 10) float32" in out
    assert [entry.name for entry in path.parent.iterdir()] == ["net.onnx"]


def test_metadata_describe_the_network(exported):
    found = {entry.key: entry.value for entry in onnx.load_model(str(exported)).metadata_props}
    assert json.loads(found[PREFIX + "network"])["dataset"]["std"] == CIFAR["std"]
    assert len(found[PREFIX + "params-sha256"]) == 64


def test_nothing_is_replaced_unasked(trained, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists; give --overwrite"):
        export.main(["--params", str(trained), "--output", str(path)])
    assert path.read_text() == "mine"
    assert export.main(["--params", str(trained), "--output", str(path), "--overwrite"]) == 0
    with pytest.raises(UserError, match="is a folder"):
        export.main(["--params", str(trained), "--output", str(tmp_path), "--overwrite"])


def test_evaluation_agrees_with_the_network_s(trained, exported, images, tmp_path, capsys):
    pixels = tmp_path / "pixels.onnx"
    export.main(["--params", str(trained), "--output", str(pixels), "--with-normalisation"])
    lines = []
    for argv in (["--params", trained], ["--onnx", exported], ["--onnx", pixels]):
        capsys.readouterr()
        assert evaluate.main([*map(str, argv), *images]) == 0
        lines.append(capsys.readouterr().out.splitlines()[1])
    assert lines[0].startswith("top-1 accuracy") and len(set(lines)) == 1


def test_check_and_int8(trained, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0.02)
    path = tmp_path / "net.onnx"
    assert export.main(["--params", str(trained), "--output", str(path), "--int8", "--check",
                        "--limit-test", "64", "--calibration-images", "32", *images]) == 0
    out = capsys.readouterr().out
    assert "64 test images" in out and "onnxruntime float32" in out and "onnxruntime int8" in out
    assert open_file(tmp_path / "net.int8.onnx").outputs == 10
    assert (tmp_path / "net.int8.onnx").stat().st_size < 0.6 * path.stat().st_size


def test_mxnet_s_own_files(trained, tmp_path, capsys):
    export.main(["--params", str(trained), "--format", "mxnet", "--output", str(tmp_path / "net")])
    net = mx.gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["images"],
                                       str(tmp_path / "net-0000.params"))
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    description = json.loads(trained.with_suffix(".json").read_text())
    expected = build(description, 10)
    expected.load_parameters(str(trained))
    assert np.allclose(net(x).asnumpy(), expected(x).asnumpy(), atol=1e-5)


@pytest.mark.parametrize("argv, message", [
    ([], "either --params FILE or --pretrained NAME"),
    (["--params", "nowhere.params"], "there is no file nowhere.params"),
    (["--params", "a.params", "--format", "mxnet", "--check"], "--check is for --format onnx"),
    (["--params", "a.params", "--opset", "12"], "--opset: invalid choice"),
    (["--pretrained", "cifar10-relu-b1", "--output", "."], ". is a folder"),
    (["--pretrained", "cifar10-relu-b1", "--output", "x.onnx", "--dataset", "cifar11", "--check"],
     "unknown data set 'cifar11'"),
])
def test_mistakes_on_the_command_line(argv, message):
    with pytest.raises(UserError, match=message):
        export.main(argv)


def test_a_file_without_a_description(trained, tmp_path):
    lone = shutil.copy(trained, tmp_path / "lone.params")
    network = ["--model", "resnet_v2_cifar", "--blocks", "1", "--act-type", "ChaATAC"]
    with pytest.raises(UserError, match="say what it holds"):
        export.main(["--params", str(lone)])
    with pytest.raises(UserError, match="give --outputs"):
        export.main(["--params", str(lone), *network, "--dataset", "mine"])
    with pytest.raises(UserError, match="differ in shape"):
        export.main(["--params", str(lone), *network, "--dataset", "mine", "--outputs", "7"])
    assert export.main(["--params", str(lone), *network, "--dataset", "mine",
                        "--classes", "10"]) == 0


def test_without_onnx_a_line_says_what_to_install(trained, tmp_path):
    """As on a machine where only requirements-cpu.txt is installed."""
    for name in ("onnx", "onnxruntime", "openvino"):
        (tmp_path / f"{name}.py").write_text(
            f"raise ModuleNotFoundError('No module named {name}', name='{name}')")
    done = run("export.py", "--params", trained, "--output", tmp_path / "a.onnx", cwd=tmp_path,
               PYTHONPATH=str(tmp_path))
    assert_user_error(done, "onnx is not installed", "requirements-export.txt")
    done = run("evaluate.py", "--onnx", "a.onnx", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert_user_error(done, "onnx is not installed", "requirements-export.txt")
    assert run("export.py", "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0


# ---- files from elsewhere ----------------------------------------------------------------------

def test_the_image_size_and_classes_have_to_fit(trained, images, tmp_path):
    path = tmp_path / "large.onnx"
    export.main(["--params", str(trained), "--output", str(path), "--input-size", "40"])
    with pytest.raises(UserError, match="takes images of 40 pixels .*; those of cifar10 have 32"):
        evaluate.main(["--onnx", str(path), *images])
    path.unlink()
    with pytest.raises(UserError, match="for images of 40 pixels, the test images have 32"):
        export.main(["--params", str(trained), "--output", str(path), "--input-size", "40",
                     "--check", *images])
    assert not path.exists()


def test_a_file_of_others_needs_a_data_set(exported, images, tmp_path):
    model = onnx.load_model(str(exported))
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="with --dataset"):
        evaluate.main(["--onnx", str(path)])
    assert evaluate.main(["--onnx", str(path), *images]) == 0


def test_a_file_that_fails_on_larger_batches(exported, images, tmp_path):
    model = onnx.load_model(str(exported))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["inner", "two"], ["logits"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 10]), "two"))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", 1, ["n", 10]))
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="fails on a batch of 128"):
        evaluate.main(["--onnx", str(path), *images])


@pytest.mark.parametrize("mutation, message", [
    ("external_data", "the tensor .* is in another file"),
    ("huge_tensor", "does not run in onnxruntime: .*Expand"),
    ("sparse_weight", "it holds sparse tensors"),
    ("no_output", "it is not sound: .*'nowhere' is not an output"),
    ("truncate", "is damaged or no ONNX file: it cannot be parsed"),
])
def test_what_could_do_harm_is_refused(exported, tmp_path, mutation, message):
    path = tmp_path / "mutant.onnx"
    content = fuzz_onnx._mutated(np.random.default_rng(1), getattr(fuzz_onnx, mutation),
                                 exported.read_bytes())
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_file(path)


def test_a_runtime_that_crashes_takes_nothing_along(exported, tmp_path, monkeypatch):
    """Stands in for a bug of the runtime: the child process kills itself."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "onnxruntime.py").write_text("import os, signal\n"
                                             "os.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(UserError, match=r"tried it in onnxruntime crashed \(SIGSEGV\)"):
        open_file(exported)


def test_damaged_files_are_refused_in_a_line():
    lines = []
    counts, bad = fuzz_onnx.fuzz(2 * len(fuzz_onnx.MUTATIONS), seed=1, log=lines.append)
    assert bad == 0, "\n".join(lines)
    assert counts["refused"] >= 20
