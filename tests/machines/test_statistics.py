"""What two workers make of batch normalisation's statistics, against NumPy."""
import subprocess

import numpy as np
import pytest
from mxnet import nd

import model
from data import get_dataset
from data.batches import Batches
from runs.weights import load_weights, read_weights
from tests import scripts
from tests.machines.cluster import environ, launcher


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step by two workers, at a rate that moves no weight; its data."""
    folder = tmp_path_factory.mktemp("run")
    files = scripts.drawn_cifar(folder / "files", train=40, test=30)
    result = subprocess.run(
        launcher("-n", 2, "-s", 1, "--", scripts.ROOT / "train_cifar.py", "--data-dir", files,
                 "--blocks", 1, "--act-type", "relu", "--batch-size", 20, "--lr", 1e-7,
                 "--num-epochs", 1, "--seed", 3, "--name", "run", "-j", 0, "--kv-store",
                 "dist_sync"),
        cwd=folder, env=environ(), text=True, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, get_dataset("cifar10", files)


def _normalised(images, dataset):
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (dataset.mean, dataset.std))
    return (images / 255 - mean) / std


def test_saved_statistics_are_the_mean_of_the_workers(trained):
    """Those of the images themselves, which no weight changes: a tenth of the way from 0 and 1."""
    folder, dataset = trained
    (images, _, _), = Batches(dataset.train, 40, seed=3).epoch(0)
    halves = [_normalised(half, dataset) for half in np.split(images, 2)]
    mean, variance = (np.array([getattr(half, name)(axis=(0, 2, 3)) for half in halves])
                      for name in ("mean", "var"))
    assert (np.abs(np.diff(mean, axis=0)) > 0.01).any()
    for file in ("last", "best", "checkpoints/step-000000001/net"):
        saved = read_weights(folder / f"params/run/{file}.params")
        np.testing.assert_allclose(saved["features.0.running_mean"].asnumpy(),
                                   0.1 * mean.mean(axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(saved["features.0.running_var"].asnumpy(),
                                   0.9 + 0.1 * variance.mean(axis=0), rtol=1e-4)


def test_validation_is_of_the_saved_network(trained):
    folder, dataset = trained
    net = model.get_model("resnet_v2_cifar", blocks=1, activation="relu")
    load_weights(net, folder / "params/run/last.params")
    logits = net(nd.array(_normalised(dataset.test.images, dataset))).asnumpy().astype(float)
    largest = logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    loss = (totals - logits[np.arange(30), dataset.test.labels]).mean()
    row, = scripts.metrics(folder / "logs/run")
    assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(row["val_accuracy"]) == pytest.approx(
        (logits.argmax(axis=1) == dataset.test.labels).mean())
