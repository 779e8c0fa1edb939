"""Small made-up CIFAR files and archives for the tests."""
import hashlib
import io
import tarfile

import numpy as np

from data.cifar import CIFAR10, CIFAR100, CIFAR100_AUTHORS, CIFAR100_COARSE

LAYOUTS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "cifar100-coarse": CIFAR100_COARSE,
           "cifar100-authors": CIFAR100_AUTHORS}


def records(layout, count, seed=0):
    """`count` records with labels 0, 1, 2 ... and random pixels, as (count, bytes)."""
    block = np.random.RandomState(seed).randint(0, 256, (count, layout.record_bytes))
    block = block.astype(np.uint8)
    block[:, :layout.label_bytes] %= 10     # whichever of them is not the label is one, too
    block[:, layout.label_at] = np.arange(count) % layout.classes
    return block


def write_set(folder, layout, per_file=20):
    """Write all files of a layout, each with `per_file` records; returns them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: records(layout, per_file, seed) for seed, name in enumerate(layout.files)}
    for name, block in content.items():
        (folder / name).write_bytes(block.tobytes())
    return content


def names_text(layout):
    return "".join(f"class{label}\n" for label in range(layout.classes)).encode()


def member(name, content=b"", **attributes):
    """A tar member and its content."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def good_members(layout, per_file=5):
    """Members as in the official archive, with few records."""
    folder = layout.subfolder
    members = [member(folder, type=tarfile.DIRTYPE, mode=0o755),
               member(f"{folder}/readme.html", b"<html></html>"),
               member(f"{folder}/{layout.names_file}", names_text(layout))]
    return members + [member(f"{folder}/{name}", records(layout, per_file, seed).tobytes())
                      for seed, name in enumerate(layout.files)]


def archive(members):
    """Bytes of a .tar.gz, and their MD5 sum."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    return content, hashlib.md5(content).hexdigest()
