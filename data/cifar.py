"""CIFAR-10 and CIFAR-100 from the official binary files.

A CIFAR-10 record is 3073 bytes: the label, then 1024 red, 1024 green and 1024 blue bytes,
each plane row by row. A CIFAR-100 record is 3074 bytes: the coarse label (its superclass,
0 to 19), the fine one (0 to 99), then the pixels. Any whole number of records is a valid
file, so a prefix of the data set is a data set; some of CIFAR-10's batch files may be empty.

The files are looked for in the data folder and in the folder of the official archive
inside it. If they are missing, the archive is downloaded: another URL is held to the same
MD5 sum unless it ends in ``#md5=HEX``, which states its own.

Images leave here as they are in the files: cropping, and the border (padding) that an image gets
before, are in `data.batches`.

CIFAR-100 comes in three forms. ``cifar100`` has the 100 fine labels. ``cifar100-coarse`` has
the 20 superclasses, under 20 outputs. ``cifar100-authors`` has the 20 superclasses under 100
outputs: what the authors of "Attention as Activation" trained on, since
``gluon.data.vision.CIFAR100`` gives coarse labels unless it is told ``fine_label=True`` (they
said so for their next paper: YimianDai/open-aff, issue 14).

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""
import dataclasses
import os
from functools import partial
from pathlib import Path

from common.errors import DataError
from common.files import home_path, read_bytes, read_text, scratch_folder
from data.dataset import DATASETS, Dataset, ImageSet

__all__ = ["CIFAR10", "CIFAR100", "CIFAR100_AUTHORS", "CIFAR100_COARSE", "MEAN", "STD"]

# The values of the reference implementation, which uses those of CIFAR-10 for CIFAR-100
# too. The standard deviation over all pixels of CIFAR-10 is (0.247, 0.243, 0.262); these
# smaller values are the mean of the images' own deviations. Kept to reproduce the paper.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

_IMAGE_BYTES = 3 * 32 * 32
_MOST_FILE_BYTES = 1 << 30      # five times what the largest official file has
_NAMES_FILE_BYTES = 1 << 16    # far more than a list of 100 class names needs
_NAMES_FILES = ("batches.meta.txt", "fine_label_names.txt", "coarse_label_names.txt")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The official files of one CIFAR."""

    name: str
    title: str
    url: str
    md5: str
    subfolder: str
    train_files: tuple
    test_files: tuple
    names_file: str
    label_bytes: int
    label_at: int               # which of them is the label
    classes: int
    train_records: int          # in the complete set
    test_records: int
    outputs: int = None         # of the network, where they are not as many as the classes

    @property
    def record_bytes(self):
        return self.label_bytes + _IMAGE_BYTES

    @property
    def files(self):
        return self.train_files + self.test_files

    @property
    def max_bytes(self):
        """File name -> size of the official file, for all that is unpacked."""
        train = self.train_records // len(self.train_files) * self.record_bytes
        test = self.test_records // len(self.test_files) * self.record_bytes
        return {**dict.fromkeys(self.train_files, train), **dict.fromkeys(self.test_files, test),
                **dict.fromkeys(_NAMES_FILES, _NAMES_FILE_BYTES)}


CIFAR10 = _Layout(
    name="cifar10", title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    subfolder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    names_file="batches.meta.txt",
    label_bytes=1, label_at=0, classes=10, train_records=50000, test_records=10000)

CIFAR100 = _Layout(
    name="cifar100", title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    subfolder="cifar-100-binary",
    train_files=("train.bin",),
    test_files=("test.bin",),
    names_file="fine_label_names.txt",
    label_bytes=2, label_at=1, classes=100, train_records=50000, test_records=10000)

CIFAR100_COARSE = dataclasses.replace(
    CIFAR100, name="cifar100-coarse", title="CIFAR-100 (20 superclasses)",
    names_file="coarse_label_names.txt", label_at=0, classes=20)

CIFAR100_AUTHORS = dataclasses.replace(
    CIFAR100_COARSE, name="cifar100-authors", title="CIFAR-100 (as the authors had it)",
    outputs=100)


