"""Reading CIFAR's binary files: made-up ones, and the real ones where there are any."""
import os

import numpy as np
import pytest

import data
from common.errors import FileError, UserError
from data.cifar import MEAN

from .cifar_files import LAYOUTS, names_text, records, write_set

AUTHORS = "cifar100-authors"


@pytest.fixture(params=sorted(LAYOUTS))
def name(request):
    return request.param


@pytest.mark.parametrize("inside", [False, True], ids=["folder", "subfolder"])
def test_reads_what_was_written(name, inside, tmp_path):
    layout = LAYOUTS[name]
    content = write_set(tmp_path / layout.subfolder if inside else tmp_path, layout)
    dataset = data.get_dataset(name, data_dir=tmp_path)
    train = np.concatenate([content[file] for file in layout.train_files])
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert dataset.train.images.flags.c_contiguous
    assert dataset.train.labels.tolist() == train[:, layout.label_at].tolist()
    red = dataset.train.images[21 % len(train), 0, 1, 2]    # row 1, column 2 of the first plane
    assert red == train[21 % len(train), layout.label_bytes + 32 + 2]
    assert np.array_equal(dataset.train.images.reshape(len(train), -1),
                          train[:, layout.label_bytes:])
    assert len(dataset.test) == 20
    assert dataset.description == (f"{layout.title}: {len(train)} of 50,000 training images, "
                                   "20 of 10,000 test images"
                                   + "; 20 classes under 100 outputs" * (name == AUTHORS))
    assert (dataset.name, dataset.classes) == (name, layout.classes)
    assert dataset.outputs == (100 if name == AUTHORS else layout.classes)


def test_class_names_come_from_the_file_or_are_numbers(name, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    assert data.get_dataset(name, tmp_path).class_names[-1] == str(layout.classes - 1)
    (tmp_path / layout.names_file).write_bytes(names_text(layout) + b"\n")
    assert data.get_dataset(name, tmp_path).class_names[-1] == f"class{layout.classes - 1}"
    (tmp_path / layout.names_file).write_bytes(b"cat dog")
    with pytest.raises(data.DataError, match=f"{layout.names_file} has 2 names"):
        data.get_dataset(name, tmp_path)


def test_empty_batch_files_are_allowed(tmp_path):
    layout = LAYOUTS["cifar10"]
    write_set(tmp_path, layout)
    for number in range(2, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(b"")
    assert len(data.get_dataset("cifar10", tmp_path).train) == 20


@pytest.mark.parametrize("split", ["train_files", "test_files"])
def test_no_record_at_all_is_an_error(name, split, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    for file in getattr(layout, split):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(data.DataError, match="no records at all"):
        data.get_dataset(name, tmp_path)


@pytest.mark.parametrize("missing", [1, 1000])
def test_a_truncated_file_names_the_record(name, missing, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    path = tmp_path / layout.train_files[-1]
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(data.DataError, match=rf"{path.name} has .* record 19 ") as caught:
        data.get_dataset(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_label_out_of_range_names_the_record(name, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    block = records(layout, 20)
    block[13, layout.label_at] = layout.classes
    (tmp_path / layout.test_files[0]).write_bytes(block.tobytes())
    message = rf"{layout.test_files[0]}: record 13 .*label {layout.classes};"
    with pytest.raises(data.DataError, match=message):
        data.get_dataset(name, tmp_path)


def test_some_of_the_files_are_not_completed_unasked(name, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    (tmp_path / layout.test_files[0]).unlink()
    with pytest.raises(data.DataError, match=f"lacks {layout.test_files[0]}"):
        data.get_dataset(name, tmp_path, data_url="http://127.0.0.1:9/none")


def test_a_folder_in_a_files_place(name, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    (tmp_path / layout.test_files[0]).unlink()
    (tmp_path / layout.test_files[0]).mkdir()
    with pytest.raises(FileError, match=f"{layout.test_files[0]}: it is a directory"):
        data.get_dataset(name, tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "terabyte", "device"])
@pytest.mark.parametrize("which", ["test_files", "names_file"])
def test_files_that_are_no_data_files(kind, which, name, tmp_path):
    layout = LAYOUTS[name]
    write_set(tmp_path, layout)
    path = tmp_path / (layout.test_files[0] if which == "test_files" else layout.names_file)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(FileError, match=f"{path.name}: it (is no regular file|has 1,099,511,627,)"):
        data.get_dataset(name, tmp_path)


@pytest.mark.parametrize("folder", ["x" * 300, "nul\0", "lone\udc80", "a/" * 3000])
def test_folders_that_cannot_be(folder, tmp_path):
    with pytest.raises(UserError) as caught:
        data.get_dataset("cifar10", tmp_path / folder, "http://127.0.0.1:1/none")
    assert str(caught.value).isprintable()


def test_without_a_home_folder_the_data_folder_must_be_named(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    with pytest.raises(UserError, match="--data-dir ~/.mxnet/datasets/cifar10: there is no home"):
        data.get_dataset("cifar10")


@pytest.mark.realdata
def test_real_cifar10(real_cifar10):
    dataset = data.get_dataset("cifar10", real_cifar10)
    assert dataset.description == ("CIFAR-10: 50,000 of 50,000 training images, "
                                   "10,000 of 10,000 test images")
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.class_names[3] == "cat"
    assert np.allclose(dataset.train.images.mean(axis=(0, 2, 3)) / 255, MEAN, atol=2e-4)


@pytest.mark.realdata
def test_the_constant_std_is_the_mean_of_the_images_own(real_cifar10):
    images = data.get_dataset("cifar10", real_cifar10, limit_train=10000).train.images
    deviations = (images.reshape(-1, 3, 1024) / 255).std(axis=2).mean(axis=0)
    assert np.allclose(deviations, data.cifar.STD, atol=2e-3)


@pytest.mark.realdata
def test_real_cifar100(real_cifar100):
    dataset = data.get_dataset("cifar100", real_cifar100)
    assert dataset.description == ("CIFAR-100: 50,000 of 50,000 training images, "
                                   "10,000 of 10,000 test images")
    assert np.bincount(dataset.train.labels).tolist() == [500] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert len(set(dataset.class_names)) == 100 and dataset.outputs == 100
    assert np.allclose(dataset.train.images.mean(axis=(0, 2, 3)) / 255, MEAN, atol=0.03)


@pytest.mark.realdata
@pytest.mark.parametrize("name, outputs", [("cifar100-coarse", 20), ("cifar100-authors", 100)])
def test_real_superclasses(name, outputs, real_cifar100):
    fine = data.get_dataset("cifar100", real_cifar100)
    dataset = data.get_dataset(name, real_cifar100)
    assert (dataset.classes, dataset.outputs) == (20, outputs)
    assert np.bincount(dataset.train.labels).tolist() == [2500] * 20
    assert np.array_equal(dataset.test.images, fine.test.images)
    # Five classes each, as the data set's authors list them.
    fish = {fine.class_names[label] for label in
            fine.train.labels[dataset.train.labels == dataset.class_names.index("fish")]}
    assert fish == {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
