"""Record files and folders of images: packing, verification, batches."""
import os
import resource
import shutil
import subprocess
import sys
import time

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from common.errors import FileError, UserError
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
    Decoding,
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
    content = _records(packed, "val").content(4)
    assert _records(packed, "val").labels[4] == 1
    assert min(decode(content).size) == 48
    original = np.asarray(Image.open(tree / "val/n00000001/val_1.JPEG").resize((58, 48)), int)
    assert np.abs(np.asarray(decode(content), int) - original).mean() < 4


def test_training_records_are_mixed_and_validation_records_in_order(packed):
    assert sorted(_records(packed).labels.tolist()) == sorted([0, 1, 2] * 6)
    assert _records(packed).labels.tolist() != sorted(_records(packed).labels.tolist())
    assert _records(packed, "val").labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


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
    batches = PhotoBatches(_records(tmp_path / "out"), 4, Decoding(24), train=False)
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


def test_records_without_numbers_of_their_own_are_counted(tmp_path):
    writer = mx.recordio.MXRecordIO(str(tmp_path / "x.rec"), "w")
    for label in range(3):
        writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, float(label), 0, 0), jpeg(drawn(0))))
    writer.close()
    make_index(tmp_path / "x.rec", log=lambda line: None)
    records = RecordFile(tmp_path / "x.rec")
    assert records.keys.tolist() == records.labels.tolist() == [0, 1, 2]
    assert verify(tmp_path, log=lambda line: None) == 0


def test_an_index_of_another_file_is_refused(packed, tmp_path):
    (tmp_path / "a.rec").write_bytes((packed / "val.rec").read_bytes()[:200])
    with pytest.raises(DataError, match="is not the index of"):
        RecordFile(tmp_path / "a.rec", packed / "train.idx")
    (tmp_path / "b.idx").write_text("nonsense\n")
    with pytest.raises(DataError, match="is not the index"):
        RecordFile(packed / "val.rec", tmp_path / "b.idx")


# ---- batches of records ------------------------------------------------------------------------

def _training(packed, **options):
    return RecordBatches(_records(packed), options.pop("batch_size", 4),
                         Decoding(32, workers=options.pop("workers", 4)), **options)


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
        batches = RecordBatches(records, 1, Decoding(16), shard=(index, 3))
        steps.add(len(batches))
        seen += np.concatenate([labels for _, labels in _epoch(batches)]).tolist()
    assert steps == {3} and len(seen) == len(set(seen)) == 9


@pytest.mark.parametrize("batch_size", [1, 4, 9, 16, 50])
def test_validation_counts_every_image_once(packed, batch_size):
    batches = PhotoBatches(_records(packed, "val"), batch_size, Decoding(32), train=False)
    for _ in range(2):
        labels = np.concatenate([labels for _, labels in _epoch(batches)])
        assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert batches.num_images == 9 and len(batches) == -(-9 // batch_size)


def test_evaluation_sees_the_pixels_of_the_authors_iterator(tmp_path):
    """From records and from folders: resized and cropped as ``ImageRecordIter`` does."""
    tree = write_tree(tmp_path / "tree", classes=2, train=1, val=3)
    pack(tree, tmp_path / "out", resize=0, quality=100, log=lambda line: None)
    _, records = validation_batches(use_rec=True, rec_val=tmp_path / "out/val.rec",
                                    batch_size=6, decoding=Decoding(32))
    data, folder = validation_batches(data_dir=tree, batch_size=6, decoding=Decoding(32))
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
    batches = (RecordBatches(records, 4, Decoding(24)) if train
               else PhotoBatches(records, 4, Decoding(24), train=False))
    assert len(list(undecodable(records))) == 1
    if kind == "gif" and not train:    # Pillow reads it
        assert len(_epoch(batches)) == 4
        return
    with pytest.raises(DataError, match=r"record 9 of .*x\.rec \(photo_9\.JPEG\)"):
        _epoch(batches)


@pytest.mark.parametrize("train", [True, False])
def test_labels_beyond_the_classes_are_refused(train, tmp_path):
    records = _write(tmp_path, [jpeg(drawn(0))] * 4, labels=[0, 1, 7, 1])
    assert len(records.class_names()) == 8
    (tmp_path / "synset.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"record 2 of .*x\.rec has the label 7, but there are 2"):
        if train:
            open_imagenet(use_rec=True, rec_train=records.rec, rec_val=records.rec, batch_size=4)
        else:
            validation_batches(use_rec=True, rec_val=records.rec)


def test_validation_classes_in_another_order_are_refused(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "val")
    names = (packed / "synset.txt").read_text().splitlines()
    files = {"rec_train": packed / "train.rec", "rec_val": tmp_path / "val/val.rec"}
    for order in (names[::-1], names[:2]):
        (tmp_path / "val/synset.txt").write_text("\n".join(order))
        with pytest.raises(DataError, match="has other classes than the network, or in another"):
            open_imagenet(use_rec=True, **files)
    (tmp_path / "val/synset.txt").unlink()
    data, _, _ = open_imagenet(use_rec=True, batch_size=4, **files)
    assert data.class_names == names
    files = {"rec_train": tmp_path / "val/train.rec", "rec_val": packed / "val.rec"}
    data, _, _ = open_imagenet(use_rec=True, batch_size=4, **files)
    assert data.class_names == ["0", "1", "2"]


# ---- batches of folders ------------------------------------------------------------------------

def test_folder_batches_do_not_depend_on_workers_or_start(tree):
    photos = FolderPhotos(tree / "train")
    whole = _epoch(PhotoBatches(photos, 4, Decoding(24, workers=0)), 2)
    for batches, start in ((PhotoBatches(photos, 4, Decoding(24, workers=3)), 0),
                           (PhotoBatches(photos, 4, Decoding(24, workers=1)), 1)):
        part = _epoch(batches, 2, start)
        assert len(part) == 4 - start
        for one, two in zip(whole[start:], part):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])