def _load(layout, data_dir, data_url, log):
    # All forms of CIFAR-100 are in one place.
    default = Path("~", ".mxnet", "datasets", layout.name.split("-")[0])
    root = home_path(data_dir or default, "--data-dir")
    try:
        folder = _find(layout, root)
    except OSError as error:
        raise DataError(f"{layout.title}: cannot read {error.filename}: {error.strerror}"
                        ) from error
    folder = folder or _download(layout, root, data_url or layout.url, log)
    train, test = (_read(layout, folder, files) for files in
                   (layout.train_files, layout.test_files))
    return Dataset(name=layout.name, title=layout.title,
                   class_names=_class_names(layout, folder), mean=MEAN, std=STD, train=train,
                   val=test, test=test, official_train=layout.train_records,
                   official_test=layout.test_records, outputs=layout.outputs)


def _find(layout, root):
    """The folder with all the files, or None if there is none of them.

    Some of them are an error: the rest of another copy must not complete them unasked.
    """
    partial = None
    for folder in (root, root / layout.subfolder):
        # One look at the folder: another process may be about to move a complete one here.
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing = [file for file in layout.files if file not in present]
        if not missing:
            return folder
        if len(missing) < len(layout.files):
            partial = partial or (folder, missing)
    if partial:
        folder, missing = partial
        raise DataError(f"{layout.title}: {folder} has some of the files but lacks "
                        f"{', '.join(missing)}; complete it, or remove the others to download all")
    return None


def _download(layout, root, url, log):
    """Download and unpack the archive into `root`; returns the folder with the files."""
    from data.download import fetch, unpack

    folder = root / layout.subfolder
    log(f"{layout.title}: not in {root}; downloading {url}")
    try:
        with scratch_folder(root, "download") as temporary:
            archive, unpacked = temporary / "archive.tar.gz", temporary / layout.subfolder
            unpacked.mkdir()
            fetch(url, layout.md5, archive, log)
            unpack(archive, unpacked, layout.max_bytes, optional=_NAMES_FILES)
            _move(unpacked, folder)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{layout.title} is not in {root} and could not be downloaded from {url}: {error}. "
            f"Put {', '.join(layout.files)} there, name another --data-dir or --data-url, "
            "or try --dataset shapes, which needs no files") from error
    found = _find(layout, root)
    log(f"{layout.title}: unpacked into {found}")
    return found


def _move(unpacked, folder):
    """Rename `unpacked` to `folder` in one step, unless another process was faster."""
    try:
        os.rename(unpacked, folder)
    except OSError:
        if not folder.is_dir() or not any(folder.iterdir()):
            raise


def _read(layout, folder, files):
    """The records of several files as one ImageSet."""
    import numpy as np

    records = [_records(layout, folder / file) for file in files]
    labels = np.concatenate([part[:, layout.label_at] for part in records]).astype(np.int32)
    if not len(labels):
        raise DataError(f"{layout.title}: no records at all in {', '.join(files)} of {folder}")
    images = np.concatenate([part[:, layout.label_bytes:] for part in records])
    return ImageSet(images.reshape(-1, 3, 32, 32), labels)


def _records(layout, path):
    """The records of a file, uint8, (N, bytes of a record)."""
    import numpy as np

    content = read_bytes(path, _MOST_FILE_BYTES)
    whole, rest = divmod(len(content), layout.record_bytes)
    if rest:
        raise DataError(f"{layout.title}: {path} has {len(content):,} bytes, which is "
                        f"not a whole number of {layout.record_bytes:,}-byte records: record "
                        f"{whole} (counted from 0) ends after {rest:,} bytes")
    records = np.frombuffer(content, np.uint8).reshape(whole, layout.record_bytes)
    _check_labels(layout, path, records[:, layout.label_at])
    return records


def _check_labels(layout, path, labels):
    wrong = labels >= layout.classes
    if wrong.any():
        record = int(wrong.argmax())
        raise DataError(f"{layout.title}: {path}: record {record} (counted from 0) has "
                        f"the label {labels[record]}; labels are 0 to {layout.classes - 1}")


def _class_names(layout, folder):
    """The names beside the data, or the numbers if there are none."""
    path = folder / layout.names_file
    if not os.path.lexists(path):
        return [str(label) for label in range(layout.classes)]
    names = read_text(path, _NAMES_FILE_BYTES).split()
    if len(names) != layout.classes:
        raise DataError(f"{layout.title}: {path} has {len(names)} names for "
                        f"{layout.classes} classes")
    return names


for _layout in (CIFAR10, CIFAR100, CIFAR100_COARSE, CIFAR100_AUTHORS):
    DATASETS.register(_layout.name)(partial(_load, _layout))
