"""export.py and evaluate.py --onnx: what they write, read and compare, and what may go wrong."""
import json
import resource
import shutil

import numpy as np
import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"{_package} is not installed "
                                         "(make env EXTRAS=export)")

import mxnet as mx  # noqa: E402
import onnx  # noqa: E402

import evaluate  # noqa: E402
import export  # noqa: E402
from common.errors import UserError  # noqa: E402
from exporting import command, comparison  # noqa: E402
from exporting.comparison import Row, difference, warning  # noqa: E402
from exporting.onnx_file import PREFIX  # noqa: E402
from exporting.opening import open_file  # noqa: E402
from model.zoo import build  # noqa: E402
from tests.random_networks import CIFAR, random_network  # noqa: E402
from tests.scripts import ROOT, assert_user_error, drawn_cifar, run  # noqa: E402
from tests.torture import fuzz_onnx  # noqa: E402

# ---- comparing ---------------------------------------------------------------------------------

def test_the_difference_is_relative_to_each_image():
    reference = np.array([[100.0, 1.0], [0.1, 0.05]], np.float32)
    assert np.isclose(difference(reference + np.float32(0.01), reference), 0.1, rtol=1e-3)


@pytest.mark.parametrize("agreeing, largest, fine", [
    (10, 1e-6, True), (9, 1e-6, False), (10, 1e-3, False), (10, float("nan"), False)])
def test_a_runtime_that_differs_is_named(agreeing, largest, fine):
    rows = [Row("int8", False, 0.5, 3, 1.0, (1, 1)), Row("that", True, 0.5, agreeing, largest,
                                                        (1, 1))]
    line = warning(rows, 10, 1e-4)
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


def test_a_data_set_is_known_in_any_spelling(trained, tmp_path, capsys):
    bare = shutil.copy(trained, tmp_path / "bare.params")
    export.main(["--params", str(bare), "--model", "resnet_v2_cifar", "--blocks", "1",
                 "--act-type", "ChaATAC", "--dataset", "CIFAR10", "--outputs", "10"])
    assert "input  images (batch, 3, 32, 32) float32" in capsys.readouterr().out


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


def test_a_check_that_disagrees_ends_in_an_error(trained, images, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0.02)
    monkeypatch.setitem(command._TOLERANCES, "onnx", 0.0)
    with pytest.raises(UserError, match="onnxruntime float32 does not agree"):
        export.main(["--params", str(trained), "--output", str(tmp_path / "net.onnx"), "--check",
                     "--limit-test", "2", *images])


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
    with pytest.raises(UserError, match="of 10 outputs; 7 are asked for"):
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
    assert_user_error(done, "onnx is not installed", "make env EXTRAS=export")
    done = run("evaluate.py", "--onnx", "a.onnx", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert_user_error(done, "onnx is not installed", "make env EXTRAS=export")
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


def test_a_check_on_data_of_other_classes_is_refused(trained, images, tmp_path):
    description = json.loads(trained.with_suffix(".json").read_text())
    description["dataset"].update(name="mine", class_names=list("abcdefg"))
    random_network(description, 7).save_parameters(str(tmp_path / "net.params"))
    (tmp_path / "net.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="7 outputs; cifar10 has 10 classes"):
        export.main(["--params", str(tmp_path / "net.params"), "--check", *images])


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


@pytest.mark.parametrize("kind", ["mxnet", "onnx"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, kind):
    """A limit on the size of files stands for it: the write fails half way, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*: File too large"):
            export.main(["--params", str(ROOT / "params/cifar10-relu-b1.params"), "--format", kind,
                         "--output", str(tmp_path / "net")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
