"""Record files and folders of images: packing, verification, batches."""
import resource
import subprocess
import sys

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from common.errors import FileError
from data import DataError
from data.decoding import decode
from data.imagenet import (
    RecordBatches,
    RecordFile,
    open_imagenet,
    undecodable,
    validation_batches,
)
from data.packing import main, make_index, pack, verify
from data.photos import (
    FolderPhotos,
    PhotoBatches,
    evaluation_crops,
    random_part,
)
from data.streams import bit_stream
from tests import scripts
from tests.data.photo_files import broken_files, drawn, jpeg, odd_files, write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """18 training and 9 validation images of 3 classes."""
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def packed(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "rec"
    assert pack(tree, out, resize=48, workers=2, log=lambda line: None) == 0
    return out


def _records(packed, name="train"):
    return RecordFile(packed / f"{name}.rec")


def _epoch(batches, epoch=0, start=0):
    return [(images.copy(), labels.copy()) for images, labels, _ in batches.epoch(epoch, start)]


def _write(folder, contents, labels=None):
    """A record file of given contents."""
    writer = mx.recordio.MXIndexedRecordIO(str(folder / "x.idx"), str(folder / "x.rec"), "w")
    for k, content in enumerate(contents):
        label = float(labels[k]) if labels else 0.0
        writer.write_idx(k, mx.recordio.pack(mx.recordio.IRHeader(0, label, k, 0), content))
    writer.close()
    return RecordFile(folder / "x.rec")


# ---- cropping ---------------------------------------------------------------------

def test_evaluation_takes_the_middle_and_the_corners():
    image = np.asarray(drawn(1, 120, 90))
    middle = evaluation_crops(image, 56)
    crops = evaluation_crops(image, 56, crops=10)          # shorter side 64, longer 85
    assert middle.shape == (1, 56, 56, 3) and crops.shape == (10, 56, 56, 3)
    np.testing.assert_array_equal(crops[0], middle[0])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[1][4:, 14:], middle[0][:-4, :-14])


def test_random_parts_are_functions_of_their_stream():
    image = np.asarray(drawn(2, 90, 60))
    parts = [random_part(image, 32, bit_stream(0, "photo", epoch, 5)) for epoch in (0, 0, 1)]
    assert parts[0].shape == (32, 32, 3) and parts[0].dtype == np.uint8
    np.testing.assert_array_equal(parts[0], parts[1])
    assert np.abs(parts[0].astype(int) - parts[2]).mean() > 1


def test_random_parts_keep_brightness_on_average():
    image = np.full((40, 40, 3), (120, 90, 60), np.uint8)
    parts = [random_part(image, 8, bit_stream(0, "photo", 0, k)).mean(axis=(0, 1))
             for k in range(400)]
    np.testing.assert_allclose(np.mean(parts, axis=0), (120, 90, 60), rtol=0.05)
    assert 15 < np.std(parts, axis=0).mean() < 60


# ---- packing -----------------------------------------------------------------------------------

def test_packed_folders_are_complete_and_sound(packed, tree):
    assert {path.name for path in packed.iterdir()} == {
        "train.rec", "train.idx", "train.lst", "val.rec", "val.idx", "val.lst", "synset.txt"}
    assert [len(_records(packed, name)) for name in ("train", "val")] == [18, 9]
    assert _records(packed, "val").class_names() == [f"n{k:08d}" for k in range(3)]
    lines = []
    assert verify(packed, workers=2, log=lines.append) == 0
    assert lines[-1] == "all records are sound"
    content, label = _records(packed, "val").read(4)
    assert label == 1
    assert min(decode(content).size) == 48
    original = np.asarray(Image.open(tree / "val/n00000001/val_1.JPEG").resize((58, 48)), int)
    assert np.abs(np.asarray(decode(content), int) - original).mean() < 4


def test_training_records_are_mixed_and_validation_records_in_order(packed):
    assert sorted(_records(packed).labels()) == sorted([0, 1, 2] * 6)
    assert _records(packed).labels() != sorted(_records(packed).labels())
    assert _records(packed, "val").labels() == [0] * 3 + [1] * 3 + [2] * 3


