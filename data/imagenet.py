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
import io
import struct
import sys
from functools import cached_property
from pathlib import Path

import numpy as np

from data.dataset import DataError
from data.photos import FolderPhotos, PhotoBatches, decode, list_photos
from data.streams import bit_stream

__all__ = ["ImageNetData", "RecordFile", "RecordBatches", "undecodable", "open_imagenet",
           "validation_batches", "MEAN", "STD"]

# The authors' values, on the scale where a pixel is in [0, 1].
MEAN = tuple(value / 255 for value in (123.68, 116.779, 103.939))
STD = tuple(value / 255 for value in (58.393, 57.12, 57.375))

# Formats that the decoder inside MXNet's iterator reads.
_ITERATOR_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "PPM")
_HEADER = struct.Struct("<IIIfQQ")    # magic, length, number of labels, label, two identities


@dataclasses.dataclass(frozen=True, eq=False)
class ImageNetData:
    """What is known of the data apart from the images.

    Parameters
    ----------
    name, title : str
        For file names, and for people.
    class_names : list of str
        In the order of the labels.
    num_train, num_val : int
        Images; 0 training images where only a validation set was opened.
    image_size : int, default 224
        Side of the crops in pixels.
    """

    name: str
    title: str
    class_names: list
    num_train: int
    num_val: int
    image_size: int = 224
    mean: tuple = MEAN
    std: tuple = STD
    val_name: str = "validation"

    @property
    def classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def outputs(self):
        """Number of outputs of a network for it."""
        return self.classes

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
    DataError
        If a file is missing, or the index does not fit.
    """

    def __init__(self, rec, idx=None):
        self.rec = Path(rec).expanduser()
        self.idx = Path(idx).expanduser() if idx else self.rec.with_suffix(".idx")
        for path, hint in ((self.rec, "pack images with `python -m data.imagenet pack`"),
                           (self.idx, f"make it with `python -m data.imagenet index {self.rec}`")):
            if not path.is_file():
                raise DataError(f"there is no file {path}; {hint}")
        try:
            table = [line.split("\t") for line in self.idx.read_text().splitlines()]
            self.keys = np.array([key for key, _ in table], np.int64)
            self.places = np.array([place for _, place in table], np.int64)
        except ValueError:
            raise DataError(f"{self.idx} is not the index of a record file") from None
        if not len(self.keys) or self.places.max() >= self.rec.stat().st_size:
            raise DataError(f"{self.idx} is not the index of {self.rec}; make it anew with "
                            f"`python -m data.imagenet index {self.rec}`")

    def __len__(self):
        return len(self.keys)

    @cached_property
    def listing(self):
        """Record number -> (label, name), from the .lst file; empty without one."""
        path = self.rec.with_suffix(".lst")
        if not path.is_file():
            return {}
        try:
            rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
            return {int(row[0]): (int(float(row[1])), row[-1]) for row in rows}
        except (ValueError, IndexError, OverflowError):
            raise DataError(f"{path} is not the list of a record file") from None

    def class_names(self):
        """From synset.txt, else numbers up to the largest label there is."""
        synset = self.rec.with_name("synset.txt")
        if synset.is_file():
            try:
                lines = synset.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                raise DataError(f"{synset} is not a list of names") from None
            return [line.strip() for line in lines if line.strip()]
        labels = [label for label, _ in self.listing.values()] or self.labels()
        if not 0 <= min(labels) <= max(labels) < 1 << 20:
            raise DataError(f"{self.rec} has labels from {min(labels)} to {max(labels)}")
        return [str(label) for label in range(max(labels) + 1)]

    def labels(self):
        """The label in the header of every record, in the order of the index."""
        labels = []
        with open(self.rec, "rb") as stream:
            for place in self.places:
                stream.seek(place)
                head = stream.read(_HEADER.size)
                if len(head) < _HEADER.size or head[:4] != b"\x0a\x23\xd7\xce":
                    raise DataError(f"{self.idx} is not the index of {self.rec}: no record "
                                    f"starts at byte {place}")
                _, _, flag, label, _, _ = _HEADER.unpack(head)
                if flag:
                    label, = struct.unpack("<f", stream.read(4).ljust(4, b"\xff"))
                if not 0 <= label < 1 << 24:
                    raise DataError(f"{self.rec}: the record at byte {place} has the label "
                                    f"{label}")
                labels.append(int(label))
        return labels

    def name(self, number):
        """Record `number` (its place in the index) for people: number, file, name."""
        key = int(self.keys[number])
        known = f" ({self.listing[key][1]})" if key in self.listing else ""
        return f"record {key} of {self.rec}{known}"

    def read(self, number):
        """Bytes and label of record `number` (its place in the index)."""
        header, content = self.unpack(number)
        return content, int(np.ravel(header.label)[0])

    def unpack(self, number):
        """Header and bytes of record `number`, in MXNet's form."""
        import model.mxnet_compat  # noqa: F401  (comes before mxnet)
        import mxnet as mx

        # A reader of its own for each call: MXNet's has one place and is no thread's friend.
        reader = mx.recordio.MXRecordIO(str(self.rec), "r")
        try:
            place = mx.base.ctypes.c_size_t(int(self.places[number]))
            mx.base.check_call(mx.base._LIB.MXRecordIOReaderSeek(reader.handle, place))
            record = reader.read()
        except mx.MXNetError as error:
            raise DataError(f"{self.name(number)} cannot be read: "
                            f"{str(error).strip().splitlines()[-1]}") from None
        finally:
            reader.close()
        if record is None:
            raise DataError(f"{self.name(number)} lies behind the end of the file")
        try:
            return mx.recordio.unpack(record)
        except (struct.error, ValueError):
            raise DataError(f"{self.name(number)} is too short for its header") from None


