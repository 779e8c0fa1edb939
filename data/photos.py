"""Photographs in files: finding, decoding, cropping, and batches of them.

The crops are those of the authors' ImageNet script. For training: a part of random area and
shape, mirrored, its colours jittered, and noise along the principal components of ImageNet's
colours (A. Krizhevsky et al., NIPS 2012, section 4.1). For evaluation: the shorter side
brought to ``size / crop_ratio`` pixels, and the middle.

A photograph's random numbers follow from (seed, epoch, its number), so neither the number of
workers nor the batch size changes it.
"""
import math
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError, FileError
from common.files import read_bytes
from common.screen import printable
from data.batches import EpochBatches
from data.decoding import MOST_BYTES, SUFFIXES, decode
from data.streams import bit_stream, uniform

__all__ = ["FolderPhotos", "PhotoBatches", "evaluation_crops", "few", "find_images",
           "list_classes", "list_photos", "random_part"]

_JITTER, _NOISE = 0.4, 0.1
_GREY = np.array((0.299, 0.587, 0.114), np.float32)
# Principal components of the colours of ImageNet's training images, and their deviations.
_COMPONENTS = np.array(((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140),
                        (-0.5836, -0.6948, 0.4203)), np.float32)
_DEVIATIONS = np.array((55.46, 4.794, 1.148), np.float32)
_ATTEMPTS = 10
_ELONGATED = 8      # longer by wider: from there on only what is cropped is resized


# ---- folders -----------------------------------------------------------------------------------

def _ignored(name):
    """Whether a name is that of what systems and programs keep beside a user's files."""
    return name.startswith((".", "@")) or name == "__MACOSX"


def _entries(folder):
    """What a folder holds, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read the folder {folder}: {reason}") from None


def _kind(entry):
    """'folder', 'file', or '' for what can be neither read nor entered; links are followed."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:         # a link to itself, or into a closed folder
        return ""


def _identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


def find_images(folder, others=frozenset()):
    """The images in a folder and its sub-folders, also in those that links lead to.

    Names that begin with ``.`` or ``@``, and ``__MACOSX``, are passed over.

    Parameters
    ----------
    folder : str or pathlib.Path
    others : set of (int, int), optional
        Device and number of folders whose images belong elsewhere, should a link lead there.

    Returns
    -------
    images : list of str
        Paths relative to `folder`, sorted part by part.
    unused : list of str
        What else there is, with the reason, for people.

    Raises
    ------
    FileError
        If a folder cannot be read.
    """
    start = len(os.path.join(folder, ""))
    images, unused, waiting = [], [], [iter(_entries(folder))]
    # A link back up would bring in the images of other folders.
    seen = {_identity(path) for path in (folder, *Path(folder).resolve().parents)} | others
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        path, kind = entry.path[start:], _kind(entry)
        if _ignored(entry.name):
            continue
        if kind == "folder" and _identity(entry) not in seen:
            seen.add(_identity(entry))
            waiting.append(iter(_entries(entry.path)))
        elif kind == "folder":
            unused.append(f"{printable(path)} (a folder that is read elsewhere)")
        elif not kind:
            unused.append(f"{printable(path)} (no regular file)")
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            images.append(path)
        else:
            unused.append(f"{printable(path)} (no image by its name)")
    return images, unused


def list_classes(folder):
    """The classes of a folder with one sub-folder for each.

    Returns
    -------
    wnids : list of str
        Names of the sub-folders, sorted.
    unused : list of str
        What else there is, with the reason, for people.

    Raises
    ------
    FileError
        If the folder cannot be read.
    DataError
        If a name does not fit into a list of names, or two classes are one folder.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise DataError(f"there is no folder {folder}")
    wnids, unused, known = [], [], {}
    for entry in _entries(folder):
        if _kind(entry) != "folder":
            if not _ignored(entry.name):
                unused.append(f"{printable(entry.name)} (in no class's folder)")
            continue
        if _ignored(entry.name):
            unused.append(f"{printable(entry.name)} (no class by its name)")
            continue
        if entry.name != entry.name.strip() or not _is_line(entry.name):
            raise DataError(f"{folder}: the name of the class "
                            f"{ascii(entry.name)} is not a line of text that a list of classes "
                            "can hold; rename the folder")
        other = known.setdefault(_identity(entry), entry.name)
        if other != entry.name:
            raise DataError(f"{folder}: the classes {other} and {entry.name} are the "
                            "same folder")
        wnids.append(entry.name)
    return wnids, unused


def _is_line(name):
    """Whether a name is UTF-8 text without control characters and ends of lines."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def list_photos(folder, log=print):
    """Classes and photographs of a folder with one sub-folder for each class.

    Parameters
    ----------
    folder : str or pathlib.Path
    log : callable, default print
        Receives a line that counts what is not used, and names the first of it.

    Returns
    -------
    wnids : list of str
        Names of the sub-folders, sorted.
    photos : list of (str, str)
        Class and path relative to `folder`, sorted.
    unused : list of str
        What else there is, relative to `folder`, with the reason.

    Raises
    ------
    DataError, FileError
        If a class has no images or cannot be read; else as `list_classes`.
    """
    wnids, unused = list_classes(folder)
    photos, empty = [], []
    classes = {_identity(os.path.join(folder, wnid)) for wnid in wnids}
    for wnid in wnids:
        images, more = find_images(os.path.join(folder, wnid), classes)
        photos += [(wnid, f"{wnid}/{path}") for path in images]
        unused += [f"{wnid}/{path}" for path in more]
        empty += [] if images else [wnid]
    if empty and photos:
        raise DataError(f"{folder}: class folders without images: {few(empty)}; fill "
                        "or remove them")
    if unused:
        log(f"{printable(folder)}: not used: {few(unused)}")
    return wnids, photos, unused