def test_folder_workers_share_one_order(tree):
    photos = FolderPhotos(tree / "train")
    (one, _), *_ = _epoch(PhotoBatches(photos, 6, Decoding(24)))
    parts = [_epoch(PhotoBatches(photos, 3, Decoding(24), shard=(k, 2)))[0][0] for k in range(2)]
    np.testing.assert_array_equal(one, np.concatenate(parts))


def test_ten_crops_of_records(packed):
    data, batches = validation_batches(use_rec=True, rec_val=packed / "val.rec", batch_size=4,
                                       decoding=Decoding(32, crops=10))
    shapes = [images.shape for images, _ in _epoch(batches)]
    assert shapes == [(4, 10, 3, 32, 32)] * 2 + [(1, 10, 3, 32, 32)]
    assert data.classes == 3


def test_an_undecodable_file_ends_training_with_its_name(tmp_path):
    tree = write_tree(tmp_path, classes=2, train=2, val=1)
    (tree / "train/n00000001/cut.JPEG").write_bytes(broken_files()["cut.JPEG"])
    with pytest.raises(DataError, match=r"n00000001/cut\.JPEG cannot be decoded: .*truncated"):
        _epoch(PhotoBatches(FolderPhotos(tree / "train"), 5, Decoding(24)))


def test_what_the_script_opens(tree, packed):
    for source in ({"data_dir": tree}, {"use_rec": True, "rec_train": packed / "train.rec",
                                        "rec_val": packed / "val.rec"}):
        data, train, val = open_imagenet(batch_size=4, decoding=Decoding(32), **source)
        assert (data.classes, data.num_train, data.num_val, data.val_name) == (
            3, 18, 9, "validation")
        assert "18 training and 9 validation images of 3 classes" in data.description
        assert (len(train), val.num_images) == (4, 9)
    with pytest.raises(DataError, match="do not fill one batch"):
        open_imagenet(batch_size=64, decoding=Decoding(32), data_dir=tree)
    with pytest.raises(DataError, match="--use-rec"):
        open_imagenet(data_dir=tree / "none")
    with pytest.raises(DataError, match="there is no file"):
        open_imagenet(use_rec=True, rec_train=tree / "none.rec")


@pytest.mark.parametrize("option", ["--seed", "--resize", "-j"])
def test_numbers_of_the_packer_have_a_range(option):
    with pytest.raises(UserError, match=f"{option}.*: must be a whole number"):
        main(["pack", "a", "b", option, "-1"])


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
        _epoch(PhotoBatches(photos, 2, Decoding(24), train=False))


# ---- indices -----------------------------------------------------------------------------------

def _indexed(packed, tmp_path, text):
    """val.rec of the packed folder under another index."""
    path = tmp_path / "val.rec"
    path.write_bytes((packed / "val.rec").read_bytes())
    path.with_suffix(".idx").write_text(text)
    return path


def _lines_of(packed):
    return (packed / "val.idx").read_text().splitlines()


