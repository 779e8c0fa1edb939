"""What the crops of photographs show: which way up they are, and which part they are of.

The photographs are three bands, red, green and blue, from left to right or from top to bottom.
Jittered colours leave each band's largest channel as it is, so two edges tell where a crop begins
and how large its part is.
"""
import numpy as np
import pytest
from PIL import Image

from data.batches import Batches, Preparation
from data.dataset import ImageSet
from data.imagenet import RecordBatches, RecordFile, open_imagenet
from data.packing import pack
from data.photos import Decoding, FolderPhotos, PhotoBatches, evaluation_crops
from tests.data.photo_files import jpeg, write_tree
from tests.data.test_augment import MEAN, possible

HEIGHT, WIDTH, SIZE, COUNT = 96, 192, 48, 120


def _bands(axis):
    """(HEIGHT, WIDTH, 3): red, green and blue along an axis."""
    band = np.arange((HEIGHT, WIDTH)[axis]) * 3 // (HEIGHT, WIDTH)[axis]
    colours = 255 * np.eye(3, dtype=np.uint8)[band]
    lines = colours[:, None] if axis == 0 else colours[None]
    return np.ascontiguousarray(np.broadcast_to(lines, (HEIGHT, WIDTH, 3)))


def _training(kind, folder, image, count=COUNT):
    """Training crops (count, 3, SIZE, SIZE) of a photograph that is there `count` times."""
    for part, copies in (("train", count), ("val", 1)):
        place = folder / "tree" / part / "n0"
        place.mkdir(parents=True)
        content = jpeg(Image.fromarray(image), quality=95, subsampling=0)
        for k in range(copies):
            (place / f"{k:03d}.JPEG").write_bytes(content)
    if kind == "folder":
        batches = PhotoBatches(FolderPhotos(folder / "tree/train"), count, Decoding(SIZE))
    else:
        pack(folder / "tree", folder / "out", resize=0, log=lambda line: None)
        batches = RecordBatches(RecordFile(folder / "out/train.rec"), count,
                                Decoding(SIZE))
    images, *_ = next(iter(batches.epoch(0)))
    return images


@pytest.fixture(scope="module", params=["folder", "records"])
def crops(request, tmp_path_factory):
    """Of bands along each axis, by the same random numbers."""
    return [_training(request.param, tmp_path_factory.mktemp("bands"), _bands(axis))
            for axis in (0, 1)]


def _colours(images, axis):
    """The band that each line of the images along an axis is of: (N, SIZE)."""
    return images.astype(float).mean(axis=2 if axis else 3).argmax(axis=1)


def test_half_is_mirrored_and_none_stands_on_its_head(crops):
    assert (np.diff(_colours(crops[0], 0)) >= 0).all()
    steps = np.diff(_colours(crops[1], 1))
    forward, backward = (steps >= 0).all(1), (steps <= 0).all(1)
    assert (forward | backward).all()
    several = np.ptp(_colours(crops[1], 1), axis=1) > 0
    share = (backward & several).sum() / several.sum()
    assert 0.3 < share < 0.7


def _part(images, axis):
    """Begin and length of each crop's part along an axis, in pixels; NaN without both edges."""
    length = (HEIGHT, WIDTH)[axis]
    colours = _colours(images, axis)
    colours = np.where((np.diff(colours) < 0).any(1)[:, None], colours[:, ::-1], colours)
    first, second = ((colours < edge).sum(1).astype(float) for edge in (1, 2))
    whole = (colours[:, 0] == 0) & (colours[:, -1] == 2)
    side = np.where(whole, SIZE * (length / 3) / np.maximum(second - first, 1), np.nan)
    return length / 3 - first * side / SIZE, side


def test_parts_are_of_any_place_and_of_a_shape_near_a_square(crops):
    (top, height), (left, width) = (_part(crops[axis], axis) for axis in (0, 1))
    for begin, side, length in ((top, height, HEIGHT), (left, width, WIDTH)):
        known = ~np.isnan(side)
        assert known.sum() > 10
        assert (begin[known] > -0.05 * length).all()
        assert ((begin + side)[known] < 1.05 * length).all()
    # Of a photograph twice as wide as high, no part is wider than 4/3 of the height.
    assert np.nanmax(width) < 1.1 * 4 / 3 * HEIGHT
    assert np.nanmax(left) > 1.2 * np.nanmin(left) and np.nanmax(left) > 30
    shape = (width / height)[~np.isnan(width * height)]
    assert len(shape) > 3 and (shape > 0.68).all() and (shape < 1.48).all()