def few(names, shown=5):
    """How many names, and the first of them."""
    more = ", ..." if len(names) > shown else ""
    return f"{len(names):,} ({', '.join(names[:shown])}{more})"


class FolderPhotos:
    """The photographs under a folder, ``<class>/<name>``.

    Parameters
    ----------
    folder : str or pathlib.Path
    wnids : list of str, optional
        The classes in the order of their labels; the sub-folders, sorted, if not given.
    log : callable, default print
        Receives lines that name what is not used, and classes that are not there.

    Raises
    ------
    DataError, FileError
        As `list_photos`, and if the folder is missing or empty, or holds a class that is not
        in `wnids`.
    """

    def __init__(self, folder, wnids=None, log=print):
        self.folder = Path(folder)
        found, photos, _ = list_photos(folder, log)
        self.wnids = found if wnids is None else list(wnids)
        strange = sorted(set(found) - set(self.wnids))
        if strange:
            raise DataError(f"{folder} has classes that the training images lack: {few(strange)}")
        if not photos:
            raise DataError(f"{folder} holds no images; they belong into {folder}/<class>/")
        absent = sorted(set(self.wnids) - set(found))
        if absent:
            log(f"{printable(folder)}: classes without images: {few(absent)}")
        label = {wnid: k for k, wnid in enumerate(self.wnids)}
        self.paths = [path for _, path in photos]
        self.labels = np.array([label[wnid] for wnid, _ in photos], np.int32)

    def __len__(self):
        return len(self.paths)

    def name(self, number):
        """The file of photograph `number`."""
        return printable(self.folder / self.paths[number])

    def content(self, number):
        """Bytes of photograph `number`."""
        return read_bytes(self.folder / self.paths[number], MOST_BYTES)


# ---- crops: arrays (H, W, 3), uint8 ------------------------------------------------------------

