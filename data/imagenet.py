"""ImageNet and data sets like it: RecordIO files, or folders of images.

    dataset, train, val = open_imagenet(rec_train="train.rec", rec_val="val.rec", ...)

A record file ``NAME.rec`` has its index beside it (``NAME.idx``: number and place of each
record) and, where this project packed it, ``NAME.lst`` (number, label and name) and
``synset.txt`` (the classes in the order of their labels).

    python -m data.imagenet pack FOLDER OUT     # train/<class>/..., val/<class>/... -> OUT
    python -m data.imagenet verify OUT
    python -m data.imagenet index FILE.rec
"""
import dataclasses
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice

import numpy as np

from common.errors import DataError, run_script
from common.files import home_path, open_file, read_text
from common.screen import printable
from data.batches import EpochBatches
from data.dataset import DatasetInfo
from data.decoding import decode, image_format
from data.photos import Decoding, FolderPhotos, PhotoBatches, list_classes
from data.recordio import read_head, read_image_record
from data.streams import bit_stream

__all__ = ["ImageNetData", "RecordFile", "RecordBatches", "undecodable", "open_imagenet",
           "validation_batches", "MEAN", "STD"]

# The authors' values, on the scale where a pixel is in [0, 1].
MEAN = tuple(value / 255 for value in (123.68, 116.779, 103.939))
STD = tuple(value / 255 for value in (58.393, 57.12, 57.375))

# Formats that the decoder inside MXNet's iterator reads.
_ITERATOR_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "PPM")
_MOST_LIST_BYTES = 1 << 28      # of .idx, .lst and synset.txt
_NO_INDEX_LINE = re.compile(rb"^(?!\d{1,18}[\t ]+\d{1,18}\r?$)", re.MULTILINE)
_HEADS_AT_ONCE = 4096
_MOST_NAMED = 5                 # of records that cannot be decoded


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageNetData(DatasetInfo):
    """What is known of the data apart from the images.

    Parameters
    ----------
    num_train, num_val : int
        Images; 0 training images where only a validation set was opened.

    The others are those of `DatasetInfo`.
    """

    num_train: int = 0
    num_val: int
    mean: tuple = MEAN
    std: tuple = STD
    val_name: str = "validation"

    @property
    def description(self):
        """One line that counts images and classes."""
        train = f"{self.num_train:,} training and " if self.num_train else ""
        return (f"{self.title}: {train}{self.num_val:,} validation "
                f"images of {self.classes:,} classes, {self.image_size} x {self.image_size} pixels")


# ---- record files ------------------------------------------------------------------------------