def test_parts_are_small_and_large(crops):
    """From 8 % of the area on: such a part may lie in one band; a large one holds all three."""
    count = np.ptp(_colours(crops[1], 1), axis=1) + 1
    assert [(count == bands).sum() > 3 for bands in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_brightness_differs_and_colours_get_apart(kind, tmp_path):
    """Of a grey photograph, brightness is jittered, and only the noise makes it coloured."""
    means = _training(kind, tmp_path, np.full((60, 60, 3), 120, np.uint8), 60).mean(axis=(2, 3))
    assert 15 < means.mean(axis=1).std() < 60 and abs(means.mean() - 120) < 15
    assert 0.3 < np.ptp(means, axis=1).mean() < 15


def test_ten_crops_are_the_middle_and_the_corners_and_their_mirror_images():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = evaluation_crops(image, 56, 0.875, 10)    # 56 / 0.875 = 64: nothing is resized
    places = [(4, 20), (0, 0), (0, 40), (8, 0), (8, 40)]
    for crop, mirrored, (top, left) in zip(found, found[5:], places):
        expected = image[top:top + 56, left:left + 56]
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(mirrored, expected[:, ::-1])


@pytest.mark.parametrize("shape, resized", [((120, 60), (128, 64)), ((60, 120), (64, 128))])
def test_evaluation_brings_the_shorter_side_to_size(shape, resized):
    """Bands along the longer side keep their place in the middle crop."""
    axis = int(shape[1] > shape[0])
    band = np.arange(120) * 3 // 120
    colours = 255 * np.eye(3, dtype=np.uint8)[band]
    lines = colours[:, None] if axis == 0 else colours[None]
    image = np.ascontiguousarray(np.broadcast_to(lines, (*shape, 3)))
    crop, = evaluation_crops(image, 56)
    seen = crop.astype(float).mean(axis=1 - axis).argmax(axis=1)
    begin = (max(resized) - 56) // 2
    expected = (np.arange(begin, begin + 56) + 0.5) * 3 // max(resized)
    assert np.abs(seen - expected).sum() <= 2


def test_evaluation_has_the_crop_ratio(tmp_path):
    (tmp_path / "n0").mkdir()
    (tmp_path / "n0/a.png").write_bytes(jpeg(Image.fromarray(_bands(1)[:, 48:144]), "PNG"))
    photos = FolderPhotos(tmp_path)
    edges = {}
    for ratio in (0.5, 1.0):
        images, *_ = next(PhotoBatches(photos, 1, Decoding(48, ratio, workers=0),
                                       train=False).epoch(0))
        edges[ratio] = (_colours(images, 1)[0] < 1).sum()
    assert edges[1.0] == pytest.approx(8, abs=1)     # 16 of 96 pixels are red, halved
    assert edges[0.5] == 0                           # the middle half has no red


# ---- records ----

@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A record file of ten images, each of a class of its own, in the order of the classes."""
    from tests.data.test_imagenet import _write

    content = jpeg(Image.fromarray(_bands(0)))
    return _write(tmp_path_factory.mktemp("records"), [content] * 10, labels=range(10))


def _labels(records, epoch=0, **options):
    batches = RecordBatches(records, options.pop("batch_size", 2),
                            Decoding(16), **options)
    return np.concatenate([labels for _, labels, _ in batches.epoch(epoch)]).tolist()


def test_records_come_in_another_order_each_epoch(numbered):
    orders = [_labels(numbered, epoch) for epoch in range(3)] + [_labels(numbered, seed=1)]
    for order in orders:
        assert sorted(order) == list(range(10)) and order != sorted(order)
    assert len({tuple(order) for order in orders}) == 4


def test_ten_records_are_two_steps_for_each_of_three_workers(numbered):
    """MXNet's parts have 4, 4 and 2 records: the last one has the fewest."""
    seen = [_labels(numbered, batch_size=1, shard=(index, 3)) for index in range(3)]
    assert [len(labels) for labels in seen] == [2, 2, 2]
    assert len(set().union(*seen)) == 6


# ---- batches of small images ----

@pytest.mark.parametrize("padding", ["black", "mean", "reflect"])
def test_batches_are_padded_as_asked_for(padding):
    """Every place of an image in its padding of 4 pixels comes up, and both mirrorings."""
    image = np.random.RandomState(0).randint(0, 256, (1, 3, 32, 32)).astype(np.uint8)
    batches = Batches(ImageSet(np.repeat(image, 150, axis=0), np.zeros(150, np.int32)), 150,
                      preparation=Preparation(padding, MEAN, prefetch=0))
    (results, _, _), = batches.epoch(0)
    known = possible(image[0], 4, padding)
    tops, lefts, mirrored = map(set, zip(*(known[result.tobytes()] for result in results)))
    assert tops == lefts == set(range(9)) and mirrored == {False, True}


@pytest.mark.parametrize("use_rec", [False, True], ids=["folders", "records"])
def test_every_photograph_is_evaluated_by_one_worker(tmp_path, use_rec):
    """10 of them, for 3 workers."""
    tree = write_tree(tmp_path / "tree", classes=2, train=6, val=5)
    pack(tree, tmp_path / "rec", log=lambda line: None)
    seen = []
    for index in range(3):
        _, _, val = open_imagenet(
            "imagenet", use_rec, str(tree), str(tmp_path / "rec/train.rec"), None,
            str(tmp_path / "rec/val.rec"), None, 2, Decoding(32, workers=0), 0, (index, 3))
        own = [number for _, _, numbers in val.epoch(0) for number in numbers.tolist()]
        assert len(own) == val.num_images and len(val) == 2
        seen += own
    assert seen == list(range(10))
