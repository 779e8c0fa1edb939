"""Pictures of a user's files: what is used, what is named, and files that are none."""
import os

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from explain.images import file_pictures, image_files
from tests.data.photo_files import broken_files, drawn, jpeg, odd_files


@pytest.fixture
def folder(tmp_path):
    """Images of many kinds, and what is none."""
    (tmp_path / "in/star").mkdir(parents=True)
    for name, content in {**odd_files(), **broken_files()}.items():
        (tmp_path / "in/star" / name).write_bytes(content)
    (tmp_path / "in/notes.txt").touch()
    (tmp_path / "in/.hidden.jpg").touch()
    return tmp_path / "in"


def test_bad_files_cost_the_others_nothing_and_are_named(folder):
    lines = []
    paths = image_files([folder], lines.append)
    pictures = file_pictures(paths, 32, ["star"], lines.append)
    assert {picture.title for picture in pictures} == set(odd_files())
    assert {picture.label for picture in pictures} == {"star"}
    assert lines[0] == f"{folder}: not used: 1 (notes.txt (no image by its name))"
    assert [line.split("/star/")[1].split(" cannot")[0] for line in lines[1:]] == sorted(
        broken_files())


def test_no_image_at_all_is_an_error(folder):
    broken = [folder / "star" / name for name in sorted(broken_files())]
    with pytest.raises(UserError, match="cut.JPEG cannot be read as an image: .*; nor can any"):
        file_pictures(broken, 32, [])
    with pytest.raises(UserError, match="there is no image"):
        image_files([folder / ("x" * 300)])
    with pytest.raises(UserError, match="there is no image nul"):
        image_files(["nul\0"])


@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte", "loop"])
def test_files_that_are_no_image_files(kind, tmp_path):
    path = tmp_path / "x.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "terabyte":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(UserError, match="x.jpg cannot be read as an image: cannot read"):
        file_pictures(image_files([path]), 32, [])


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1)])
def test_strips_have_a_middle(size, tmp_path):
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / "x.png")
    picture, = file_pictures([tmp_path / "x.png"], 32, [])
    assert picture.pixels.shape == (3, 32, 32) and picture.shown.shape == (32, 32, 3)
    assert (picture.shown == (10, 200, 90)).all()


def test_titles_are_printable(tmp_path):
    (tmp_path / "a\n\x1b[31m.jpg").write_bytes(jpeg(drawn(0)))
    (tmp_path / os.fsdecode(b"latin\xff.jpg")).write_bytes(jpeg(drawn(0)))
    pictures = file_pictures(image_files([tmp_path]), 32, [])
    assert [picture.title for picture in pictures] == [r"a\n\x1b[31m.jpg", r"latin\udcff.jpg"]
    assert all(np.array_equal(picture.pixels, pictures[0].pixels) for picture in pictures)
