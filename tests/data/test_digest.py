"""Which sets of images count as the same."""
import numpy as np
import pytest

from data.batches import Batches
from data.dataset import ImageSet
from data.imagenet import RecordBatches, RecordFile
from data.packing import pack
from data.photos import Decoding, FolderPhotos, PhotoBatches
from tests.data.photo_files import write_tree


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (200, 3, 8, 8), np.uint8),
                    rng.integers(0, 10, 200).astype(np.int32))


def _digest(source):
    return Batches(source, 1).digest()


def test_a_set_is_the_same_whoever_batches_it(images):
    copy = ImageSet(images.images.copy(), images.labels.astype(np.int64))
    found = {Batches(each, size, seed=seed, shard=shard).digest()
             for each, size, seed, shard in ((images, 10, 0, (0, 1)), (copy, 7, 1, (1, 3)))}
    assert len(found) == 1 and len(found.pop()) == 32


@pytest.mark.parametrize("change", [
    lambda images, labels: (images, (labels + 1) % 10),
    lambda images, labels: (images, np.where(np.arange(200) == 77, 9 - labels, labels)),
    lambda images, labels: (255 - images, labels),
    lambda images, labels: (images[:, ::-1], labels),
    lambda images, labels: (images[::-1], labels),
    lambda images, labels: (images[:-1], labels[:-1])])
def test_other_labels_or_images_are_another_set(images, change):
    assert _digest(ImageSet(*change(images.images, images.labels))) != _digest(images)


def test_photographs_in_folders_and_records(tmp_path):
    trees = [write_tree(tmp_path / name, classes=2, train=3, val=1) for name in ("one", "two")]
    one, two = (PhotoBatches(FolderPhotos(tree / "train"), 2, Decoding(8, workers=0)).digest()
                for tree in trees)
    assert one == two
    for name in ("a", "b"):
        pack(trees[0], tmp_path / name, log=lambda line: None)
    a, b = (RecordBatches(RecordFile(tmp_path / name / "train.rec"), 2,
                          Decoding(8)).digest() for name in ("a", "b"))
    assert a == b
    renamed = sorted((trees[1] / "train").iterdir())[0]
    renamed.rename(renamed.with_name("z" + renamed.name))
    assert _digest(FolderPhotos(trees[1] / "train")) != one