def test_undecodable_images_are_skipped_and_listed(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=2, train=2, val=1)
    for name, content in {**odd_files(), **broken_files()}.items():
        (tree / "train/n00000001" / name).write_bytes(content)
    lines = []
    pack(tree, tmp_path / "out", log=lines.append)
    skipped = (tmp_path / "out/skipped.txt").read_text().splitlines()
    assert sorted(line.split(":")[0] for line in skipped) == [
        f"train/n00000001/{name}" for name in sorted(broken_files())]
    assert any("3 images could not be decoded" in line for line in lines)
    assert len(_records(tmp_path / "out")) == 4 + len(odd_files())
    assert verify(tmp_path / "out", log=lines.append) == 0
    batches = PhotoBatches(_records(tmp_path / "out"), 4, size=24, train=False)
    assert sum(len(labels) for _, labels in _epoch(batches)) == 4 + len(odd_files())


def test_packing_leaves_nothing_behind_when_it_fails(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=1, train=1, val=1)
    (tree / "val/n00000000/val_0.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="none of the images in .*val"):
        pack(tree, tmp_path / "out", log=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_packing_refuses_what_it_cannot_do(tmp_path, tree, packed):
    with pytest.raises(DataError, match="there already"):
        pack(tree, packed)
    with pytest.raises(DataError, match="there is no folder"):
        pack(tmp_path, tmp_path / "out")
    strange = write_tree(tmp_path / "strange", classes=1)
    (strange / "val/n9").mkdir()
    with pytest.raises(DataError, match="n9"):
        pack(strange, tmp_path / "out")


def test_verify_names_the_damaged_record(tmp_path, capsys):
    good, broken = jpeg(drawn(0)), broken_files()
    _write(tmp_path, [good, broken["cut.JPEG"], good, broken["text.JPEG"]], labels=[0, 1, 2, 1])
    (tmp_path / "x.lst").write_text("0\t0\ta.jpg\n1\t1\tb.jpg\n2\t0\tc.jpg\n3\t1\td.jpg\n")
    assert main(["verify", str(tmp_path), "-j", "1"]) == 1
    text = capsys.readouterr().out
    assert "record 1 of" in text and "(b.jpg): " in text and "truncated" in text
    assert "(d.jpg): no image in a known format" in text
    assert "(c.jpg): its label is 2" in text
    assert "3 problems" in text


def test_the_index_is_made_from_the_records(packed, tmp_path):
    (tmp_path / "val.rec").write_bytes((packed / "val.rec").read_bytes())
    with pytest.raises(DataError, match="data.imagenet index"):
        RecordFile(tmp_path / "val.rec")
    assert make_index(tmp_path / "val.rec", log=lambda line: None) == 0
    assert (tmp_path / "val.idx").read_text() == (packed / "val.idx").read_text()
    assert RecordFile(tmp_path / "val.rec").class_names() == ["0", "1", "2"]


def test_an_index_of_another_file_is_refused(packed, tmp_path):
    (tmp_path / "a.rec").write_bytes((packed / "val.rec").read_bytes()[:200])
    with pytest.raises(DataError, match="is not the index of"):
        RecordFile(tmp_path / "a.rec", packed / "train.idx")
    (tmp_path / "b.idx").write_text("nonsense\n")
    with pytest.raises(DataError, match="is not the index"):
        RecordFile(packed / "val.rec", tmp_path / "b.idx")


# ---- batches of records ------------------------------------------------------------------------

def _training(packed, **options):
    return RecordBatches(_records(packed), options.pop("batch_size", 4), 3, size=32, **options)


def test_an_epoch_is_a_function_of_seed_and_epoch(packed):
    first = _epoch(_training(packed), 1)
    for again in (_epoch(_training(packed, workers=1), 1), _epoch(_training(packed, workers=3), 1)):
        for one, two in zip(first, again):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])
    for other in (_epoch(_training(packed), 2), _epoch(_training(packed, seed=1), 1)):
        assert not np.array_equal(first[0][0], other[0][0])