@pytest.mark.parametrize("change, message", [
    (lambda lines: lines[:2] + ["2\t" + lines[1].split("\t")[1]] + lines[3:],
     r"the place \d+ stands in it 2 times"),
    (lambda lines: lines[:2] + ["1\t" + lines[2].split("\t")[1]] + lines[3:],
     "the number 1 stands in it 2 times"),
    (lambda lines: ["0\t4", *lines[1:]], "no record starts at byte 4"),
    (lambda lines: ["0\t8", *lines[1:]], "no record starts at byte 8"),
    (lambda lines: ["0\t-8", *lines[1:]], "is not the index of a record file"),
    (lambda lines: ["0\t" + "9" * 18, *lines[1:]], "it ends before byte 999"),
    (lambda lines: ["0\t" + "9" * 30, *lines[1:]], "is not the index of a record file"),
    (lambda lines: ["0\t1e3", *lines[1:]], "is not the index of a record file"),
    (lambda lines: ["nan\t0", *lines[1:]], "is not the index of a record file"),
    (lambda lines: ["0", *lines[1:]], "is not the index of a record file"),
    (lambda lines: ["", *lines], "is not the index of a record file"),
    (lambda lines: [], "is not the index of a record file"),
    (lambda lines: lines[1:], "it leaves out what begins at byte 0"),
    (lambda lines: lines[:4] + lines[5:], "it leaves out what begins at byte"),
    (lambda lines: lines[:-1], "it leaves out what begins at byte"),
])
def test_a_wrong_index_is_refused_before_mxnet_sees_it(change, message, packed, tmp_path, capsys):
    path = _indexed(packed, tmp_path, "\n".join(change(_lines_of(packed))))
    with pytest.raises(DataError, match=message):
        RecordFile(path)
    assert main(["verify", str(tmp_path), "-j", "1"]) == 1
    assert "val.idx" in capsys.readouterr().out


def test_an_index_may_be_in_any_order_and_from_windows(packed, tmp_path):
    text = "\r\n".join(reversed(_lines_of(packed)))
    records = RecordFile(_indexed(packed, tmp_path, text))
    assert records.labels.tolist() == [2] * 3 + [1] * 3 + [0] * 3


def test_one_damaged_file_costs_the_others_no_verification(packed, tmp_path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train.idx").write_text("nonsense")
    (tmp_path / "aaa.rec").touch()
    lines = []
    assert verify(tmp_path, 1, lines.append) == 1
    assert lines[-1] == "2 problems" and "val.rec: 9 records, 3 classes" in lines


@pytest.mark.parametrize("change", [lambda content: content[:-40],
                                    lambda content: content + bytes(8)])
def test_a_record_file_that_shrank_or_grew_is_refused(change, packed, tmp_path):
    path = _indexed(packed, tmp_path, (packed / "val.idx").read_text())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match="ends within the record|leaves out what begins"):
        validation_batches(use_rec=True, rec_val=path)


def test_files_that_are_no_files_are_not_read(packed, tmp_path):
    for name in ("val.idx", "val.lst", "synset.txt", "val.rec"):
        path = _indexed(packed, tmp_path, (packed / "val.idx").read_text())
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(FileError, match=f"{name}: it is no regular file"):
            RecordFile(path).class_names(), RecordFile(path).listing
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["run#3", "what?", "a;b", "a,b", "s3:", "50%20", "*", "a b",
                                  b"latin\xff"])
def test_a_record_file_may_lie_anywhere(name, packed, tmp_path):
    folder = tmp_path / os.fsdecode(name)
    shutil.copytree(packed, folder)
    assert verify(folder, 1, lambda line: None) == 0
    for batches in (_training(folder),
                    PhotoBatches(_records(folder), 4, Decoding(32), train=False)):
        assert len(_epoch(batches)) == len(batches)
    (folder / "val.idx").unlink()
    make_index(folder / "val.rec", log=lambda line: None)
    assert (folder / "val.idx").read_bytes() == (packed / "val.idx").read_bytes()


def test_a_turned_record_that_training_takes_as_it_lies_is_named(tmp_path, capsys):
    turned = Image.Exif()
    turned[0x112] = 6
    records = _write(tmp_path, [jpeg(drawn(0), kind, exif=turned.tobytes())
                                for kind in ("PNG", "JPEG")])
    jpegs = [image for image, _ in _epoch(RecordBatches(records, 1, Decoding(16)))]
    assert len(jpegs) == 2
    assert main(["verify", str(tmp_path), "-j", "1"]) == 1
    text = capsys.readouterr().out
    assert "record 0 of" in text and "its orientation is noted where evaluation heeds it" in text
    assert "record 1 of" not in text and "1 problems" in text


# ---- names, lengths, ends of packing -----------------------------------------------------------