class RecordFile:
    """A RecordIO file of images with its index.

    Parameters
    ----------
    rec : str or pathlib.Path
        ``~`` stands for the home folder.
    idx : str or pathlib.Path, optional
        ``NAME.idx`` beside it if not given.

    Raises
    ------
    DataError, FileError
        If a file is missing, or the index does not fit: that it names every record of the file
        is seen from the first bytes of each. MXNet's iterator would otherwise read others, or
        end the process.

    Attributes
    ----------
    labels : numpy.ndarray
        int32, (N,): those in the headers, in the order of the index.
    """

    def __init__(self, rec, idx=None):
        self.rec = home_path(rec)
        self.idx = home_path(idx) if idx else self.rec.with_suffix(".idx")
        self._hint = f"make it anew with `python -m data.imagenet index {self.rec}`"
        for path, hint in ((self.rec, "pack images with `python -m data.imagenet pack`"),
                           (self.idx, self._hint)):
            if not os.path.lexists(path):
                raise DataError(f"there is no file {path}; {hint}")
        self._stream, self._index = open_file(self.rec), open_file(self.idx, _MOST_LIST_BYTES)
        self.keys, self.places = self._read_index()
        self.labels = self._read_labels()

    def _read_index(self):
        content = self._index.read(_MOST_LIST_BYTES).rstrip()
        if not content or _NO_INDEX_LINE.search(content):
            raise DataError(f"{self.idx} is not the index of a record file; {self._hint}")
        keys, places = np.fromstring(content, np.int64, sep=" ").reshape(-1, 2).T
        for what, values in (("number", keys), ("place", places)):
            once, counts = np.unique(values, return_counts=True)
            if len(once) < len(values):
                raise self._misfit(f"the {what} {once[counts.argmax()]} stands in it "
                                   f"{counts.max()} times")
        if places.max() >= os.fstat(self._stream.fileno()).st_size:
            raise self._misfit(f"it ends before byte {places.max()}")
        return keys, places

    def _misfit(self, reason):
        return DataError(f"{self.idx} is not the index of {self.rec}: {reason}; {self._hint}")

    def __len__(self):
        return len(self.keys)

    @cached_property
    def listing(self):
        """Record number -> (label, name), from the .lst file; empty without one."""
        path = self.rec.with_suffix(".lst")
        if not os.path.lexists(path):
            return {}
        rows = [line.split("\t") for line in _lines(path)]
        try:
            return {int(row[0]): (int(float(row[1])), printable(row[-1])) for row in rows}
        except (ValueError, IndexError, OverflowError):
            raise DataError(f"{path} is not the list of a record file") from None

    def class_names(self):
        """From synset.txt, else numbers up to the largest label there is."""
        synset = self.rec.with_name("synset.txt")
        if os.path.lexists(synset):
            return [line.strip() for line in _lines(synset)]
        labels = [label for label, _ in self.listing.values()] or self.labels.tolist()
        if not 0 <= min(labels) <= max(labels) < 1 << 20:
            raise DataError(f"{self.rec} has labels from {min(labels)} to {max(labels)}")
        return [str(label) for label in range(max(labels) + 1)]

    def _read_labels(self):
        starts = range(0, len(self), _HEADS_AT_ONCE)
        with ThreadPoolExecutor(8) as pool:     # for disks that answer several at once
            heads = [head for part in pool.map(self._heads, starts) for head in part]
        labels, ends = zip(*heads)
        order = np.argsort(self.places)
        begins, ends = self.places[order], np.array(ends)[order]
        for expected, begin in zip((0, *ends.tolist()),
                                   (*begins.tolist(), os.fstat(self._stream.fileno()).st_size)):
            if expected != begin:
                raise self._misfit(f"it leaves out what begins at byte {expected:,}")
        return np.array(labels, np.int32)

    def _heads(self, start):
        """(label, end) of some records in a row."""
        heads = []
        for number in range(start, min(start + _HEADS_AT_ONCE, len(self))):
            try:
                header, end = read_head(self._stream.fileno(), int(self.places[number]))
            except DataError as error:
                raise self._misfit(f"{self.name(number)}: {error}") from None
            heads.append((header.label, end))
        return heads

    def name(self, number):
        """Record `number` (its place in the index) for people: number, file, name."""
        key = int(self.keys[number])
        known = f" ({self.listing[key][1]})" if key in self.listing else ""
        return f"record {key} of {printable(self.rec)}{known}"

    def content(self, number):
        """Bytes of the image in record `number` (its place in the index)."""
        return self.unpack(number)[1]

    def unpack(self, number):
        """`data.recordio.Header` and bytes of record `number`."""
        try:
            return read_image_record(self._stream.fileno(), int(self.places[number]))
        except OSError as error:
            reason = error.strerror
        except DataError as error:
            reason = error
        raise DataError(f"{self.name(number)} cannot be read: {reason}")

    def mxnet_paths(self):
        """Record file and index as MXNet is to be told.

        In a path, ``#``, ``?`` and ``;`` have a meaning for MXNet; the open files' own names
        have none of them.
        """
        paths = [(f"/proc/self/fd/{stream.fileno()}", path) for stream, path in (
            (self._stream, self.rec), (self._index, self.idx))]
        return [own if os.path.exists(own) else str(path) for own, path in paths]