def test_training_batches_are_whole(packed):
    batches = _training(packed)
    assert (len(batches), batches.num_images) == (4, 16)
    for images, labels in _epoch(batches):
        assert images.shape == (4, 3, 32, 32) and images.dtype == np.uint8
        assert labels.dtype == np.int32 and set(labels.tolist()) <= {0, 1, 2}


def test_an_epoch_goes_on_where_it_was_left(packed):
    whole, rest = _epoch(_training(packed), 3), _epoch(_training(packed), 3, start=2)
    assert len(rest) == 2
    for one, two in zip(whole[2:], rest):
        np.testing.assert_array_equal(one[0], two[0])


def test_workers_share_the_records(tmp_path):
    """Every worker has its own images and as many steps as the others."""
    records = _write(tmp_path, [jpeg(drawn(k)) for k in range(11)], labels=range(11))
    seen, steps = [], set()
    for index in range(3):
        batches = RecordBatches(records, 1, 11, size=16, shard=(index, 3))
        steps.add(len(batches))
        seen += np.concatenate([labels for _, labels in _epoch(batches)]).tolist()
    assert steps == {3} and len(seen) == len(set(seen)) == 9


@pytest.mark.parametrize("batch_size", [1, 4, 9, 16, 50])
def test_validation_counts_every_image_once(packed, batch_size):
    batches = PhotoBatches(_records(packed, "val"), batch_size, size=32, train=False)
    for _ in range(2):
        labels = np.concatenate([labels for _, labels in _epoch(batches)])
        assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert batches.num_images == 9 and len(batches) == -(-9 // batch_size)


def test_evaluation_sees_the_pixels_of_the_authors_iterator(tmp_path):
    """From records and from folders: resized and cropped as ``ImageRecordIter`` does."""
    tree = write_tree(tmp_path / "tree", classes=2, train=1, val=3)
    pack(tree, tmp_path / "out", resize=0, quality=100, log=lambda line: None)
    _, records = validation_batches(use_rec=True, rec_val=tmp_path / "out/val.rec",
                                    batch_size=6, size=32)
    data, folder = validation_batches(data_dir=tree, batch_size=6, size=32)
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "out/val.rec"), path_imgidx=str(tmp_path / "out/val.idx"),
        data_shape=(3, 32, 32), batch_size=6, resize=37, dtype="uint8", verbose=False)
    expected = iterator.next().data[0].asnumpy().astype(int)
    (a, labels_a), = _epoch(records)
    (b, labels_b), = _epoch(folder)
    assert labels_a.tolist() == labels_b.tolist() and data.num_val == 6
    assert np.abs(a - expected).mean() < 0.5
    assert np.abs(b - expected).mean() < 3


@pytest.mark.parametrize("kind", ["empty.JPEG", "text.JPEG", "gif"])
@pytest.mark.parametrize("train", [True, False])
def test_an_undecodable_record_ends_training_with_its_name(kind, train, tmp_path, capsys):
    good = jpeg(drawn(0))
    bad = jpeg(drawn(0), "GIF") if kind == "gif" else broken_files()[kind]
    records = _write(tmp_path, [good] * 9 + [bad] + [good] * 6)
    (tmp_path / "x.lst").write_text("".join(f"{k}\t0\tphoto_{k}.JPEG\n" for k in range(16)))
    batches = (RecordBatches(records, 4, 1, size=24) if train
               else PhotoBatches(records, 4, size=24, train=False))
    assert len(undecodable(records)) == 1
    if kind == "gif" and not train:    # Pillow reads it
        assert len(_epoch(batches)) == 4
        return
    with pytest.raises(DataError, match=r"record 9 of .*x\.rec \(photo_9\.JPEG\)"):
        _epoch(batches)


@pytest.mark.parametrize("train", [True, False])
def test_labels_beyond_the_classes_are_refused(train, tmp_path):
    records = _write(tmp_path, [jpeg(drawn(0))] * 4, labels=[0, 1, 7, 1])
    assert len(records.class_names()) == 8
    with pytest.raises(DataError, match="label 7, but there are 2"):
        _epoch(RecordBatches(records, 4, 2, size=24) if train
               else PhotoBatches(records, 4, size=24, train=False, classes=2))