def test_names_of_any_kind_are_packed_on_a_line_each(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=1, train=1, val=1)
    names = ["two\nlines.jpg", "re\rturn.jpg", "ta\tb.jpg", "sep\u2028arator.jpg", "next\x85.jpg",
             "page\x0c.jpg", os.fsdecode(b"latin\xff.jpg"), "日本.jpg", "\x1b[31mred.jpg"]
    for k, name in enumerate(names):
        (tree / "train/n00000000" / name).write_bytes(
            broken_files()["text.JPEG"] if k % 2 else jpeg(drawn(k)))
    pack(tree, tmp_path / "out", workers=1, log=lambda line: None)
    records = _records(tmp_path / "out")
    assert len(records) == 6 and len(records.listing) == 6
    assert {name for _, name in records.listing.values()} >= {
        r"n00000000/two\nlines.jpg", r"n00000000/latin\udcff.jpg", r"n00000000/ta\tb.jpg"}
    skipped = (tmp_path / "out/skipped.txt").read_text(encoding="utf-8").splitlines()
    assert len(skipped) == 4 and all(line.isprintable() for line in skipped)
    assert verify(tmp_path / "out", 1, log=lambda line: None) == 0


def test_lists_are_divided_by_newlines_alone(packed, tmp_path):
    """An earlier version wrote names as they are."""
    path = _indexed(packed, tmp_path, (packed / "val.idx").read_text())
    path.with_suffix(".lst").write_text("".join(
        f"{k}\t{k // 3}\tsep\u2028arator\x85{k}.jpg\n" for k in range(9)), encoding="utf-8")
    path.with_name("synset.txt").write_text("a\u2028b\r\nc\n\nd\n", encoding="utf-8")
    assert RecordFile(path).class_names() == ["a\u2028b", "c", "d"]
    assert verify(path, 1, log=lambda line: None) == 0


def test_an_image_too_long_for_a_jpeg_costs_only_itself(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=1, train=2, val=1)
    Image.new("L", (65_501, 2)).save(tree / "train/n00000000/long.png")
    Image.new("L", (65_500, 2)).save(tree / "train/n00000000/longest.png")
    lines = []
    pack(tree, tmp_path / "out", workers=1, log=lines.append)
    assert len(_records(tmp_path / "out")) == 3
    assert (tmp_path / "out/skipped.txt").read_text() == (
        "train/n00000000/long.png: its 65,501 x 2 pixels are too long for a JPEG, which has at "
        "most 65,500 on a side\n")


def test_what_is_not_packed_is_listed(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=1, train=2, val=1)
    (tree / "train/n00000000/notes.txt").touch()
    os.mkfifo(tree / "val/n00000000/pipe.png")
    pack(tree, tmp_path / "out", workers=1, log=lambda line: None)
    assert (tmp_path / "out/skipped.txt").read_text().splitlines() == [
        "train/n00000000/notes.txt (no image by its name)",
        "val/n00000000/pipe.png (no regular file)"]


def test_a_killed_packing_is_cleaned_up_by_the_next(tmp_path):
    """But not the folder of one that still runs."""
    tree = write_tree(tmp_path / "tree", classes=1, train=2, val=1)
    os.mkfifo(tmp_path / "held")
    code = ("import sys, data.packing as p\n"
            "p._encode = lambda *args: open(sys.argv[3])       # waits without end\n"
            "p.pack(sys.argv[1], sys.argv[2], workers=1)")
    processes = [subprocess.Popen([sys.executable, "-c", code, tree, tmp_path / "out",
                                   tmp_path / "held"], cwd=scripts.ROOT) for _ in range(2)]
    try:
        while len(list(tmp_path.glob(".out.*.partial/train.rec"))) < 2:
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.02)
        processes[0].kill()
        processes[0].wait()
        pack(tree, tmp_path / "out", workers=1, log=lambda line: None)
        assert [str(processes[1].pid) in path.name for path in tmp_path.glob(".out.*")] == [True]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", ["1025", "9" * 23, "-1", "many"])
def test_threads_are_counted_within_reason(number):
    for command in (["pack", "a", "b"], ["verify", "a"]):
        with pytest.raises(UserError, match="must be a whole number from 0 to 1024"):
            main([*command, "-j", number])


def test_a_command_that_is_none_is_a_line(tmp_path):
    result = subprocess.run([sys.executable, "-m", "data.imagenet", "unpack"], cwd=scripts.ROOT,
                            text=True, capture_output=True)
    scripts.assert_user_error(result, "invalid choice: 'unpack'")
    assert result.stderr.count("\n") == 1
