"""Folders of photographs: what is used, what is named, and crops of any shape."""
import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import DataError, FileError, UserError
from data.photos import (
    Decoding,
    FolderPhotos,
    PhotoBatches,
    _resized,
    evaluation_crops,
    find_images,
    list_classes,
    list_photos,
)
from tests.data.photo_files import drawn, jpeg, write_tree


@pytest.fixture
def tree(tmp_path):
    """train/ of two classes with two images each."""
    return write_tree(tmp_path / "tree", classes=2, train=2, val=1) / "train"


def _list(folder):
    lines = []
    wnids, photos, unused = list_photos(folder, lines.append)
    return wnids, [path for _, path in photos], unused, lines


PHOTOS = [f"n0000000{label}/train_{k}.JPEG" for label in (0, 1) for k in (0, 1)]


# ---- what is used ------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "@tmp"])
def test_what_programs_keep_beside_the_photographs_is_no_class(name, tree):
    for place in (tree / name, tree / "n00000001" / name):
        place.mkdir()
        (place / "thumb.jpg").write_bytes(jpeg(drawn(1)))
    (tree / "n00000000/.DS_Store").touch()
    wnids, photos, unused, lines = _list(tree)
    assert (wnids, photos) == (["n00000000", "n00000001"], PHOTOS)
    assert unused == [f"{name} (no class by its name)"]
    assert lines == [f"{tree}: not used: 1 ({unused[0]})"]


def test_what_is_not_used_is_counted_and_named(tree):
    (tree / "readme.txt").touch()
    (tree / "loose.jpg").write_bytes(jpeg(drawn(1)))
    os.mkfifo(tree / "n00000000/pipe.jpg")
    (tree / "n00000000/gone.jpg").symlink_to("nothing.jpg")
    (tree / "n00000000/self.jpg").symlink_to("self.jpg")
    (tree / "n00000001/IMG_1.heic").touch()
    (tree / "n00000001/bad\n\x1b[31m.txt").touch()
    wnids, photos, unused, lines = _list(tree)
    assert (len(wnids), photos) == (2, PHOTOS)
    assert unused == ["loose.jpg (in no class's folder)", "readme.txt (in no class's folder)",
                      "n00000000/gone.jpg (no regular file)",
                      "n00000000/pipe.jpg (no regular file)",
                      "n00000000/self.jpg (no regular file)",
                      "n00000001/IMG_1.heic (no image by its name)",
                      "n00000001/bad\\n\\x1b[31m.txt (no image by its name)"]
    assert len(lines) == 1 and "not used: 7 (loose.jpg" in lines[0] and lines[0].isprintable()


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "pgm", "PBM", "pnm", "pfm", "dib",
                                    "webp", "avif", "mpo", "apng"])
def test_the_suffixes_of_images(suffix, tree):
    (tree / f"n00000000/x.{suffix}").touch()
    assert f"n00000000/x.{suffix}" in _list(tree)[1]


def test_the_order_is_that_of_sorted_paths(tree):
    """It gives every photograph its number, on which its random crops depend."""
    for name in ("a/b.jpg", "a-1.jpg", "a.jpg", "a/a/z.png", "B.jpg", "é.jpg", "10.jpg", "9.jpg"):
        (tree / "n00000000" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "n00000000" / name).touch()
    expected = [path.relative_to(tree).as_posix() for wnid in ("n00000000", "n00000001")
                for path in sorted((tree / wnid).rglob("*")) if path.is_file()]
    assert _list(tree)[1] == expected


# ---- links -------------------------------------------------------------------------------------

def test_images_that_links_lead_to_are_used_once(tree, tmp_path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    for place in ("elsewhere/one.jpg", "elsewhere/deep/two.jpg"):
        (tmp_path / place).write_bytes(jpeg(drawn(3)))
    (tree / "n00000000/linked").symlink_to(tmp_path / "elsewhere")
    (tree / "n00000000/z again").symlink_to(tmp_path / "elsewhere")
    (tree / "n00000002").symlink_to(tmp_path / "elsewhere/deep")
    wnids, photos, unused, _ = _list(tree)
    assert len(wnids) == 3
    assert photos == ["n00000000/linked/one.jpg", *PHOTOS, "n00000002/two.jpg"]
    assert unused == [f"n00000000/{name} (a folder that is read elsewhere)"
                      for name in ("linked/deep", "z again")]


def test_links_back_up_bring_in_no_other_classes(tree):
    (tree / "n00000000/all").symlink_to(tree)
    (tree / "n00000000/root").symlink_to("/")
    (tree / "n00000001/up").symlink_to("..")
    (tree / "n00000001/beside").symlink_to("../n00000000")
    _, photos, unused, _ = _list(tree)
    assert photos == PHOTOS and len(unused) == 4


def test_two_classes_in_one_folder_are_refused(tree):
    (tree / "n9").symlink_to("n00000001")
    with pytest.raises(DataError, match="n00000001 and n9 are the same folder"):
        list_classes(tree)


# ---- classes -----------------------------------------------------------------------------------

def test_a_class_without_images_is_an_error(tree):
    for name in ("empty", "notes"):
        (tree / name).mkdir()
    (tree / "notes/a.txt").touch()
    with pytest.raises(DataError, match=r"without images: 2 \(empty, notes\); fill or remove"):
        _list(tree)


def test_classes_that_validation_lacks_are_named(tree):
    shutil.rmtree(tree.parent / "val/n00000000")
    lines = []
    photos = FolderPhotos(tree.parent / "val", ["n00000000", "n00000001"], lines.append)
    assert photos.labels.tolist() == [1]
    assert len(lines) == 1 and "classes without images: 1 (n00000000)" in lines[0]


@contextlib.contextmanager
def _as_nobody():
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("inner", ["n00000001", "n00000001/more"])
def test_a_class_that_cannot_be_read_is_an_error(inner):
    """Not an empty one."""
    with tempfile.TemporaryDirectory() as home:     # all may enter it, other than tmp_path
        os.chmod(home, 0o755)
        tree = write_tree(Path(home), classes=2, train=2, val=1) / "train"
        (tree / inner).mkdir(exist_ok=True)
        (tree / inner).chmod(0)
        with _as_nobody(), pytest.raises(FileError, match=f"read the folder .*{inner}: Permission"):
            _list(tree)


@pytest.mark.parametrize("name", ["two\nlines", "re\rturn", "ta\tb", "next\x85line", "sep\u2028",
                                  " before", "after ", "\x1b[31m", b"latin\xff"])
def test_names_that_no_list_of_classes_can_hold(name, tree):
    (Path(os.fsdecode(os.fsencode(tree))) / os.fsdecode(name)).mkdir()
    with pytest.raises(DataError, match="rename the folder") as caught:
        _list(tree)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["tench, Tinca tinca", "naïve café", "日本",
                                  "می\u200cخواهم", "a=b#c"])