def _lines(path):
    """Lines of a text file that are not empty. Only a newline ends a line: names hold others."""
    lines = read_text(path, _MOST_LIST_BYTES).split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]


def undecodable(record_file):
    """Yield a line for each record that MXNet's iterator cannot decode: number, name, reason."""
    for number in range(len(record_file)):
        if number and number % 20000 == 0:
            print(f"looking for the damaged record: {number:,} of {len(record_file):,} read",
                  file=sys.stderr)
        try:
            content = record_file.content(number)
            decode(content)
            if image_format(content) not in _ITERATOR_FORMATS:
                raise DataError(f"MXNet's iterator does not read {image_format(content)} images")
        except DataError as error:
            yield f"{record_file.name(number)}: {error}"


class RecordBatches(EpochBatches):
    """Training batches of a record file, made by MXNet's ``ImageRecordIter``.

    The iterator is made anew for each epoch, seeded from (seed, epoch), so an epoch depends
    neither on those before it nor on the number of threads. Batches are whole; what remains
    of an epoch's random order is left out. Each worker trains on its own part of the file.

    Evaluation goes through `PhotoBatches`: the iterator's last batch rolls over into the next
    pass (so the authors' validation counted images twice, or never), and where it resizes, an
    image that cannot be decoded ends the process with a division by zero.

    Parameters
    ----------
    source : RecordFile
    decoding : data.photos.Decoding

    The others are those of `EpochBatches`.
    """

    ahead = 0    # the iterator does that

    def __init__(self, source, batch_size, decoding, seed=0, shard=(0, 1)):
        super().__init__(source, batch_size, seed, shard=shard)
        self.decoding = decoding

    def __len__(self):
        total, parts = len(self.source), self.shard[1]
        # The last part is the smallest: MXNet gives the others ceil(total / parts).
        return (total - -(-total // parts) * (parts - 1)) // self.batch_size

    def settings(self, epoch):
        """Arguments of ``mx.io.ImageRecordIter`` for an epoch."""
        order, augmentation = (bit_stream(self.seed, "records", epoch).random_raw(2)
                               >> np.uint64(34)).tolist()
        rec, idx = self.source.mxnet_paths()
        return {"path_imgrec": rec, "path_imgidx": idx,
                "data_shape": (3, self.decoding.size, self.decoding.size),
                "batch_size": self.batch_size,
                "preprocess_threads": max(self.decoding.workers, 1), "verbose": False,
                # Normalised on the device, as everywhere here: a quarter of the bytes to move.
                "dtype": "uint8", "shuffle": True, "seed": order, "seed_aug": augmentation,
                "num_parts": self.shard[1], "part_index": self.shard[0],
                "rand_mirror": True, "random_resized_crop": True,
                "min_aspect_ratio": 3 / 4, "max_aspect_ratio": 4 / 3,
                "min_random_area": 0.08, "max_random_area": 1.0,
                "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "pca_noise": 0.1}

    def _batches(self, epoch, start):
        """See `EpochBatches.epoch`; MXNet does not tell the indices: they are None.

        The images before `start` are decoded and dropped.

        Raises
        ------
        DataError
            If a record cannot be decoded; names it.
        """
        import model.mxnet_compat  # noqa: F401  (comes before mxnet)
        import mxnet as mx

        try:
            iterator = mx.io.ImageRecordIter(**self.settings(epoch))
            for step in range(len(self)):
                batch = iterator.next()
                if step < start:
                    continue
                yield batch.data[0].asnumpy(), batch.label[0].asnumpy().astype(np.int32), None
        except StopIteration:
            raise DataError(f"{self.source.rec} ended before its {len(self.source):,} records"
                            ) from None
        except mx.MXNetError as error:
            raise DataError(self._explained(error)) from None

    def _explained(self, error):
        """Which records are to blame for an error of MXNet's iterator."""
        print(f"{self.source.rec}: a record cannot be decoded; looking for it", file=sys.stderr)
        found = islice(undecodable(self.source), _MOST_NAMED)
        reason = "; ".join(found) or str(error).strip().splitlines()[-1]
        return f"{self.source.rec} cannot be read: {reason}"


# ---- what the scripts open ---------------------------------------------------------------------

def _check_labels(photos, class_names):
    """Raise DataError if a photograph has the label of no class; names it."""
    number = int(photos.labels.argmax())
    if photos.labels[number] >= len(class_names):
        raise DataError(f"{photos.name(number)} has the label {photos.labels[number]}, but there "
                        f"are {len(class_names)} classes")


def _check_names(records, class_names):
    """Raise DataError if the classes of a record file are named, and not those of the network."""
    synset = records.rec.with_name("synset.txt")
    unnamed = [str(label) for label in range(len(class_names))]
    if os.path.lexists(synset) and list(class_names) not in (unnamed, records.class_names()):
        raise DataError(f"{records.rec} has other classes than the network, or in another order: "
                        f"see {synset}")


def open_imagenet(name="imagenet", use_rec=False, data_dir=None, rec_train=None,
                  rec_train_idx=None, rec_val=None, rec_val_idx=None, batch_size=128,
                  decoding=None, seed=0, shard=(0, 1)):
    """Data for training.

    Parameters
    ----------
    name : str, default 'imagenet'
        Of the data, for file names.
    use_rec : bool, default False
        Read record files; else folders of images.
    data_dir : str
        Folder with ``train/<class>/`` and ``val/<class>/``.
    rec_train, rec_train_idx, rec_val, rec_val_idx : str
        Record files and their indices (those beside them if not given).
    batch_size : int
        Of this worker, for all its devices.
    decoding : data.photos.Decoding, optional
    seed, shard
        See `EpochBatches`.

    Returns
    -------
    ImageNetData, training batches, validation batches

    Raises
    ------
    DataError
        If files are missing or do not fit together.
    """
    decoding = decoding or Decoding()
    if use_rec:
        photos, kind = RecordFile(rec_train, rec_train_idx), RecordBatches
        class_names = photos.class_names()
        _check_labels(photos, class_names)
    else:
        folder = home_path(data_dir, "--data-dir")
        if not os.path.isdir(folder):
            raise DataError(f"there is no folder {folder}: say where train/<class>/ and "
                            "val/<class>/ are with --data-dir, or use --use-rec with --rec-train "
                            "and --rec-val")
        photos, kind = FolderPhotos(folder / "train"), PhotoBatches
        class_names = photos.wnids
    data, val = validation_batches(use_rec, data_dir, rec_val, rec_val_idx, batch_size, decoding,
                                   name, class_names, shard)
    return (dataclasses.replace(data, num_train=len(photos)),
            kind(photos, batch_size, decoding, seed, shard=shard), val)


def validation_batches(use_rec=False, data_dir=None, rec_val=None,
                       rec_val_idx=None, batch_size=128, decoding=None, name="imagenet",
                       class_names=None, shard=(0, 1)):
    """Data for evaluation alone.

    Parameters
    ----------
    class_names : list of str, optional
        Classes of the network, in the order of its outputs; the data may lack some, but have
        no others. The data's own if not given.

    The others are those of `open_imagenet`.

    Returns
    -------
    ImageNetData, validation batches
    """
    if use_rec:
        photos = RecordFile(rec_val, rec_val_idx)
        class_names = class_names or photos.class_names()
        _check_names(photos, class_names)
    else:
        folder = home_path(data_dir, "--data-dir")
        if class_names is None and os.path.isdir(folder / "train"):
            class_names, _ = list_classes(folder / "train")
        photos = FolderPhotos(folder / "val", class_names)
        class_names = photos.wnids
    decoding = decoding or Decoding()
    _check_labels(photos, class_names)
    return (ImageNetData(name=name, title=name, class_names=class_names, num_val=len(photos),
                         image_size=decoding.size),
            PhotoBatches(photos, batch_size, decoding, train=False, shard=shard))


if __name__ == "__main__":
    from data.packing import main

    run_script(main)