def undecodable(record_file, limit=5, log=None):
    """Look for records that MXNet's iterator cannot decode.

    Returns
    -------
    list of str
        One line for each of the first `limit`: number, name, reason.
    """
    from PIL import Image

    found = []
    for number in range(len(record_file)):
        if log and number and number % 20000 == 0:
            log(f"looking for the damaged record: {number:,} of {len(record_file):,} read")
        try:
            content, _ = record_file.read(number)
            decode(content)
            with Image.open(io.BytesIO(content)) as image:
                if image.format not in _ITERATOR_FORMATS:
                    raise ValueError(f"MXNet's iterator does not read {image.format} images")
        except ValueError as error:
            found.append(f"{record_file.name(number)}: {error}")
            if len(found) == limit:
                break
    return found


class RecordBatches:
    """Training batches of a record file, made by MXNet's ``ImageRecordIter``.

    The iterator is made anew for each epoch, seeded from (seed, epoch), so an epoch depends
    neither on those before it nor on the number of threads. Batches are whole; what remains
    of an epoch's random order is left out.

    Evaluation goes through `PhotoBatches`: the iterator's last batch rolls over into the next
    pass (so the authors' validation counted images twice, or never), and where it resizes, an
    image that cannot be decoded ends the process with a division by zero.

    Parameters
    ----------
    records : RecordFile
    batch_size : int
        Of this worker.
    classes : int
        Labels must be smaller.
    size : int, default 224
        Side of the crops in pixels.
    seed : int, default 0
    shard : (int, int), default (0, 1)
        Index of this worker and number of workers: each trains on its own part of the file,
        all with the same number of steps.
    workers : int, default 4
        Threads.
    """

    def __init__(self, records, batch_size, classes, size=224, seed=0, shard=(0, 1), workers=4):
        self.records, self.batch_size, self.classes = records, batch_size, classes
        self.size, self.seed, self.shard, self.workers = size, seed, shard, workers
        if len(self) < 1:
            others = f" for each of {shard[1]} workers" if shard[1] > 1 else ""
            raise DataError(f"{len(records):,} training images do not fill one batch of "
                            f"{batch_size:,}{others}; take a smaller batch size")

    def __len__(self):
        total, parts = len(self.records), self.shard[1]
        # The last part is the smallest: MXNet gives the others ceil(total / parts).
        return (total - -(-total // parts) * (parts - 1)) // self.batch_size

    @property
    def num_images(self):
        """Images in an epoch of this worker."""
        return len(self) * self.batch_size

    def settings(self, epoch):
        """Arguments of ``mx.io.ImageRecordIter`` for an epoch."""
        order, augmentation = (bit_stream(self.seed, "records", epoch).random_raw(2)
                               >> np.uint64(34)).tolist()
        return {"path_imgrec": str(self.records.rec), "path_imgidx": str(self.records.idx),
                "data_shape": (3, self.size, self.size), "batch_size": self.batch_size,
                "preprocess_threads": max(self.workers, 1), "verbose": False,
                # Normalised on the device, as everywhere here: a quarter of the bytes to move.
                "dtype": "uint8", "shuffle": True, "seed": order, "seed_aug": augmentation,
                "num_parts": self.shard[1], "part_index": self.shard[0],
                "rand_mirror": True, "random_resized_crop": True,
                "min_aspect_ratio": 3 / 4, "max_aspect_ratio": 4 / 3,
                "min_random_area": 0.08, "max_random_area": 1.0,
                "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "pca_noise": 0.1}

    def epoch(self, epoch, start=0):
        """Iterate over the batches of an epoch, from the step `start` on.

        The images before `start` are decoded and dropped.

        Yields
        ------
        images : numpy.ndarray
            uint8, (B, 3, size, size).
        labels : numpy.ndarray
            int32, (B,).
        indices : None
            MXNet does not tell which records they were.

        Raises
        ------
        DataError
            If a record cannot be decoded (names it), or a label is out of range.
        """
        import model.mxnet_compat  # noqa: F401  (comes before mxnet)
        import mxnet as mx

        try:
            iterator = mx.io.ImageRecordIter(**self.settings(epoch))
            for step in range(len(self)):
                batch = iterator.next()
                if step < start:
                    continue
                yield batch.data[0].asnumpy(), self._checked(batch.label[0].asnumpy()), None
        except StopIteration:
            raise DataError(f"{self.records.rec} ended before its {len(self.records):,} records: "
                            f"{self.records.idx} is not its index") from None
        except mx.MXNetError as error:
            raise DataError(self._explained(error)) from None

    def _checked(self, labels):
        labels = labels.astype(np.int32)
        if labels.min() < 0 or labels.max() >= self.classes:
            wrong = labels.max() if labels.max() >= self.classes else labels.min()
            raise DataError(f"{self.records.rec} has the label {wrong}, but there are "
                            f"{self.classes} classes")
        return labels

    def _explained(self, error):
        """Which records are to blame for an error of MXNet's iterator."""
        print(f"{self.records.rec}: a record cannot be decoded; looking for it",
              file=sys.stderr)
        found = undecodable(self.records, log=lambda line: print(line, file=sys.stderr))
        reason = "; ".join(found) or str(error).strip().splitlines()[-1]
        return f"{self.records.rec} cannot be read: {reason}"


# ---- what the scripts open ---------------------------------------------------------------------

def _open_folder(data_dir):
    """The class-ordered photographs of DIR/train (None if there are none) and DIR/val."""
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: say where train/<class>/ and val/<class>/ "
                        "are with --data-dir, or use --use-rec with --rec-train and --rec-val")
    train = FolderPhotos(folder / "train") if (folder / "train").is_dir() else None
    return train, FolderPhotos(folder / "val", train.wnids if train else None)


def open_imagenet(name="imagenet", use_rec=False, data_dir=None, rec_train=None,
                  rec_train_idx=None, rec_val=None, rec_val_idx=None, batch_size=128, size=224,
                  crop_ratio=0.875, seed=0, shard=(0, 1), workers=4):
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
    size, crop_ratio, seed, shard, workers
        See `RecordBatches`.

    Returns
    -------
    ImageNetData, training batches, validation batches

    Raises
    ------
    DataError
        If files are missing or do not fit together.
    """
    common = {"size": size, "seed": seed, "shard": shard, "workers": workers}
    if use_rec:
        train_photos, val_photos = (RecordFile(rec_train, rec_train_idx),
                                    RecordFile(rec_val, rec_val_idx))
        class_names = train_photos.class_names()
        train = RecordBatches(train_photos, batch_size, len(class_names), **common)
    else:
        train_photos, val_photos = _open_folder(data_dir)
        if train_photos is None:
            raise DataError(f"there is no folder {Path(data_dir).expanduser() / 'train'}")
        class_names = train_photos.wnids
        train = PhotoBatches(train_photos, batch_size, **common)
    val = PhotoBatches(val_photos, batch_size, size, train=False, crop_ratio=crop_ratio,
                       classes=len(class_names), workers=workers)
    data = ImageNetData(name, name, class_names, len(train_photos), len(val_photos), size)
    return data, train, val


def validation_batches(use_rec=False, data_dir=None, rec_val=None,
                       rec_val_idx=None, batch_size=128, size=224, crop_ratio=0.875, crops=1,
                       workers=4, name="imagenet", class_names=None):
    """Data for evaluation alone.

    Parameters
    ----------
    class_names : list of str, optional
        Classes of the network, in the order of its outputs; the data may lack some, but have
        no others. The data's own if not given.
    crops : {1, 10}, default 1
        Crops of each image.

    The others are those of `open_imagenet`.

    Returns
    -------
    ImageNetData, validation batches
    """
    if use_rec:
        photos = RecordFile(rec_val, rec_val_idx)
        found = photos.class_names()
        class_names = class_names or found
        if photos.rec.with_name("synset.txt").is_file() and list(class_names) != found:
            raise DataError(f"{photos.rec} has other classes than the network: "
                            f"{photos.rec.with_name('synset.txt')} differs from the "
                            "description of the network")
    else:
        folder = Path(data_dir).expanduser()
        if class_names is None and (folder / "train").is_dir():
            class_names = list_photos(folder / "train")[0]
        photos = FolderPhotos(folder / "val", class_names)
        class_names = photos.wnids
    batches = PhotoBatches(photos, batch_size, size, train=False, crop_ratio=crop_ratio,
                           crops=crops, classes=len(class_names), workers=workers)
    return ImageNetData(name, name, class_names, 0, len(photos), size), batches


if __name__ == "__main__":
    from data.packing import main

    try:
        sys.exit(main())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