# ---- batches of folders ------------------------------------------------------------------------

def test_folder_batches_do_not_depend_on_workers_or_start(tree):
    photos = FolderPhotos(tree / "train")
    whole = _epoch(PhotoBatches(photos, 4, size=24, workers=0), 2)
    for batches, start in ((PhotoBatches(photos, 4, size=24, workers=3), 0),
                           (PhotoBatches(photos, 4, size=24, workers=1), 1)):
        part = _epoch(batches, 2, start)
        assert len(part) == 4 - start
        for one, two in zip(whole[start:], part):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])


def test_folder_workers_share_one_order(tree):
    photos = FolderPhotos(tree / "train")
    (one, _), *_ = _epoch(PhotoBatches(photos, 6, size=24))
    parts = [_epoch(PhotoBatches(photos, 3, size=24, shard=(k, 2)))[0][0] for k in range(2)]
    np.testing.assert_array_equal(one, np.concatenate(parts))


def test_ten_crops_of_records(packed):
    data, batches = validation_batches(use_rec=True, rec_val=packed / "val.rec", batch_size=4,
                                       size=32, crops=10)
    shapes = [images.shape for images, _ in _epoch(batches)]
    assert shapes == [(4, 10, 3, 32, 32)] * 2 + [(1, 10, 3, 32, 32)]
    assert data.classes == 3


def test_an_undecodable_file_ends_training_with_its_name(tmp_path):
    tree = write_tree(tmp_path, classes=2, train=2, val=1)
    (tree / "train/n00000001/cut.JPEG").write_bytes(broken_files()["cut.JPEG"])
    with pytest.raises(DataError, match=r"n00000001/cut\.JPEG cannot be decoded: .*truncated"):
        _epoch(PhotoBatches(FolderPhotos(tree / "train"), 5, size=24))


def test_what_the_script_opens(tree, packed):
    for source in ({"data_dir": tree}, {"use_rec": True, "rec_train": packed / "train.rec",
                                        "rec_val": packed / "val.rec"}):
        data, train, val = open_imagenet(batch_size=4, size=32, **source)
        assert (data.classes, data.num_train, data.num_val, data.val_name) == (
            3, 18, 9, "validation")
        assert "18 training and 9 validation images of 3 classes" in data.description
        assert (len(train), val.num_images) == (4, 9)
    with pytest.raises(DataError, match="do not fill one batch"):
        open_imagenet(batch_size=64, size=32, data_dir=tree)
    with pytest.raises(DataError, match="--use-rec"):
        open_imagenet(data_dir=tree / "none")
    with pytest.raises(DataError, match="there is no file"):
        open_imagenet(use_rec=True, rec_train=tree / "none.rec")


@pytest.mark.parametrize("option", ["--seed", "--resize", "-j"])
def test_numbers_of_the_packer_have_a_range(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["pack", "a", "b", option, "-1"])
    assert ended.value.code == 2 and "must be a whole number" in capsys.readouterr().err


def test_a_full_disk_ends_packing_in_a_line_and_leaves_nothing(tmp_path):
    write_tree(tmp_path / "tree", classes=1, train=4, val=1)
    result = subprocess.run(
        [sys.executable, "-m", "data.imagenet", "pack", tmp_path / "tree", tmp_path / "out"],
        cwd=scripts.ROOT, text=True, capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)))
    scripts.assert_user_error(result, f"cannot write to {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_record_shorter_than_its_header_is_damage(tmp_path):
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    writer.write(b"short")
    writer.close()
    with pytest.raises(DataError, match="x.rec is damaged after 0 records"):
        make_index(tmp_path / "x.rec")


def test_a_photograph_that_vanishes_is_named(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=1, train=2, val=1)
    photos = FolderPhotos(tree / "train")
    next((tree / "train").rglob("*.JPEG")).unlink()
    with pytest.raises(FileError, match=r"cannot read .*JPEG: No such file"):
        _epoch(PhotoBatches(photos, 2, size=24, train=False))
