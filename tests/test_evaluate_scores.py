"""The figures that scripts find by evaluating, against logits computed by hand."""
import csv
import json
import re

import numpy as np
import pytest
from mxnet import nd

import compare
import evaluate
import export
import gradcam
from data import get_dataset
from data.photos import Decoding, FolderPhotos, PhotoBatches
from tests import scripts
from tests.data.photo_files import write_tree
from tests.random_networks import CIFAR, random_network
from tests.reporting.run_folders import write_run

# Unlike those of any data set here: they belong to the network.
MEAN, STD = [0.2, 0.7, 0.45], [0.5, 0.11, 0.3]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scripts.drawn_cifar(tmp_path_factory.mktemp("files"), train=20, test=150)


def _saved(folder, name, description, classes=10):
    """A network of random parameters in folder/NAME.params, described beside it."""
    net = random_network(description, classes)
    net.save_parameters(str(folder / f"{name}.params"))
    (folder / f"{name}.json").write_text(json.dumps(description))
    return net


def _described(model, dataset, **options):
    return {"model": model, "options": options, "dataset": {**dataset, "mean": MEAN, "std": STD}}


def _logits(net, images):
    """Of uint8 images (N, 3, H, W), normalised as the description says."""
    column = np.reshape([MEAN, STD], (2, 3, 1, 1))
    return net(nd.array((images / 255 - column[0]) / column[1])).asnumpy().astype(np.float64)


def _log_shares(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.log(shares / shares.sum(axis=-1, keepdims=True))


def _scored(*arguments, folder):
    """The row that evaluate.py writes."""
    path = folder / "scores.csv"
    assert evaluate.main([*map(str, arguments), "--csv", str(path)]) == 0
    with open(path, newline="") as stream:
        row, = csv.DictReader(stream)
    return row


def _assert_scores(row, log_shares, labels):
    """Errors, their interval, and the loss, as the logarithms of the shares have them."""
    order = np.argsort(-log_shares, axis=1)
    count = len(labels)
    error = (order[:, 0] != labels).mean()
    assert int(row["images"]) == count and float(row["top1_error"]) == pytest.approx(error)
    missed = (order[:, :5] != labels[:, None]).all(axis=1)
    assert float(row["top5_error"]) == pytest.approx(missed.mean())
    assert float(row["loss"]) == pytest.approx(-log_shares[np.arange(count), labels].mean(), 1e-4)
    # Wilson: the shares p from which the error is 1.96 deviations away, (error - p)^2 n =
    # 1.96^2 p (1 - p).
    z = 1.96 ** 2 / count
    bounds = sorted(np.roots([1 + z, -2 * error - z, error ** 2]))
    assert [float(row["top1_low"]), float(row["top1_high"])] == pytest.approx(bounds)


def test_scores_of_cifar(files, tmp_path, capsys):
    net = _saved(tmp_path, "net", _described("resnet_v2_cifar", CIFAR, blocks=1))
    row = _scored("--params", tmp_path / "net.params", "--data-dir", files, folder=tmp_path)
    test = get_dataset("cifar10", files).test
    log_shares = _log_shares(_logits(net, test.images))
    _assert_scores(row, log_shares, test.labels)
    assert (row["params"], row["model"], row["dataset"], row["crops"], row["input_size"],
            row["dtype"]) == (str(tmp_path / "net.params"), "resnet_v2_cifar", "cifar10", "1",
                              "32", "float32")

    out = capsys.readouterr().out
    accuracy, low, high, error, error5 = map(float, re.search(
        r"top-1 accuracy ([\d.]+) % \(95 % interval ([\d.]+) to ([\d.]+)\), top-1 error ([\d.]+) "
        r"%, top-5 error ([\d.]+) %", out).groups())
    expected = [1 - float(row["top1_error"]), 1 - float(row["top1_high"]),
                1 - float(row["top1_low"]), float(row["top1_error"]), float(row["top5_error"])]
    assert [accuracy, low, high, error, error5] == pytest.approx(
        [100 * value for value in expected], abs=0.006)
    assert f"150 images, {float(row['images_per_s']):,.0f} images/s" in out


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Nine validation photographs of three classes, none a square, and a network for them."""
    folder = tmp_path_factory.mktemp("photographs")
    write_tree(folder / "tree", classes=3, train=1, val=3)
    dataset = {"name": "photographs", "class_names": [f"n{k:08d}" for k in range(3)],
               "image_size": 32}
    return folder, _saved(folder, "net", _described("resnet18", dataset, width=1 / 16), classes=3)


@pytest.mark.parametrize("crops, form", [(1, "params"), (10, "params"), (10, "onnx")])
def test_scores_of_photographs(crops, form, photographs, tmp_path):
    """Of several crops, the shares of an image's own crops are averaged; batches of 4, 4 and 1."""
    folder, net = photographs
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        export.main(["--params", str(folder / "net.params"), "--overwrite"])
    row = _scored(f"--{form}", folder / f"net.{form}", "--data-dir", folder / "tree", "--crops",
                  crops, "--batch-size", 4, folder=tmp_path)
    batches = PhotoBatches(FolderPhotos(folder / "tree/val"), 9,
                           Decoding(32, crops=crops), train=False)
    (images, labels, _), = batches.epoch(0)
    log_shares = _log_shares(_logits(net, images.reshape(-1, 3, 32, 32)))
    shares = np.exp(log_shares).reshape(9, crops, 3).mean(axis=1)
    _assert_scores(row, np.log(shares), labels)
    assert (row["crops"], row["input_size"]) == (str(crops), "32")


def test_confusion_is_of_images_normalised_for_the_network(files, tmp_path):
    logs = write_run(tmp_path, "run", data_dir=str(files))
    params = tmp_path / "params/run"
    description = {**json.loads((params / "last.json").read_text())}
    description["dataset"].update(mean=MEAN, std=STD)
    (params / "last.json").write_text(json.dumps(description))
    net = _saved(params, "best", description)
    compare.main(["--runs", str(logs), "--confusion", "--out", str(tmp_path / "out")])
    with open(tmp_path / "out/confusion-00-run.csv", newline="") as stream:
        _, *rows = csv.reader(stream)
    test = get_dataset("cifar10", files).test
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (test.labels, _logits(net, test.images).argmax(axis=1)), 1)
    assert [[int(cell) for cell in row[1:]] for row in rows] == expected.tolist()


def test_faithfulness_is_of_images_normalised_for_the_network(files, tmp_path):
    net = _saved(tmp_path, "net", _described("resnet_v2_cifar", CIFAR, blocks=1))
    gradcam.main(["--params", str(tmp_path / "net.params"), "--data-dir", str(files), "--count",
                  "1", "--faithfulness", "7", "--num-gpus", "0", "--output",
                  str(tmp_path / "a.png")])
    with open(tmp_path / "a-faithfulness.csv", newline="") as stream:
        row, = csv.DictReader(stream)
    log_shares = _log_shares(_logits(net, get_dataset("cifar10", files).test.images[:7]))
    assert float(row["whole"]) == pytest.approx(np.exp(log_shares.max(axis=1)).mean(), rel=1e-4)
