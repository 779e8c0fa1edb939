"""The bytes of an image file -> 8-bit RGB pixels.

Whatever a file is called, only these formats are opened: JPEG, PNG, BMP, GIF and WebP (their
first frame), TIFF (its first page), the PPM family, and AVIF where Pillow has it. Of the others
that Pillow knows, some start programs and some keep a processor busy for minutes.
"""
import functools
import io
import re
import struct
import warnings

import numpy as np

from common.errors import DataError
from common.screen import printable

__all__ = ["MOST_BYTES", "SUFFIXES", "decode", "image_format",
           "turned_in_evaluation_alone"]

SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".png", ".apng", ".bmp", ".dib",
    ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif"))

MOST_BYTES = 1 << 28        # of a file
_MOST_PIXELS = 1 << 27      # 134 million; a small file may ask for any number

_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
_NOTES = re.compile(rb"Exif|MPF\0")     # of a camera: EXIF, and pictures beside the first
_PNG, _PNG_PIXELS = b"\x89PNG\r\n\x1a\n", (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ORIENTATION, _BITS, _PHOTOMETRIC = 274, 258, 262       # numbers of tags


def decode(content):
    """An RGB image from the bytes of a file, whatever its name says it is.

    Palette, CMYK and grey images become RGB, transparency is dropped, and the rotation that a
    camera noted (EXIF) is carried out; where such notes are damaged, the pixels are taken as
    they lie. 16-bit greys are scaled by 1/257, floats within 0 and 1 by 255.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    DataError
        If the bytes are no complete image, or the scale of its values is not known. The text
        says why, and leaves the file's name to the caller.
    """
    try:
        try:
            return _decoded(content)
        except Exception:
            # Some of Pillow's readers fail at a camera's notes when they open or load a file.
            pixels = _without_notes(content)
            if pixels == content:
                raise
            return _decoded(pixels)
    except DataError:
        raise
    # Of damaged images Pillow raises dozens of kinds; none may cost more than the one image.
    except Exception as error:
        reason = printable(" ".join(str(error)[:200].split()))
        raise DataError(reason or type(error).__name__) from None


def image_format(content):
    """Pillow's name of an image's format; errors as those of `decode`."""
    with _open(content) as image:
        return image.format


def turned_in_evaluation_alone(content):
    """Whether `decode` turns an image that MXNet's iterator takes as it lies.

    The iterator carries out the orientation in a JPEG's EXIF, and no other.
    """
    from PIL import Image

    with _open(content) as image:
        image.load()
        orientation, known = _orientation(image), 1
        if orientation != 1 and image.format in ("JPEG", "MPO"):
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            known = exif.get(_ORIENTATION, 1)
    return orientation != known


@functools.cache
def _formats():
    """Those that this Pillow has."""
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")      # its remarks name no file
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(content):
    """The image, whose pixels are not read yet."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    if not content:
        raise DataError("an empty file")
    # GluonCV, once imported, has Pillow fill the missing part of any file with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        raise DataError("no image in a known format") from None
    if image.width * image.height > _MOST_PIXELS:
        raise DataError(f"its {image.width:,} x {image.height:,} pixels are more than the "
                        f"{_MOST_PIXELS:,} that are accepted")
    if image.format == "TIFF":
        # There Pillow reads all the notes, and fails with the first that is damaged.
        image.load_end = lambda: None
        _check_strips(image)
    return image


def _check_strips(image):
    """What lies in no strip or tile of a TIFF, Pillow leaves black."""
    covered = sum((right - left) * (bottom - top)
                  for left, top, right, bottom in {tuple(tile[1]) for tile in image.tile})
    if covered < image.width * image.height:
        raise DataError("some of its strips are missing")


def _without_notes(content):
    """An image file in which no reader finds what is not pixels."""
    if not content.startswith(_PNG):
        return _NOTES.sub(b"none", content)
    pieces, place = [_PNG], len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        after = place + 12 + length
        if kind in _PNG_PIXELS:
            pieces.append(content[place:after])
        place = after
    return b"".join(pieces)


def _decoded(content):
    from PIL import Image

    with _open(content) as image:
        image.load()
        method = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
                  4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
                  6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
                  8: Image.Transpose.ROTATE_90}.get(_orientation(image))
        deep = image.mode.startswith("I") or image.mode == "F"
        upright = _eight_bits(image) if deep else image
        return (upright.transpose(method) if method is not None else upright).convert("RGB")


def _orientation(image):
    """1 to 8, as EXIF counts them; 1, upright, where nothing sound is noted."""
    try:
        notes = image.tag_v2 if image.format == "TIFF" else image.getexif()
        value = notes.get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:       # of as many kinds as `decode` meets
        return 1


def _eight_bits(image):
    """A grey image of more than 8 bits, in mode L."""
    from PIL import Image

    tags = image.tag_v2 if image.format == "TIFF" else {}
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):
            raise DataError(f"its values are floats from {values.min():.6g} to "
                            f"{values.max():.6g}, not from 0 to 1")
        top = 1.0
    elif tags and image.mode == "I":
        raise DataError("its values are integers with a sign or of 32 bits, whose scale is "
                        "not known")
    else:
        top = 2.0 ** tags.get(_BITS, (16,))[0] - 1
    if tags.get(_PHOTOMETRIC) == 0:         # white is 0, which Pillow heeds in 8 bits alone
        values = top - values
    return Image.fromarray(np.rint(values * (255 / top)).clip(0, 255).astype(np.uint8))
