"""A network with more outputs than its data set has classes, in everything that reads one."""
import csv
import json
import shutil
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

import compare
import evaluate
import export
import gradcam
import train_cifar
from common.errors import UserError
from common.files import read_json
from data import get_dataset, list_datasets
from explain import report
from explain.networks import load_subjects
from reporting.runs import _OUTPUTS, load_run
from reporting.table import cost, cost_of
from runs import released as listed
from runs.trained import check_description, count_outputs, load_network
from tests.data.cifar_files import LAYOUTS, names_text, write_set
from tools import release

AUTHORS, COARSE = "cifar100-authors", "cifar100-coarse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on each form of CIFAR-100, of one step, and the files that they were trained on.

    With smoothed and mixed labels: they must be of as many outputs as the network has.
    """
    folder = tmp_path_factory.mktemp("outputs")
    layout = LAYOUTS[AUTHORS]
    write_set(folder / "data", layout, per_file=40)
    (folder / "data" / layout.names_file).write_bytes(names_text(layout))
    for name in (AUTHORS, COARSE, "cifar100"):
        assert train_cifar.main([
            "--dataset", name, "--data-dir", str(folder / "data"), "--act-type", "relu",
            "--blocks", "1", "--batch-size", "32", "--num-epochs", "1", "--label-smoothing",
            "--mixup", "0.2", "--name", name, "--save-dir", str(folder / "params"),
            "--log-dir", str(folder / "logs"), "--num-gpus", "0"]) == 0
    return folder


@pytest.fixture
def scored(folder):
    """Scores a file, or what the arguments name, on a data set; returns the exit code."""
    def score(dataset, *argv):
        return evaluate.main([*map(str, argv), "--dataset", dataset, "--data-dir",
                              str(folder / "data"), "--num-gpus", "0"])
    return score


def _params(folder, name=AUTHORS):
    return folder / "params" / name / "last.params"


def _predicts(folder, to, output):
    """A copy of the authors' run whose network predicts one output, whatever it is shown."""
    for kind in ("params", "logs"):
        shutil.copytree(folder / kind / AUTHORS, to / kind / AUTHORS)
    path = _params(to)
    arrays = mx.nd.load(str(path))
    arrays["output.weight"][:] = 0
    arrays["output.bias"][:] = mx.nd.array(20 * (np.arange(100) == output))
    for name in ("last.params", "best.params"):
        mx.nd.save(str(path.with_name(name)), arrays)
    return path


# ---- the description ----------------------------------------------------------------------------

@pytest.mark.parametrize("dataset, outputs", [
    ({"classes": 20, "outputs": 100, "class_names": ["a"] * 20}, 100),
    ({"classes": 20, "class_names": ["a"] * 20}, 20), ({"class_names": ["a", "b"]}, 2),
    ({"name": "x"}, None), (None, None)])
def test_a_description_says_how_many_outputs_there_are(dataset, outputs):
    assert count_outputs({"model": "m", "dataset": dataset}) == outputs


@pytest.mark.parametrize("key, value", [
    ("outputs", 0), ("outputs", 19), ("outputs", 100.0), ("outputs", True), ("outputs", "100"),
    ("outputs", 2 << 20), ("classes", -1), ("classes", 19), ("classes", [20])])
def test_wrong_counts_in_a_description_are_refused(folder, key, value):
    description = read_json(_params(folder).with_suffix(".json"))
    assert check_description(description, "net.json") is description
    description["dataset"][key] = value
    with pytest.raises(UserError, match=f"net.json: {key} of its data set must be a whole number"):
        check_description(description, "net.json")


def test_a_run_describes_classes_and_outputs(folder):
    description = read_json(_params(folder).with_suffix(".json"))
    assert (description["dataset"]["classes"], description["dataset"]["outputs"]) == (20, 100)


# ---- scoring --------------------------------------------------------------------------------

