"""The drawn data set: the same everywhere, balanced, and no game for a linear classifier."""
import hashlib
import subprocess
import sys

import numpy as np
import pytest

import data
from common.errors import UserError
from data import drawing, shapes
from data.shapes import CLASS_NAMES, draw_split
from tests import scripts


@pytest.fixture(scope="module")
def dataset():
    return data.get_dataset("shapes")


def test_what_it_is(dataset):
    assert dataset.classes == 10
    assert dataset.class_names == CLASS_NAMES == list(drawing.FIGURES)
    assert dataset.train.images.shape == (10000, 3, 32, 32)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert dataset.description == ("shapes: 10,000 of 10,000 training images, "
                                   "2,000 of 2,000 test images")


def test_the_same_bits_everywhere(dataset):
    digest = hashlib.sha256(dataset.train.images[:1000].tobytes()
                            + dataset.train.labels[:1000].astype("<i4").tobytes())
    assert digest.hexdigest() == (
        "879b45b3727521038a20f3fdb6d65e457226f39e4a05a0f34ef08335d5aded08")


def test_the_run_s_seed_does_not_change_the_images(dataset):
    other = data.get_dataset("shapes", seed=5, limit_train=100)
    assert np.array_equal(other.train.images, dataset.train.images[:100])


def test_the_first_images_do_not_depend_on_how_many_follow(dataset):
    for count in (1, 249, 251):
        few = draw_split("train", count)
        assert np.array_equal(few.images, dataset.train.images[:count])
        assert np.array_equal(few.labels, dataset.train.labels[:count])


def test_seeds_and_splits_differ(dataset):
    first = draw_split("train", 20)
    for other in (draw_split("train", 20, seed=1), draw_split("test", 20)):
        assert not np.array_equal(other.images, first.images)
        assert not np.array_equal(other.labels, first.labels)


def test_every_prefix_is_balanced(dataset):
    for count in (10, 100, 5000, 10000):
        assert np.bincount(dataset.train.labels[:count]).tolist() == [count // 10] * 10
    assert np.bincount(dataset.test.labels).tolist() == [200] * 10


def test_mean_and_std_are_those_of_the_images(dataset):
    scaled = dataset.train.images / 255
    assert np.allclose(scaled.mean(axis=(0, 2, 3)), dataset.mean, atol=1e-4)
    assert np.allclose(scaled.std(axis=(0, 2, 3)), dataset.std, atol=1e-4)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_figures_fit_and_mirror(name):
    axis = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    distance = drawing.FIGURES[name](x, y)
    assert distance.dtype == np.float32
    inside = distance < 0
    assert 0.05 < inside.mean() < 0.35
    # The corners of the square, frame and arrow reach a little beyond the unit circle.
    assert (x * x + y * y)[inside].max() < 1.08 ** 2
    assert np.allclose(distance, distance[:, ::-1], atol=1e-6)


def test_a_linear_classifier_fails(dataset):
    """Softmax regression on the pixels, which fits its 10,000 images far better than these."""
    mean, std = np.mean(dataset.mean), np.mean(dataset.std)
    train, test = ((part.images.reshape(len(part), -1) / np.float32(255) - np.float32(mean))
                   / np.float32(std) for part in (dataset.train, dataset.test))
    weight, velocity = np.zeros((2, train.shape[1], 10), np.float32)
    targets = np.eye(10, dtype=np.float32)[dataset.train.labels]
    for _ in range(3):
        for start in range(0, len(train), 100):
            batch = slice(start, start + 100)
            scores = np.exp(np.clip(train[batch] @ weight, -50, 50))
            error = scores / scores.sum(axis=1, keepdims=True) - targets[batch]
            velocity = 0.9 * velocity - 2e-5 * (train[batch].T @ error)
            weight += velocity
    accuracy = ((test @ weight).argmax(axis=1) == dataset.test.labels).mean()
    assert accuracy < 0.6


@pytest.mark.parametrize("options", [{"data_dir": "folder"}, {"data_url": "http://x"}])
def test_it_takes_no_files(options):
    with pytest.raises(ValueError, match="reads no files"):
        data.get_dataset("shapes", **options)


def test_written_files_read_back_as_cifar10(tmp_path, capsys):
    assert shapes.main([str(tmp_path / "out"), "--train", "23", "--test", "7"]) == 0
    assert "23 training and 7 test" in capsys.readouterr().out
    read = data.get_dataset("cifar10", tmp_path / "out")
    assert read.class_names == CLASS_NAMES
    for part, split in ((read.train, "train"), (read.test, "test")):
        expected = draw_split(split, len(part))
        assert np.array_equal(part.images, expected.images)
        assert np.array_equal(part.labels, expected.labels)
    assert (len(read.train), len(read.test)) == (23, 7)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["batches.meta.txt", *(f"data_batch_{n}.bin" for n in range(1, 6)),
                     "test_batch.bin"]


def test_the_command(tmp_path):
    result = subprocess.run([sys.executable, "-W", "error", "-m", "data.shapes", tmp_path / "out",
                             "--train", "10", "--test", "10"],
                            cwd=scripts.ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "10 training and 10 test images of 10 classes" in result.stdout
    assert len(data.get_dataset("cifar10", tmp_path / "out").train) == 10


@pytest.mark.parametrize("arguments", [["--train", "0"], ["--test", "-1"], ["--seed", "-1"],
                                       ["--train", "1" + "0" * 23], ["--test", "1000001"]])
def test_bad_options_of_the_writer(arguments, tmp_path):
    with pytest.raises(UserError, match=f"argument {arguments[0]}: must be a whole number"):
        shapes.main([str(tmp_path), *arguments])


@pytest.mark.parametrize("folder, message", [
    *((name, "cannot write to") for name in ("file", "file/inside", "x" * 300)),
    ("nul\0", "no name or number has the characters of")])
def test_an_unwritable_folder(folder, message, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        shapes.main([str(tmp_path / folder), "--train", "1", "--test", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
