"""Batches of a data set, as a function of (seed, epoch, step).

The order of an epoch follows from (seed, epoch), the augmentation of a batch from (seed,
epoch, step) and the image's place in it. So a run resumes in the middle of an epoch
without replaying its beginning, and several workers together see the very images that one
worker with the sum of their batches sees.
"""
import hashlib
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.errors import DataError
from data.streams import bit_stream, permutation

__all__ = ["Batches", "Crops", "EpochBatches", "PADDINGS", "Preparation", "random_crop_mirror"]

PADDINGS = ("black", "mean", "reflect")
_PAD = 4    # pixels at each side of an image in training
_IN_DIGEST = 64    # images


class EpochBatches:
    """Which images of a data set are in which batch of an epoch; the base of all batches.

    Parameters
    ----------
    source : ImageSet, FolderPhotos or RecordFile
        Has a length, ``labels`` and ``content(number)``, the bytes of an image.
    batch_size : int
        Of this worker.
    seed : int, default 0
        Not negative.
    train : bool, default True
        If true, an epoch is a random order of the images, cut into whole batches; what
        remains is left out. If false, every image comes once, in order, and the last batch
        may be smaller.
    shard : (int, int), default (0, 1)
        Index of this worker and number of workers. In training each has the same number of
        steps, and no image twice; in evaluation each has a contiguous part of the images.

    Attributes
    ----------
    ahead : int
        Batches prepared ahead in a thread; 0 prepares each when it is asked for.
    """

    ahead = 2

    def __init__(self, source, batch_size, seed=0, train=True, shard=(0, 1)):
        index, count = shard
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if not 0 <= index < count:
            raise ValueError(f"shard is {shard}; it must be (index, count) with "
                             "0 <= index < count")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.train, self.shard = train, (index, count)
        if train and len(self) < 1:
            workers = f" for each of {count} workers" if count > 1 else ""
            raise DataError(f"{len(source):,} training images do not fill one batch of "
                            f"{batch_size:,}{workers}; take a smaller batch size")

    def __len__(self):
        """Batches in an epoch of this worker."""
        if self.train:
            return len(self.source) // (self.batch_size * self.shard[1])
        return -(-self.num_images // self.batch_size)

    def digest(self):
        """Fingerprint of the images, those of all workers, by which a resumed run knows its data.

        Returns
        -------
        str
            32 hexadecimal digits, of all labels and of some images that are spread over the set:
            another set hardly has the same, however large both are.
        """
        labels = np.asarray(self.source.labels, "<i8")
        found = hashlib.sha256(labels.tobytes())
        count = len(labels)
        for number in np.linspace(0, count - 1, min(count, _IN_DIGEST)).astype(int).tolist():
            found.update(hashlib.sha256(self.source.content(number)).digest())
        return found.hexdigest()[:32]

    @property
    def num_images(self):
        """Images in an epoch of this worker."""
        if self.train:
            return len(self) * self.batch_size
        start, stop = self._evaluated()
        return stop - start

    def _evaluated(self):
        """First and last + 1 of the images that this worker evaluates."""
        index, count = self.shard
        return len(self.source) * index // count, len(self.source) * (index + 1) // count

    def epoch(self, epoch, start=0):
        """Iterate over the batches of an epoch, from the step `start` on.

        Yields
        ------
        images : numpy.ndarray
            uint8, (B, 3, H, W), C-contiguous; a fresh array each time. `Crops`, if `keep` was
            called.
        labels : numpy.ndarray
            int32, (B,).
        indices : numpy.ndarray
            int64, (B,): where in the source they are.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; it must not be negative")
        if not 0 <= start <= len(self):
            raise ValueError(f"start is {start}; an epoch has the steps 0 to {len(self) - 1}")
        batches = self._batches(epoch, start)
        return _ahead(batches, self.ahead) if self.ahead else batches

    def _steps(self, epoch, start):
        """Yield step and indices of each batch, from the step `start` on."""
        if self.train:
            order = permutation(len(self.source), self.seed, "order", epoch)
            index, count = self.shard
        else:
            order = np.arange(*self._evaluated(), dtype=np.int64)
            index, count = 0, 1
        for step in range(start, len(self)):
            first = (step * count + index) * self.batch_size
            yield step, order[first:first + self.batch_size].copy()

    def _batches(self, epoch, start):
        raise NotImplementedError


@dataclass(frozen=True)
class Preparation:
    """How batches are made of images in memory.

    Attributes
    ----------
    padding : str
        What surrounds a training image before it is cropped: see `random_crop_mirror`.
    mean : sequence of 3 floats, optional
        In [0, 1]; the colour of the padding 'mean'.
    augment : bool
        Whether training images are cropped and mirrored.
    prefetch : int
        Batches prepared ahead in a thread; 0 prepares each when it is asked for.
    """

    padding: str = "black"
    mean: tuple = None
    augment: bool = True
    prefetch: int = 2

    def __post_init__(self):
        if self.prefetch < 0:
            raise ValueError(f"prefetch is {self.prefetch}; it must not be negative")
        if self.padding not in PADDINGS:
            raise ValueError(f"unknown padding '{self.padding}'. Known: {', '.join(PADDINGS)}.")
        if self.augment and self.padding == "mean" and self.mean is None:
            raise ValueError("padding 'mean' needs the mean colour")


class Crops(NamedTuple):
    """What the images of a batch are cut from, in place of their pixels.

    Attributes
    ----------
    indices : numpy.ndarray
        int64, (B,): which of all images, with their border.
    tops, lefts : numpy.ndarray
        int64, (B,): where in it the crop begins, in pixels.
    mirrored : numpy.ndarray
        bool, (B,): whether the crop is then mirrored, left to right.
    shape : (B, 3, H, W)
        Of the crops together.
    """

    indices: Any
    tops: Any
    lefts: Any
    mirrored: Any
    shape: tuple


class Batches(EpochBatches):
    """Batches for training (shuffled, augmented) or for evaluation (in order, as they are).

    Parameters
    ----------
    preparation : Preparation, optional

    The others are those of `EpochBatches`.
    """

    def __init__(self, source, batch_size, seed=0, train=True, shard=(0, 1),
                 preparation=None):
        super().__init__(source, batch_size, seed, train, shard)
        self.preparation = preparation or Preparation()
        self.ahead = self.preparation.prefetch
        self._kept = False

    def keep(self):
        """All images with their border, for who keeps them; batches then bring `Crops` of them.

        Only for training on augmented images.

        Returns
        -------
        numpy.ndarray
            uint8, (N, 3, H + 8, W + 8).
        """
        self._kept = True
        return _padded(self.source.images, _PAD, self.preparation.padding, self.preparation.mean)

    def _batches(self, epoch, start):
        for step, indices in self._steps(epoch, start):
            yield self._images(epoch, step, indices), self.source.labels[indices], indices

    def _images(self, epoch, step, indices):
        how, images = self.preparation, self.source.images
        if not (self.train and how.augment):
            return images[indices]
        stream = bit_stream(self.seed, "augment", epoch, step)
        stream.advance(self.shard[0] * self.batch_size)    # past the other workers' words
        if self._kept:
            return Crops(indices, *_drawn(stream, len(indices), _PAD),
                         (len(indices), *images.shape[1:]))
        return random_crop_mirror(images[indices], stream, padding=how.padding, mean=how.mean)


# ---- the reference's augmentation, on a whole batch at once ------------------------------------

def random_crop_mirror(images, rng, pad=_PAD, padding="black", mean=None):
    """Pad every side, crop back to the size at a random place, mirror every second image.

    Parameters
    ----------
    images : numpy.ndarray
        uint8, (B, C, H, W); left as it is.
    rng : numpy.random.Generator or numpy.random.BitGenerator
        One raw 64-bit word of it is used for each image, in order. (The methods of
        Generator are not: their results may differ between versions of NumPy.)
    pad : int, default 4
        Pixels at each side.
    padding : str, default 'black'
        What lies outside: 'black' is zeros, before normalisation, as in the reference;
        'mean' is `mean`, rounded; 'reflect' is the image mirrored about its outermost
        pixels.
    mean : sequence of C floats
        In [0, 1]; needed for 'mean' alone.

    Returns
    -------
    numpy.ndarray
        uint8, (B, C, H, W), C-contiguous.
    """
    batch = len(images)
    padded = _padded(images, pad, padding, mean)
    top, left, mirrored = _drawn(rng, batch, pad)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, images.shape[2:], axis=(2, 3))         # (B, C, span, span, H, W)
    crops = windows[np.arange(batch), :, top, left]    # (B, C, H, W)
    crops[mirrored] = crops[mirrored, :, :, ::-1]
    return crops


def _drawn(rng, batch, pad):
    """Top and left, int64 (B,), of each image's crop, and whether it is mirrored, bool (B,)."""
    words = getattr(rng, "bit_generator", rng).random_raw(batch)
    span = 2 * pad + 1
    return (_scaled(words >> np.uint64(40), span),
            _scaled((words >> np.uint64(16)) & np.uint64(0xFFFFFF), span),
            (words & np.uint64(1)).astype(bool))


def _padded(images, pad, padding, mean):
    """(B, C, H, W) -> (B, C, H + 2 pad, W + 2 pad)."""
    batch, channels, height, width = images.shape
    shape = (batch, channels, height + 2 * pad, width + 2 * pad)
    if padding == "reflect":
        if pad >= min(height, width):
            raise ValueError(f"pad is {pad}; to reflect a {height}x{width} image it must be "
                             f"below {min(height, width)}")
        rows, columns = (np.pad(np.arange(size), pad, mode="reflect")
                         for size in (height, width))
        return images.take(rows, axis=2).take(columns, axis=3)
    padded = np.zeros(shape, np.uint8)
    if padding == "mean":
        colour = np.rint(np.asarray(mean, np.float64) * 255).astype(np.uint8)
        padded[:] = colour.reshape(1, channels, 1, 1)
    padded[:, :, pad:pad + height, pad:pad + width] = images
    return padded


def _scaled(bits24, count):
    """24-bit numbers, uint64, as integers in 0 ... count-1 (for counts far below 2**24)."""
    return ((bits24 * np.uint64(count)) >> np.uint64(24)).astype(np.int64)


# ---- preparing ahead ---------------------------------------------------------------------------

def _ahead(items, count):
    """Yield what `items` yields, prepared by a thread up to `count` items ahead.

    The thread ends with the items, with an error in them (raised here), and when this
    generator is closed or collected.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting = deque(pool.submit(next, items, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
    finally:
        # Generators are collected in any thread, and none can wait for its own end.
        pool.shutdown(wait=not threading.current_thread().name.startswith("prefetch"),
                      cancel_futures=True)
