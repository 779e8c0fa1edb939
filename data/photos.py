"""Photographs in files: finding, decoding, cropping, and batches of them.

The crops are those of the authors' ImageNet script. For training: a part of random area and
shape, mirrored, its colours jittered, and noise along the principal components of ImageNet's
colours (A. Krizhevsky et al., NIPS 2012, section 4.1). For evaluation: the shorter side
brought to ``size / crop_ratio`` pixels, and the middle.

A photograph's random numbers follow from (seed, epoch, its number), so neither the number of
workers nor the batch size changes it.
"""
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data.batches import _ahead
from data.dataset import DataError
from data.streams import bit_stream, permutation, uniform

__all__ = ["SUFFIXES", "FolderPhotos", "PhotoBatches", "decode", "list_photos",
           "random_part", "evaluation_crops"]

SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif",
                      ".ppm"))

_JITTER, _NOISE = 0.4, 0.1
_GREY = np.array((0.299, 0.587, 0.114), np.float32)
# Principal components of the colours of ImageNet's training images, and their deviations.
_COMPONENTS = np.array(((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140),
                        (-0.5836, -0.6948, 0.4203)), np.float32)
_DEVIATIONS = np.array((55.46, 4.794, 1.148), np.float32)
_ATTEMPTS = 10


def decode(content):
    """An RGB image from the bytes of a file, whatever its name says it is.

    Greyscale, palette, CMYK and 16-bit images become RGB, transparency is dropped, and the
    rotation that a camera noted (EXIF) is carried out.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    ValueError
        If the bytes are no complete image; the text says why.
    """
    from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

    # GluonCV, once imported, has Pillow fill the missing part of any file with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":    # Pillow clips these to 255
                values = np.asarray(image).astype(np.float32)
                top = 65535 if values.max() > 255 else 255
                image = Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("no image in a known format" if content else "an empty file") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def list_photos(folder):
    """Classes and photographs of a folder with one sub-folder for each class.

    Returns
    -------
    wnids : list of str
        Names of the sub-folders, sorted.
    photos : list of (str, str)
        Class and path relative to `folder`, sorted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    wnids = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    photos = [(wnid, f"{wnid}/{path.relative_to(folder / wnid).as_posix()}")
              for wnid in wnids for path in sorted((folder / wnid).rglob("*"))
              if path.suffix.lower() in SUFFIXES and path.is_file()]
    return wnids, photos


class FolderPhotos:
    """The photographs under a folder, ``<class>/<name>``.

    Parameters
    ----------
    folder : str or pathlib.Path
    wnids : list of str, optional
        The classes in the order of their labels; the sub-folders, sorted, if not given.

    Raises
    ------
    DataError
        If the folder is missing or empty, or holds a class that is not in `wnids`.
    """

    def __init__(self, folder, wnids=None):
        self.folder = Path(folder)
        found, photos = list_photos(folder)
        self.wnids = found if wnids is None else list(wnids)
        strange = sorted(set(found) - set(self.wnids))
        if strange:
            raise DataError(f"{folder} has {len(strange)} classes that the training images lack "
                            f"({', '.join(strange[:3])} ...)")
        if not photos:
            raise DataError(f"{folder} holds no images; they belong into {folder}/<class>/")
        label = {wnid: k for k, wnid in enumerate(self.wnids)}
        self.paths = [path for _, path in photos]
        self.labels = np.array([label[wnid] for wnid, _ in photos], np.int32)

    def __len__(self):
        return len(self.paths)

    def name(self, number):
        """The file of photograph `number`."""
        return str(self.folder / self.paths[number])

    def read(self, number):
        """Bytes and label of photograph `number`."""
        return (self.folder / self.paths[number]).read_bytes(), int(self.labels[number])


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
        image = _resized(image, short, short * width // height)
    else:
        image = _resized(image, short * height // width, short)
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = [(bottom // 2, right // 2)]
    if crops == 10:
        places += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    cut = [image[y:y + size, x:x + size] for y, x in places]
    if crops == 10:
        cut += [part[:, ::-1] for part in cut]
    return np.stack(cut)


class PhotoBatches:
    """Batches of photographs, decoded by threads.

    Parameters
    ----------
    photos : FolderPhotos or data.imagenet.RecordFile
    batch_size : int
        Of this worker.
    size : int, default 224
        Side of the crops in pixels.
    seed : int, default 0
    train : bool, default True
        Random order and crops, whole batches; else every image once, in order.
    crop_ratio : float, default 0.875
        Side of the crop by the shorter side of the image, in evaluation.
    crops : {1, 10}, default 1
        Crops of each image in evaluation; with 10, images are (B, 10, 3, size, size).
    classes : int, optional
        Labels must be smaller.
    shard : (int, int), default (0, 1)
        Index of this worker and number of workers, in training.
    workers : int, default 4
        Threads; 0 decodes when a batch is asked for.
    """

    def __init__(self, photos, batch_size, size=224, seed=0, train=True, crop_ratio=0.875,
                 crops=1, classes=None, shard=(0, 1), workers=4):
        if crops not in (1, 10):
            raise ValueError(f"crops must be 1 or 10, not {crops}")
        if train and len(photos) < batch_size * shard[1]:
            raise DataError(f"{len(photos):,} training images do not fill one batch of "
                            f"{batch_size * shard[1]:,}; take a smaller batch size")
        self.photos, self.batch_size, self.size, self.seed = photos, batch_size, size, seed
        self.train, self.crop_ratio, self.crops = train, crop_ratio, crops
        self.classes, self.shard, self.workers = classes, shard, workers

    def __len__(self):
        if self.train:
            return len(self.photos) // (self.batch_size * self.shard[1])
        return -(-len(self.photos) // self.batch_size)

    @property
    def num_images(self):
        """Images in an epoch of this worker."""
        return len(self) * self.batch_size if self.train else len(self.photos)

    def epoch(self, epoch, start=0):
        """Yield (images uint8 (B, 3, size, size), labels int32 (B,), indices int64 (B,))."""
        batches = self._batches(epoch, start)
        return _ahead(batches, 2) if self.workers else batches

    def _batches(self, epoch, start):
        index, count = self.shard if self.train else (0, 1)
        order = (permutation(len(self.photos), self.seed, "order", epoch) if self.train
                 else np.arange(len(self.photos)))
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            for step in range(start, len(self)):
                first = (step * count + index) * self.batch_size
                indices = order[first:first + self.batch_size].copy()
                parts = list(pool.map(lambda number: self._photo(epoch, int(number)), indices))
                images = np.stack([image for image, _ in parts])
                yield images, np.array([label for _, label in parts], np.int32), indices

    def _photo(self, epoch, number):
        """Crop(s), channels first, and label of one photograph."""
        try:
            content, label = self.photos.read(number)
        except OSError as error:
            raise DataError(f"{self.photos.name(number)} cannot be read: "
                            f"{error.strerror}") from None
        try:
            image = np.asarray(decode(content))
        except ValueError as error:
            raise DataError(f"{self.photos.name(number)} cannot be decoded: {error}") from None
        if self.classes is not None and not 0 <= label < self.classes:
            raise DataError(f"{self.photos.name(number)} has the label {label}, but there are "
                            f"{self.classes} classes")
        if self.train:
            crops = random_part(image, self.size, bit_stream(self.seed, "photo", epoch, number))
        else:
            crops = evaluation_crops(image, self.size, self.crop_ratio, self.crops)
            crops = crops[0] if self.crops == 1 else crops
        return np.ascontiguousarray(np.moveaxis(crops, -1, -3)), label
