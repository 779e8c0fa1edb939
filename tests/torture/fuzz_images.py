"""Damage images of every format that is opened, in thousands of ways, and read them.

    python -m tests.torture.fuzz_images --count 300 --seed 0

Each damaged image goes through decoding and cropping as in training and evaluation, in batches
through packing and verification, and through gradcam's reading. Each must give pixels or one
printable line that says why not, in a few seconds, and cost no other image anything; images of
other formats must be refused, whatever their names say. A crash ends this script, of course.
"""
import argparse
import collections
import contextlib
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

from common.errors import DataError
from data.decoding import decode
from data.imagenet import RecordFile
from data.packing import pack, verify
from data.photos import evaluation_crops, random_part
from data.streams import bit_stream
from explain.images import file_pictures, image_files
from tests.data.photo_files import drawn, jpeg
from tests.torture import fuzzing

SECONDS = 30
BATCH = 50      # images that are packed together


# ---- images ------------------------------------------------------------------------------------

def _exif():
    notes = Image.Exif()
    notes[0x112], notes[0x10F], notes[0x11A] = 6, "a camera", 72.0
    return notes


def images():
    """Name -> bytes of a sound image, in every format and many forms."""
    picture, other = drawn(3), drawn(4)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    real = Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
    notes, more = {"exif": _exif().tobytes()}, {"save_all": True, "append_images": [other]}
    return {
        "JPEG": jpeg(picture), "JPEG with EXIF": jpeg(picture, **notes),
        "progressive JPEG": jpeg(picture, progressive=True),
        "CMYK JPEG": jpeg(picture.convert("CMYK")), "grey JPEG": jpeg(picture.convert("L")),
        "MPO": jpeg(picture, "MPO", **more), "PNG": jpeg(picture, "PNG"),
        "PNG with EXIF": jpeg(picture, "PNG", **notes),
        "palette PNG": jpeg(picture.quantize(), "PNG"),
        "16-bit PNG": jpeg(deep, "PNG"), "animated PNG": jpeg(picture, "PNG", **more),
        "BMP": jpeg(picture, "BMP"), "DIB": jpeg(picture, "DIB"), "GIF": jpeg(picture, "GIF"),
        "animated GIF": jpeg(picture, "GIF", **more), "TIFF": jpeg(picture, "TIFF"),
        "TIFF with EXIF": jpeg(picture, "TIFF", exif=_exif()),
        "LZW TIFF": jpeg(picture, "TIFF", compression="tiff_lzw"),
        "JPEG in TIFF": jpeg(picture, "TIFF", compression="jpeg"),
        "fax TIFF": jpeg(picture.convert("1"), "TIFF", compression="group4"),
        "16-bit TIFF": jpeg(deep, "TIFF"), "float TIFF": jpeg(real, "TIFF"),
        "TIFF of two pages": jpeg(drawn(3), "TIFF", save_all=True, append_images=[drawn(4)]),
        "WebP": jpeg(picture, "WEBP"),
        "WebP with EXIF": jpeg(picture, "WEBP", **notes),
        "lossless WebP": jpeg(picture, "WEBP", lossless=True),
        "animated WebP": jpeg(picture, "WEBP", **more), "PPM": jpeg(picture, "PPM"),
        "PGM": jpeg(picture.convert("L"), "PPM"), "PBM": jpeg(picture.convert("1"), "PPM"),
        "16-bit PGM": jpeg(deep, "PPM"), "PFM": jpeg(real, "PPM"),
        "text PPM": b"P3 4 3 255\n" + b"17 " * 36,
        **({"AVIF": jpeg(picture, "AVIF"), "AVIF with EXIF": jpeg(picture, "AVIF", **notes)}
           if features.check("avif") else {})}


def strangers():
    """Name -> bytes of images of formats that are not opened."""
    return {kind: jpeg(drawn(3), kind) for kind in ("EPS", "DDS", "ICO", "ICNS", "TGA", "PCX",
                                                    "SGI", "PDF", "JPEG2000")}


# ---- damage ------------------------------------------------------------------------------------

