"""What would train, but to no purpose, is refused: other data under a run, erased values."""
import numpy as np
import pytest

import search_attention
import train_cifar
from common.errors import UserError
from data.cifar import CIFAR10
from tests import scripts


@pytest.fixture
def files(tmp_path):
    return scripts.drawn_cifar(tmp_path / "files", train=64, test=10)


def _change(files, change):
    """Change the records, (N, 3073) uint8, of every file of training images."""
    for name in CIFAR10.train_files:
        records = np.fromfile(files / name, np.uint8).reshape(-1, CIFAR10.record_bytes)
        change(records)
        (files / name).write_bytes(records.tobytes())


def _shift_labels(records):
    records[:, 0] = (records[:, 0] + 1) % 10


def _invert_pixels(records):
    records[:, 1:] = 255 - records[:, 1:]


@pytest.mark.parametrize("change", [_shift_labels, _invert_pixels])
def test_a_run_is_not_resumed_on_other_data(files, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    options = ["--data-dir", str(files), "--blocks", "1", "--batch-size", "32", "--num-epochs",
               "1", "-j", "0", "--name", "run", "--resume", "auto"]
    assert train_cifar.main(options) == 0
    before = (tmp_path / "logs/run/metrics.csv").read_bytes()
    _change(files, change)
    with pytest.raises(UserError, match="training images or their labels are not those of before"):
        train_cifar.main(options)
    assert (tmp_path / "logs/run/metrics.csv").read_bytes() == before


@pytest.mark.parametrize("main, more", [
    (train_cifar.main, ["--blocks", "1", "--num-epochs", "1"]),
    (search_attention.main, ["--dataset", "cifar10", "--width", "0.03"])])
@pytest.mark.parametrize("unit", [["--act-type", "ChaATAC", "--use-global"]], ids=" ".join)
def test_a_batch_of_one_is_not_normalised_over_itself(files, tmp_path, monkeypatch, main, more,
                                                      unit):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="with --batch-size 1 the normalisation .* larger"):
        main(["--data-dir", str(files), "--batch-size", "1", "-j", "0", "--name", "run", *more,
              *unit])
    assert not (tmp_path / "logs").exists()


def test_a_batch_of_two_trains(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_cifar.main(["--data-dir", str(files), "--batch-size", "2", "--blocks", "1",
                             "--num-epochs", "1", "-j", "0", "--limit-train", "4", "--act-type",
                             "ChaATAC", "--use-global", "--name", "run"]) == 0


def test_a_scaled_rate_that_float32_cannot_hold_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--lr 1e\+38 with --scale-lr 1 is 3.2e\+39: more than"):
        train_cifar.main(["--data-dir", str(files), "--blocks", "1", "--batch-size", "32", "--lr",
                          "1e38", "--scale-lr", "1", "-j", "0", "--name", "run"])
