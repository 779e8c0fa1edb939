"""The registry, the limit and the held-out images."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data.dataset import Dataset, ImageSet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(monkeypatch):
    """A registered data set of 100 training images in 3 unequal classes."""
    def load(data_dir, data_url, log):
        images = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=1)
        labels = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.int32)
        test = ImageSet(images[:20], labels[:20])
        return Dataset(name="toy", title="Toy", class_names=["a", "b", "c"], mean=(0.5,) * 3,
                       std=(0.2,) * 3, train=ImageSet(images, labels), val=test, test=test,
                       official_train=200, official_test=20)
    monkeypatch.setattr(data.DATASETS, "_names", {**data.DATASETS._names, "toy": "toy"})
    monkeypatch.setitem(data.DATASETS._factories, "toy", load)
    return "toy"


def numbers(image_set):
    return image_set.images[:, 0, 0, 0].tolist()


def test_names():
    assert data.list_datasets() == ["cifar10", "cifar100", "cifar100-authors", "cifar100-coarse",
                                    "shapes"]


def test_an_unknown_name_lists_the_known_and_the_closest():
    with pytest.raises(ValueError, match=r"'cifar1O'.*mean 'cifar10'.*cifar100, cifar100-authors, "
                                         r".*shapes"):
        data.get_dataset("cifar1O")


def test_a_name_is_registered_once():
    with pytest.raises(KeyError, match="twice"):
        data.DATASETS.register("shapes")


def test_listing_imports_no_numpy():
    code = "import sys, data; data.list_datasets(); sys.exit('numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_validation_is_the_test_set_without_a_split(toy):
    dataset = data.get_dataset(toy)
    assert dataset.val is dataset.test
    assert dataset.classes == 3
    assert dataset.description == "Toy: 100 of 200 training images, 20 of 20 test images"


def test_the_name_ignores_case(toy):
    assert data.get_dataset("TOY").name == "toy"


def test_held_out_images_are_stratified_and_disjoint(toy):
    dataset = data.get_dataset(toy, val_split=20)
    assert np.bincount(dataset.val.labels).tolist() == [12, 6, 2]
    assert sorted(numbers(dataset.val) + numbers(dataset.train)) == list(range(100))
    assert numbers(dataset.train) == sorted(numbers(dataset.train))
    assert "20 held out for validation" in dataset.description


def test_held_out_images_depend_on_the_seed_alone(toy):
    first = data.get_dataset(toy, val_split=20)
    assert numbers(data.get_dataset(toy, val_split=20).val) == numbers(first.val)
    assert numbers(data.get_dataset(toy, val_split=20, limit_train=5).val) == numbers(first.val)
    assert numbers(data.get_dataset(toy, val_split=20, seed=1).val) != numbers(first.val)


def test_the_limit_keeps_the_first(toy):
    assert numbers(data.get_dataset(toy, limit_train=7).train) == list(range(7))


def test_a_limit_beyond_the_end_is_said(toy):
    lines = []
    assert len(data.get_dataset(toy, limit_train=101, log=lines.append).train) == 100
    assert len(lines) == 1 and "all 100" in lines[0]


@pytest.mark.parametrize("options, message", [
    ({"limit_train": 0}, "limit_train is 0"),
    ({"limit_train": -3}, "limit_train is -3"),
    ({"val_split": -1}, "val_split is -1"),
    ({"val_split": 100}, "val_split is 100"),
    ({"val_split": 5, "seed": -1}, "seed is -1"),
])
def test_bad_numbers(toy, options, message):
    with pytest.raises(ValueError, match=message):
        data.get_dataset(toy, **options)
