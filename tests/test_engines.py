"""The scripts with PyTorch's engine, and runs that go on with the other one, as a user has them."""
import json
import re
import signal

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from common.params import read_params  # noqa: E402
from tests import scripts  # noqa: E402
from tests.data.photo_files import write_tree  # noqa: E402

_STEPS = 6
_OPTIONS = ("--dataset", "shapes", "--limit-train", 32 * _STEPS, "--blocks", 1, "--act-type",
            "ChaATAC", "--batch-size", 32, "--lr", 5e-3, "--num-epochs", 2, "--mode", "imperative",
            "--checkpoint-every", 1, "--num-data-workers", 0, "--name", "run")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """With which a run has the same bits each time."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of PyTorch's that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    result = scripts.run("train_cifar.py", *_OPTIONS, "--engine", "pytorch", cwd=folder,
                         OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert "float32, by PyTorch" in (folder / "logs/run/train.log").read_text()
    assert json.loads((folder / "logs/run/config.json").read_text())["engine"] == "pytorch"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [("pytorch", "pytorch"), ("pytorch", "mxnet"),
                                         ("mxnet", "pytorch")])
def test_a_killed_run_goes_on_with_either_engine(whole, tmp_path, first, then):
    log, checkpoints = tmp_path / "out", tmp_path / "params/run/checkpoints"
    process = scripts.start("train_cifar.py", *_OPTIONS, "--engine", first, cwd=tmp_path, log=log)
    scripts.wait_for(lambda: any(checkpoints.glob("step-*")), process, log)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    result = scripts.run("train_cifar.py", "--resume", "logs/run", "--engine", then, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = (tmp_path / "logs/run/train.log").read_text()
    assert re.findall("float32, by (.*)", said) == [
        {"mxnet": "MXNet", "pytorch": "PyTorch"}[each] for each in (first, then)]
    assert "resumed from" in said
    if first == then:
        scripts.assert_same_params(tmp_path / "params/run", whole / "params/run")
        assert scripts.metrics(tmp_path / "logs/run") == scripts.metrics(whole / "logs/run")
        return
    found, expected = (read_params(folder / "params/run/last.params")
                       for folder in (tmp_path, whole))
    assert found.keys() == expected.keys()
    for name in found:
        limit = 1e-3 * max(np.abs(expected[name]).max(), 0.1)
        assert np.abs(found[name] - expected[name]).max() <= limit, name


def test_a_file_is_scored_alike(whole):
    lines = []
    for engine in ("mxnet", "pytorch"):
        result = scripts.run("evaluate.py", "--params", "params/run/last.params", "--engine",
                             engine, cwd=whole)
        assert result.returncode == 0, result.stderr
        lines.append(re.search("top-1 accuracy.*top-5 error .* %", result.stdout)[0])
    assert lines[0] == lines[1]


def test_bfloat16_asks_for_pytorch_by_itself(tmp_path):
    result = scripts.run("train_cifar.py", *_OPTIONS, "--dtype", "bfloat16", "--num-epochs", 1,
                         cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "bfloat16, by PyTorch" in (tmp_path / "logs/run/train.log").read_text()
    result = scripts.run("train_cifar.py", "--resume", "logs/run", "--engine", "mxnet",
                         cwd=tmp_path)
    scripts.assert_user_error(result, "--dtype bfloat16: MXNet", "drop --engine mxnet")


@pytest.mark.slow
def test_a_search_finds_the_same_weights(tmp_path):
    files, tables = scripts.drawn_cifar(tmp_path / "files", train=64, test=16), []
    for engine in ("mxnet", "pytorch"):
        result = scripts.run(
            "search_attention.py", "--model", "resnet_v2_cifar", "--blocks", 1, "--dataset",
            "cifar10", "--data-dir", files, "--batch-size", 16, "--warmup-epochs", 1,
            "--search-epochs", 1, "--mode", "imperative", "--lr", 0.01, "--engine", engine,
            "--name", engine, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found = json.loads((tmp_path / f"logs/{engine}/structure.json").read_text())
        tables.append(np.array(found["search"]["weights"]))
    assert np.abs(tables[0] - 0.2).max() > 0.01    # the weights have moved
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-3)


@pytest.mark.slow
def test_photographs_are_trained_on_and_scored(tmp_path):
    tree, lines = write_tree(tmp_path / "tree", classes=2, train=8, val=3), []
    result = scripts.run(
        "train_imagenet.py", "--data-dir", tree, "--model", "resnet18_v1b", "--act-type", "ChaATAC",
        "--batch-size", 8, "--input-size", 32, "--num-epochs", 1, "--lr", 0.01, "--mixup",
        "--last-gamma", "--mode", "imperative", "--num-gpus", 0, "--engine", "pytorch", "--name",
        "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for engine in ("mxnet", "pytorch"):
        result = scripts.run("evaluate.py", "--params", "params/run/last.params", "--data-dir",
                             tree, "--crops", 10, "--engine", engine, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        lines.append(re.search("top-1 accuracy.*loss [0-9]+[.][0-9]{2}", result.stdout)[0])
    assert lines[0] == lines[1]


def test_float16_is_refused_on_a_cpu(tmp_path):
    result = scripts.run("train_cifar.py", *_OPTIONS, "--engine", "pytorch", "--dtype", "float16",
                         "--num-gpus", 0, cwd=tmp_path)
    scripts.assert_user_error(result, "float16 needs a GPU")