def test_names_that_lists_of_classes_hold(name, tree):
    (tree / name).mkdir()
    (tree / name / "a.jpg").touch()
    assert name in _list(tree)[0]


def test_folders_deeper_than_python_s_stack(tree):
    place = tree / "n00000000"
    descriptor = os.open(place, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    assert _list(tree)[1] == PHOTOS
    subprocess.run(["rm", "-rf", place / "d"], check=True)      # deeper than shutil's, too


def test_folders_whose_paths_are_too_long(tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / "nul\0", tmp_path / ("y/" * 3000)):
        with pytest.raises(UserError):
            list_photos(path)
        with pytest.raises(UserError):
            find_images(path)


# ---- files that are no photographs -------------------------------------------------------------

def test_a_photograph_that_became_a_pipe_or_a_terabyte_is_refused(tree):
    photos = FolderPhotos(tree)
    os.unlink(tree / PHOTOS[0])
    os.mkfifo(tree / PHOTOS[0])
    with pytest.raises(FileError, match="train_0.JPEG: it is no regular file"):
        list(PhotoBatches(photos, 4, Decoding(24), train=False).epoch(0))
    os.unlink(tree / PHOTOS[0])
    with open(tree / PHOTOS[0], "wb") as stream:
        try:
            stream.truncate(1 << 40)
        except OSError as error:
            assert error.errno == errno.EFBIG
            pytest.skip("this file system has no files of a terabyte")
    with pytest.raises(FileError, match="1,099,511,627,776 bytes, more than"):
        photos.content(0)


# ---- crops of any shape ------------------------------------------------------------------------

@pytest.mark.parametrize("width, height", [(900, 60), (60, 900), (37, 700), (1500, 41)])
@pytest.mark.parametrize("crops", [1, 10])
def test_a_long_image_is_cropped_as_if_it_were_resized_whole(width, height, crops):
    image = np.asarray(drawn(5, width, height))
    size, short = 56, 64
    whole = _resized(image, *((short, short * width // height) if height < width
                              else (short * height // width, short)))
    bottom, right = whole.shape[0] - size, whole.shape[1] - size
    places = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    found = evaluation_crops(image, size, crops=crops)
    for part, (y, x) in zip(found, places[:1] if crops == 1 else places):
        expected = whole[y:y + size, x:x + size].astype(int)
        assert np.abs(part - expected).max() <= 1
    if crops == 10:
        np.testing.assert_array_equal(found[5:], found[:5, :, ::-1])


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 1_000_000), (1, 1), (1, 2)])
def test_the_crop_of_a_strip_takes_no_more_memory_than_any(shape, monkeypatch):
    import cv2

    resize = cv2.resize

    def bounded(image, size, **options):
        assert size[0] * size[1] < 1 << 22
        return resize(image, size, **options)
    monkeypatch.setattr(cv2, "resize", bounded)
    image = np.full((*shape, 3), (10, 130, 250), np.uint8)
    for crops in (1, 10):
        found = evaluation_crops(image, 224, crops=crops)
        assert found.shape == (crops, 224, 224, 3)
        assert (found == (10, 130, 250)).all()


def test_a_strip_in_a_folder_is_a_photograph(tree):
    Image.new("L", (60_000, 1), 77).save(tree / "n00000000/strip.png")
    for train in (False, True):
        batches = PhotoBatches(FolderPhotos(tree), 5, Decoding(24), train=train)
        (images, labels, _), = batches.epoch(0)
        assert images.shape == (5, 3, 24, 24) and sorted(labels) == [0, 0, 0, 1, 1]
