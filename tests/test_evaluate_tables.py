"""What evaluate.py does with tables, classes and released files."""
import os
from types import SimpleNamespace

import pytest

import evaluate
from common.errors import UserError
from data.imagenet import validation_batches
from data.packing import pack
from data.photos import Decoding
from runs import evaluation
from tests import scripts
from tests.data.photo_files import write_tree


def _append(path, params="1", accuracy=1):
    """Append the scores of one image."""
    evaluation.append_scores(
        SimpleNamespace(csv=path, onnx=None, params=params, crops=1, dtype="float32"),
        {"model": 1}, SimpleNamespace(name=1, image_size=32),
        {"count": 1, "accuracy": accuracy, "top5_accuracy": 1, "loss": 1}, 1)


def test_rows_are_appended_to_a_table(tmp_path):
    path = tmp_path / "a.csv"
    _append(path)
    _append(path, "a, b")
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(evaluation._COLUMNS) and len(lines) == 3
    assert lines[2].startswith('"a, b",1,')


def test_a_file_s_name_is_no_formula(tmp_path):
    _append(tmp_path / "a.csv", "=1+1.params", 1.5)
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("'=1+1.params,1,1,1,-0.5,")


def test_another_table_is_left_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="another table"):
        _append(path)
    assert path.read_text() == "x,y\n1,2\n"


def test_a_table_is_appended_to_where_its_path_leads(tmp_path):
    table, link = tmp_path / "table.csv", tmp_path / "link.csv"
    _append(table)
    table.chmod(0o640)
    before = table.stat()
    link.symlink_to(table)
    _append(link)
    assert link.is_symlink() and len(table.read_text().splitlines()) == 3
    assert (table.stat().st_mode, table.stat().st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("make", [
    os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path),
    lambda path: os.symlink("/dev/full", path)])
def test_what_is_no_table_is_refused_and_stays(make, tmp_path):
    path = tmp_path / "table.csv"
    make(path)
    before = path.lstat()
    with pytest.raises(UserError, match="cannot write --csv"):
        _append(path)
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_the_interval_is_wilson_s():
    low, high = evaluation.interval(0.2141, 50000)
    assert 0.2105 < low < 0.2106 and 0.2176 < high < 0.2178


@pytest.mark.parametrize("argv", [[], ["--params", "a.params", "--pretrained", "b"]])
def test_one_thing_is_scored(argv):
    with pytest.raises(UserError, match="either --params FILE or --pretrained NAME"):
        evaluate.main(argv)


@pytest.mark.parametrize("argv, words", [
    (["--onnx", "a.onnx", "--no-compile"], "--mode, --gpus and --num-gpus have no meaning for it"),
    (["--onnx", "a.onnx", "--engine", "pytorch"], "--onnx runs on the CPU"),
    (["--params", "a.params", "--runtime", "openvino"], "--runtime says what runs the file of")])
def test_options_of_another_kind_of_file_are_refused(argv, words):
    with pytest.raises(UserError, match=words):
        evaluate.main(argv)


def test_an_unknown_released_name_is_an_error():
    with pytest.raises(UserError, match="no released parameters are named x"):
        evaluate.main(["--pretrained", "x"])


def test_folders_take_the_order_of_the_network_s_classes(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=2, train=1, val=1)
    names = ["n00000005", "n00000001", "n00000000"]
    data, batches = validation_batches(data_dir=tree, batch_size=4, decoding=Decoding(16),
                                       class_names=names)
    (_, labels, _), = batches.epoch(0)
    assert labels.tolist() == [2, 1] and data.class_names == names
    with pytest.raises(ValueError, match="classes that"):
        validation_batches(data_dir=tree, batch_size=4, class_names=names[:2])
    pack(tree, tmp_path / "rec", log=lambda line: None)
    with pytest.raises(ValueError, match="other classes than the network"):
        validation_batches(True, rec_val=tmp_path / "rec/val.rec", class_names=names)


@pytest.mark.parametrize("arguments, message", [
    (["--dataset", "cifar11"], "unknown data set 'cifar11'. Did you mean 'cifar1"),
    (["--dataset", "shapes", "--data-dir", "."], "shapes"),
    (["--dataset", "ImageNet", "--data-dir", "nowhere"], "nowhere"),
])
def test_a_data_set_that_is_not_there_is_one_line(arguments, message, tmp_path, monkeypatch):
    params = scripts.ROOT / "params/cifar10-relu-b1.params"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        evaluate.main(["--params", str(params), *arguments])


def test_photographs_of_32_pixels_are_photographs(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=2, train=1, val=1)
    options = evaluate.make_parser().parse_args(["--params", "x", "--data-dir", str(tree)])
    data, _ = evaluation.open_data(options, {"dataset": {"name": "imagenet", "image_size": 32}})
    assert data.image_size == 32 and data.classes == 2
