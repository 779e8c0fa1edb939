"""Folders of small photographs for the ImageNet tests."""
import io
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(image, kind="JPEG", **options):
    """The bytes of an image file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def drawn(seed, width=72, height=60):
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_tree(folder, classes=3, train=6, val=3):
    """train/<class>/ and val/<class>/ with drawn pictures."""
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            place = Path(folder) / part / f"n{label:08d}"
            place.mkdir(parents=True)
            for k in range(count):
                (place / f"{part}_{k}.JPEG").write_bytes(jpeg(drawn(100 * label + k), quality=90))
    return Path(folder)


def odd_files():
    """Files that name or colour their images unusually: name -> bytes."""
    image = drawn(7)
    turned = Image.Exif()
    turned[0x112] = 6
    return {
        "cmyk.JPEG": jpeg(image.convert("CMYK")), "grey.JPEG": jpeg(image.convert("L")),
        "png-inside.JPEG": jpeg(image, "PNG"), "palette.png": jpeg(image.quantize(), "PNG"),
        "alpha.png": jpeg(image.convert("RGBA"), "PNG"), "web.webp": jpeg(image, "WEBP"),
        "deep.png": jpeg(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
                         "PNG"),
        "turned.jpg": jpeg(image, exif=turned.tobytes())}


def broken_files():
    """Files that cannot be decoded: name -> bytes."""
    good = jpeg(drawn(8))
    return {"empty.JPEG": b"", "text.JPEG": b"not an image " * 40,
            "cut.JPEG": good[:len(good) // 2]}
