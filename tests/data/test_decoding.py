"""From the bytes of image files to pixels: odd formats, depths, orientations, damage."""
import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from common.errors import DataError
from data.decoding import decode, turned_in_evaluation_alone
from tests.data.photo_files import broken_files, drawn, jpeg, odd_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::Warning:PIL.Image")


def _grey(content):
    """The decoded image, whose three channels are the same, as (H, W)."""
    pixels = np.asarray(decode(content))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def _exif(orientation, kind="JPEG"):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = orientation, "a camera"
    return jpeg(drawn(7), kind, exif=exif if kind == "TIFF" else exif.tobytes())


@pytest.mark.parametrize("name", odd_files())
def test_odd_files_decode_to_the_same_picture(name):
    image = decode(odd_files()[name])
    expected = drawn(7)
    if name == "turned.jpg":
        expected = expected.transpose(Image.Transpose.ROTATE_270)
    if name.startswith(("grey", "deep")):
        expected = expected.convert("L").convert("RGB")
    assert (image.mode, image.size) == ("RGB", expected.size)
    difference = np.asarray(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("name", broken_files())
def test_broken_files_are_refused_with_a_reason(name, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)    # as GluonCV leaves it
    with pytest.raises(DataError, match="empty file|no image|truncated"):
        decode(broken_files()[name])


# ---- depth -------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("brightest", [200, 30_000, 65_535])
def test_16_bit_greys_are_scaled_alike_whatever_an_image_holds(kind, brightest):
    deep = np.linspace(0, brightest, 48 * 40).reshape(40, 48).astype(np.uint16)
    np.testing.assert_array_equal(_grey(jpeg(Image.fromarray(deep), kind)), np.rint(deep / 257))


def _tiff(values, **tags):
    """A one-strip TIFF, little-endian: values (H, W), tags by name."""
    numbers = {"photometric": 262, "format": 339, "notes": 0xA005}
    height, width = values.shape
    data = values.tobytes()
    entries = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 1, 273: 8,
               277: 1, 278: height, 279: len(data),
               **{numbers[name]: value for name, value in tags.items()}}
    table = b"".join(struct.pack("<HHII", tag, 4 if value > 65535 else 3, 1, value)
                     for tag, value in sorted(entries.items()))
    return (struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data
            + struct.pack("<H", len(entries)) + table + bytes(4))


def test_white_may_be_zero_in_16_bits():
    deep = np.linspace(0, 65535, 12).reshape(3, 4).astype(np.uint16)
    np.testing.assert_array_equal(_grey(_tiff(deep)), np.rint(deep / 257))
    np.testing.assert_array_equal(_grey(_tiff(deep, photometric=0)), 255 - np.rint(deep / 257))


def test_floats_from_0_to_1_are_scaled_and_others_refused():
    floats = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for content in (jpeg(Image.fromarray(floats), "TIFF"), jpeg(Image.fromarray(floats), "PPM")):
        np.testing.assert_array_equal(_grey(content), np.rint(floats * 255))
    for wrong in (floats * 255, floats - 0.5, floats * np.float32("nan")):
        with pytest.raises(DataError, match="floats from .* to .*, not from 0 to 1"):
            decode(jpeg(Image.fromarray(wrong), "TIFF"))


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int16])
def test_integers_of_no_known_scale_are_refused(kind):
    sample_format = 1 if kind == np.uint32 else 2
    with pytest.raises(DataError, match="with a sign or of 32 bits"):
        decode(_tiff(np.ones((3, 4), kind), format=sample_format))


def test_missing_strips_are_no_black_pixels():
    whole = _tiff(np.full((4, 4), 200, np.uint8))
    taller = whole.replace(struct.pack("<HHII", 257, 3, 1, 4), struct.pack("<HHII", 257, 3, 1, 9))
    assert (_grey(whole) == 200).all()
    with pytest.raises(DataError, match="strips are missing"):
        decode(taller)


# ---- orientation -------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_orientation_is_carried_out(kind, orientation):
    a = np.asarray(drawn(7))
    expected = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.swapaxes(0, 1),
                6: a[::-1].swapaxes(0, 1), 7: a[::-1, ::-1].swapaxes(0, 1),
                8: a[:, ::-1].swapaxes(0, 1)}[orientation]
    content = _exif(orientation, kind)
    pixels = np.asarray(decode(content), int)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 8
    assert turned_in_evaluation_alone(content) == (kind != "JPEG" and orientation != 1)


@pytest.mark.parametrize("damage", [b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\xff", b"?" * 8])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", pytest.param(
    "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF"))])
def test_sound_pixels_with_broken_notes_are_an_image(kind, damage):
    sound = _exif(1, kind)
    at = sound.index(b"MM\0*")
    broken = sound[:at] + damage + sound[at + len(damage):]
    assert broken != sound
    np.testing.assert_array_equal(np.asarray(decode(broken)), np.asarray(decode(sound)))


def test_a_tiff_with_broken_notes_is_an_image():
    values = np.arange(80, dtype=np.uint8).reshape(8, 10)
    broken = _tiff(values, notes=10).replace(struct.pack("<HHI", 0xA005, 3, 1),
                                             struct.pack("<HHI", 0xA005, 7, 3))
    with pytest.raises(KeyError), Image.open(io.BytesIO(broken)) as image:
        image.load()
    np.testing.assert_array_equal(_grey(broken), values)


def test_a_damaged_list_of_further_pictures_costs_only_them():
    several = jpeg(drawn(7), "MPO", save_all=True, append_images=[drawn(8)])
    at = several.index(b"MPF\0") + 4
    broken = several[:at + 12] + bytes(60) + several[at + 72:]
    np.testing.assert_array_equal(np.asarray(decode(broken)), np.asarray(decode(several)))


# ---- formats and sizes -------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM"])
def test_the_formats_that_are_opened(kind):
    image = decode(jpeg(drawn(7), kind))
    assert image.size == (72, 60)
    assert np.abs(np.asarray(image, int) - np.asarray(drawn(7))).mean() < 12


@pytest.mark.parametrize("kind", ["EPS", "DDS", "ICO", "TGA", "PCX", "SGI", "ICNS", "PDF"])
def test_other_formats_are_not_opened_whatever_the_file_is_called(kind):
    with pytest.raises(DataError, match="no image in a known format"):
        decode(jpeg(drawn(7), kind))


def test_the_first_picture_of_several_is_taken():
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        content = jpeg(drawn(7), kind, save_all=True, append_images=[drawn(8)])
        assert np.abs(np.asarray(decode(content), int) - np.asarray(drawn(7))).mean() < 12, kind


def test_a_small_file_cannot_ask_for_any_number_of_pixels():
    content = io.BytesIO()
    Image.new("1", (40_000, 4_000)).save(content, "PNG")
    with pytest.raises(DataError, match="40,000 x 4,000 pixels are more than"):
        decode(content.getvalue())


def test_reasons_are_one_printable_line(monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("first\nsecond \x1b[31mred " + "x" * 5000)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError) as caught:
        decode(jpeg(drawn(7)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300