def _overwrite_the_head(rng, content):
    """Where formats say how large and of what kind an image is."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 7))):
        out[int(rng.integers(0, min(len(out), 400)))] = int(rng.choice((0, 1, 127, 255, 73)))
    return bytes(out)


def _overwrite_the_notes(rng, content):
    """In EXIF and the like, if there are any."""
    starts = [at for mark in (b"Exif", b"EXIF", b"eXIf", b"MPF\0", b"MM\0*", b"II*\0")
              if (at := content.find(mark, 4)) > 0]
    if not starts:
        return _overwrite_the_head(rng, content)
    start, out = int(rng.choice(starts)), bytearray(content)
    for _ in range(int(rng.integers(1, 7))):
        place = start + int(rng.integers(0, 120))
        if place < len(out):
            out[place] = int(rng.integers(0, 256))
    return bytes(out)


def _sealed(content):
    """With the sums and sizes that make a reader look further."""
    if content[:4] == b"RIFF" and len(content) >= 8:
        return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    if content[:4] != b"\x89PNG":
        return content
    out, place = bytearray(content[:8]), 8
    while place + 12 <= len(content):
        length, = struct.unpack_from(">I", content, place)
        chunk = content[place + 4:place + 8 + length]
        out += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return bytes(out)


_DAMAGES = (fuzzing.truncate, fuzzing.flip_bits, fuzzing.cut_out, fuzzing.put_in,
            fuzzing.repeat_a_part, _overwrite_the_head, _overwrite_the_head, _overwrite_the_notes,
            _overwrite_the_notes)


def damaged(rng, content):
    """A mutant."""
    for _ in range(int(rng.integers(1, 3))):
        content = _DAMAGES[int(rng.integers(0, len(_DAMAGES)))](rng, content or b"\0")
    return _sealed(content) if rng.random() < 0.5 else content


# ---- reading -----------------------------------------------------------------------------------

class _TooSlow(BaseException):
    """Past every `except Exception`."""


@contextlib.contextmanager
def _patience():
    def stop(number, frame):
        raise _TooSlow(f"no end after {SECONDS} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def decoded(content):
    """'read' or 'refused' as it should be, or what went wrong."""
    try:
        with _patience():
            image = decode(content)
            pixels = np.asarray(image)
            crops = evaluation_crops(pixels, 32, crops=10)
            part = random_part(pixels, 32, bit_stream(0, "fuzz"))
    except DataError as error:
        line = str(error)
        return "refused" if line.isprintable() and 0 < len(line) < 300 else f"unclear: {line!a}"
    except (Exception, _TooSlow) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    sound = (image.mode == "RGB" and pixels.shape == (*image.size[::-1], 3)
             and crops.shape == (10, 32, 32, 3) and part.shape == (32, 32, 3))
    return "read" if sound else f"wrong shape: {image.mode} {pixels.shape}"


def check_together(contents, verdicts):
    """Pack, verify and draw a batch; AssertionError if one image costs another anything.

    Parameters
    ----------
    contents : list of bytes
    verdicts : list of str
        Of `decoded`.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree, out, lines = Path(folder, "tree"), Path(folder, "out"), []
        for part in ("train", "val"):
            (tree / part / "class").mkdir(parents=True)
            (tree / part / "class/sound.png").write_bytes(jpeg(drawn(1), "PNG"))
        for k, content in enumerate(contents):
            (tree / "train/class" / f"{k}.jpg").write_bytes(content)
        with _patience():
            pack(tree, out, resize=48, workers=1, log=lines.append)
        skipped = (out / "skipped.txt").read_text().splitlines() if (
            out / "skipped.txt").exists() else []
        packed = len(RecordFile(out / "train.rec"))
        assert packed + len(skipped) == len(contents) + 1, (packed, len(skipped))
        too_long = [line for line in skipped if "too long for a JPEG" in line]
        assert packed == verdicts.count("read") - len(too_long) + 1
        assert all(line.isprintable() for line in skipped)
        assert verify(out, 1, lines.append) == 0, lines
        lines.clear()
        with _patience():
            pictures = file_pictures(image_files([tree / "train"]), 32, ["class"], lines.append)
        assert len(pictures) == verdicts.count("read") + 1
        assert len(lines) == len(contents) - verdicts.count("read")


def fuzz(kind, count, seed=0, log=print):
    """Try `count` mutants of one kind of image; returns a Counter of verdicts."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    sound, counts, slowest = {**images(), **strangers()}[kind], collections.Counter(), 0.0
    assert decoded(sound) == ("refused" if kind in strangers() else "read"), kind
    for start in range(0, count, BATCH):
        contents = [damaged(rng, sound) for _ in range(min(BATCH, count - start))]
        verdicts = []
        for number, content in enumerate(contents, start):
            began = time.monotonic()
            verdicts.append(decoded(content))
            slowest = max(slowest, time.monotonic() - began)
            if verdicts[-1] not in ("read", "refused"):
                log(f"{kind}, mutant {number} (seed {seed}): {verdicts[-1]}")
        try:
            check_together(contents, verdicts)
        except (AssertionError, Exception, _TooSlow) as error:
            log(f"{kind}, mutants from {start} (seed {seed}): {type(error).__name__}: {error}")
            verdicts.append("a batch failed")
        counts.update(verdict if verdict in ("read", "refused") else "bad" for verdict in verdicts)
    log(f"{count:,} mutants of {kind}: {counts['read']:,} read, {counts['refused']:,} refused, "
        f"{counts['bad']:,} bad; the slowest took {slowest:.2f} s")
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="mutants of each kind "
                                                               "(default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants (default: 0)")
    parser.add_argument("--kind", help="only this kind")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else [*images(), *strangers()]
    total = collections.Counter()
    for kind in kinds:
        total += fuzz(kind, options.count, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(total.values()):,} mutants of {len(kinds)} kinds: {total['read']:,} read, "
          f"{total['refused']:,} refused, {total['bad']:,} bad; at most {peak:,.0f} MB of memory")
    return 1 if total["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