def _resized(image, height, width):
    import cv2

    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _box(height, width, u):
    """A part of 8 to 100 % of the area and a shape between 3:4 and 4:3; `u` is uniform."""
    for k in range(_ATTEMPTS):
        area = height * width * (0.08 + 0.92 * u[4 * k])
        shape = math.exp((2 * u[4 * k + 1] - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(u[4 * k + 2] * (height - h + 1)), int(u[4 * k + 3] * (width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _jittered(image, factors, order):
    """Brightness, contrast and saturation scaled, in a given order. Floats, 0 to 255."""
    for kind in order:
        if kind == 0:
            base = np.float32(0)
        elif kind == 1:
            base = (image @ _GREY).mean()
        else:
            base = (image @ _GREY)[..., None]
        image = np.clip(base + factors[kind] * (image - base), 0, 255)
    return image


def random_part(image, size, stream):
    """A training crop.

    Parameters
    ----------
    image : numpy.ndarray
        uint8, (H, W, 3).
    size : int
        Side of the crop in pixels.
    stream : numpy.random.BitGenerator

    Returns
    -------
    numpy.ndarray
        uint8, (size, size, 3).
    """
    u = uniform(stream.random_raw(4 * _ATTEMPTS + 9))
    top, left, height, width = _box(*image.shape[:2], u)
    image = _resized(image[top:top + height, left:left + width], size, size)
    mirror, *rest = u[4 * _ATTEMPTS:4 * _ATTEMPTS + 5]
    if mirror < 0.5:
        image = image[:, ::-1]
    factors = (1 + _JITTER * (2 * np.array(rest[:3]) - 1)).astype(np.float32)
    order = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))[int(6 * rest[3])]
    image = _jittered(image.astype(np.float32), factors, order)
    a, b, c, d = u[4 * _ATTEMPTS + 5:]
    # Box and Muller's way from uniform to normal numbers.
    r, s = (_NOISE * math.sqrt(-2 * math.log(1 - v)) for v in (a, c))
    normal = (r * math.cos(2 * math.pi * b), r * math.sin(2 * math.pi * b),
              s * math.cos(2 * math.pi * d))
    image = image + _COMPONENTS @ (_DEVIATIONS * np.float32(normal))
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def evaluation_crops(image, size, crop_ratio=0.875, crops=1):
    """The middle of an image, or ten crops: middle, corners, and all five mirrored.

    Returns
    -------
    numpy.ndarray
        uint8, (crops, size, size, 3).
    """
    height, width = image.shape[:2]
    short = math.ceil(size / crop_ratio)
    if height < width:
        scaled = short, short * width // height
    else:
        scaled = short * height // width, short
    bottom, right = scaled[0] - size, scaled[1] - size
    places = [(bottom // 2, right // 2)]
    if crops == 10:
        places += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    if max(scaled) > _ELONGATED * short:
        cut = [_part(image, scaled, y, x, size) for y, x in places]
    else:
        image = _resized(image, *scaled)
        cut = [image[y:y + size, x:x + size] for y, x in places]
    if crops == 10:
        cut += [part[:, ::-1] for part in cut]
    return np.stack(cut)


def _part(image, scaled, top, left, size):
    """What ``_resized(image, *scaled)`` has from (top, left) on, without the rest of it.

    A strip of 1 x 60,000 pixels would as a whole become one of 256 x 15,000,000.
    """
    for axis in (0, 1) if scaled[0] > scaled[1] else (1, 0):    # the long one first
        start, count = (top, left)[axis], image.shape[axis]
        places = (np.arange(start, start + size) + 0.5) * (count / scaled[axis]) - 0.5
        places = places.clip(0, count - 1)
        low = places.astype(np.int64)
        share = (places - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        image = (image.take(low, axis) * (1 - share)
                 + image.take(np.minimum(low + 1, count - 1), axis) * share)
    return np.rint(image).astype(np.uint8)


@dataclass(frozen=True)
class Decoding:
    """How photographs are made crops.

    Attributes
    ----------
    size : int
        Side of the crops in pixels.
    crop_ratio : float
        Side of the crop by the shorter side of the image, in evaluation.
    crops : {1, 10}
        Crops of each image in evaluation; with 10, images are (B, 10, 3, size, size).
    workers : int
        Threads; 0 decodes when a batch is asked for.
    """

    size: int = 224
    crop_ratio: float = 0.875
    crops: int = 1
    workers: int = 4

    def __post_init__(self):
        if self.crops not in (1, 10):
            raise ValueError(f"crops must be 1 or 10, not {self.crops}")


class PhotoBatches(EpochBatches):
    """Batches of photographs, decoded by threads: random crops, or whole images in evaluation.

    Parameters
    ----------
    source : FolderPhotos or data.imagenet.RecordFile
    decoding : Decoding, optional

    The others are those of `EpochBatches`.
    """

    def __init__(self, source, batch_size, decoding=None, seed=0, train=True, shard=(0, 1)):
        super().__init__(source, batch_size, seed, train, shard)
        self.decoding = decoding or Decoding()
        self.ahead = 2 if self.decoding.workers else 0

    def _batches(self, epoch, start):
        with ThreadPoolExecutor(max(self.decoding.workers, 1)) as pool:
            for _, indices in self._steps(epoch, start):
                crops = pool.map(lambda number: self._crops(epoch, int(number)), indices)
                yield np.stack(list(crops)), self.source.labels[indices], indices

    def _crops(self, epoch, number):
        """Crop(s), channels first, of one photograph."""
        how, content = self.decoding, self.source.content(number)
        try:
            image = np.asarray(decode(content))
        except DataError as error:
            raise DataError(f"{self.source.name(number)} cannot be decoded: {error}") from None
        if self.train:
            crops = random_part(image, how.size, bit_stream(self.seed, "photo", epoch, number))
        else:
            crops = evaluation_crops(image, how.size, how.crop_ratio, how.crops)
            crops = crops[0] if how.crops == 1 else crops
        return np.ascontiguousarray(np.moveaxis(crops, -1, -3))