def test_a_network_with_spare_outputs_is_scored_on_its_classes(folder, scored, tmp_path, capsys):
    for dataset in (AUTHORS, COARSE):
        assert scored(dataset, "--params", _params(folder), "--csv", tmp_path / "a.csv") == 0
    assert "40 images" in capsys.readouterr().out
    with open(tmp_path / "a.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["dataset"] for row in rows] == [AUTHORS, COARSE]
    assert rows[0]["top1_error"] == rows[1]["top1_error"] and rows[0]["loss"] == rows[1]["loss"]
    own = read_json(_params(folder).with_suffix(".json"))["figures"]["val_accuracy"]
    assert 1 - float(rows[0]["top1_error"]) == pytest.approx(own)


@pytest.mark.parametrize("network, dataset, message", [
    (COARSE, AUTHORS, "tells 20 classes apart and has 20 outputs; cifar100-authors has 20 classes "
                      "and asks for 100 outputs"),
    (AUTHORS, "cifar100", "20 classes apart and has 100 outputs; cifar100 has 100 classes"),
    ("cifar100", AUTHORS, "100 classes apart and has 100 outputs; cifar100-authors has 20")])
def test_what_does_not_fit_is_said(folder, scored, network, dataset, message):
    with pytest.raises(UserError, match=message):
        scored(dataset, "--params", _params(folder, network))


def test_a_description_of_an_earlier_version_says_the_classes_alone(folder, scored, tmp_path):
    for name in (COARSE, "cifar100"):
        path = shutil.copy(_params(folder, name), tmp_path / "net.params")
        description = read_json(_params(folder, name).with_suffix(".json"))
        del description["dataset"]["outputs"]
        (tmp_path / "net.json").write_text(json.dumps(description))
        assert scored(name, "--params", path) == 0


# ---- looking into it, exporting it ----------------------------------------------------------

def test_a_predicted_output_without_a_class_is_called_by_its_number(folder, tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(report, "draw_gallery", lambda path, pictures, columns, title:
                        captions.extend(columns[0].captions))
    path = _predicts(folder, tmp_path, 57)
    argv = ["--params", str(path), "--data-dir", str(folder / "data"), "--count", "2",
            "--num-gpus", "0", "--output", str(tmp_path / "a.png")]
    assert gradcam.main(argv) == 0
    assert [caption.text for caption in captions] == ["output 57 100 %"] * 2
    assert [caption.right for caption in captions] == [False, False]


def test_networks_that_differ_in_spare_outputs_stand_side_by_side(folder):
    options = gradcam.make_parser().parse_args(["--data-dir", str(folder / "data")])
    subjects, _ = load_subjects([_params(folder), _params(folder, COARSE)], options, mx.cpu())
    assert [subject.net.output.weight.shape[0] for subject in subjects] == [100, 20]


def test_an_exported_network_keeps_its_outputs(folder, scored, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    assert export.main(["--params", str(_params(folder)), "--output", str(path), "--check",
                        "--limit-test", "10", "--data-dir", str(folder / "data")]) == 0
    assert "logits (batch, 100)" in capsys.readouterr().out
    assert scored(COARSE, "--onnx", path) == 0
    with pytest.raises(UserError, match="20 classes apart and has 100 outputs; cifar100 has 100"):
        scored("cifar100", "--onnx", path)


def test_a_file_without_a_description_takes_the_data_set_s_outputs(folder, scored, tmp_path):
    bare = shutil.copy(_params(folder), tmp_path / "bare.params")
    network = ("--model", "resnet_v2_cifar", "--act-type", "relu", "--blocks", "1")
    assert scored(AUTHORS, "--params", bare, *network) == 0
    with pytest.raises(UserError, match="holds a network of 100 outputs; 20 are asked for"):
        scored(COARSE, "--params", bare, *network)
    argv = ["--params", str(bare), *network, "--format", "mxnet", "--output", str(tmp_path / "n")]
    assert export.main([*argv, "--dataset", AUTHORS, "--data-dir", str(folder / "data")]) == 0


# ---- reports and releases -------------------------------------------------------------------

def test_the_table_counts_all_outputs_with_and_without_params(folder, tmp_path):
    run = load_run(folder / "logs" / AUTHORS)
    net = load_network(_params(folder), run.description, 100, [mx.cpu()])
    trained = sum(np.prod(each.shape) for each in net.collect_params().values()
                  if each.grad_req != "null")
    assert cost(run).num_params == trained
    shutil.copytree(run.folder, tmp_path / "logs" / AUTHORS)
    (tmp_path / "logs" / AUTHORS / "config.json").write_text(
        json.dumps({**run.config, "save_dir": "nowhere"}))
    assert cost(load_run(tmp_path / "logs" / AUTHORS)) == cost(run)
    assert cost_of({**run.description, "dataset": {"image_size": 32}}) == (None, None)


def test_runs_without_params_know_the_outputs_of_every_data_set():
    assert set(_OUTPUTS) == set(list_datasets())
    for name, layout in LAYOUTS.items():
        assert _OUTPUTS[name] == (layout.outputs or layout.classes)


@pytest.mark.parametrize("output, column", [(57, "no class"), (3, None)])
def test_a_confusion_matrix_counts_what_was_taken_for_no_class(folder, tmp_path, output, column):
    _predicts(folder, tmp_path, output)
    compare.main(["--runs", str(tmp_path / "logs" / AUTHORS), "--confusion", "--data-dir",
                  str(folder / "data"), "--out", str(tmp_path / "report")])
    path, = (tmp_path / "report").glob("confusion-*.csv")
    header, *rows = csv.reader(path.open(newline=""))
    assert len(rows) == 20 and header[1:21] == [f"class{label}" for label in range(20)]
    assert header[21:] == ([column] if column else [])
    assert all(row[-1 if column else 1 + output] == "2" for row in rows)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_a_release_states_the_outputs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    entry = release.release(AUTHORS, *release.check(folder / "params" / AUTHORS))
    released = listed.Released(**entry)
    monkeypatch.setattr(listed, "RELEASED", [released])
    monkeypatch.setattr(listed, "_PARAMS_FOLDER", tmp_path / "params")
    assert released.outputs == 100
    net = listed.load_released(AUTHORS)
    assert net(mx.nd.zeros((2, 3, 32, 32))).shape == (2, 100)


def test_a_data_set_with_spare_outputs_says_so(folder):
    authors = get_dataset(AUTHORS, folder / "data")
    assert authors.description.endswith("20 classes under 100 outputs")
    assert "outputs" not in replace(authors, outputs=20).description
