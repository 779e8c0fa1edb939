"""Batches of an ImageSet, as a function of (seed, epoch, step).

The order of an epoch follows from (seed, epoch), the augmentation of a batch from (seed,
epoch, step) and the image's place in it. So a run resumes in the middle of an epoch
without replaying its beginning, and several workers together see the very images that one
worker with the sum of their batches sees.
"""
import threading
from queue import SimpleQueue

import numpy as np

from common.errors import DataError
from data.augment import PADDINGS, random_crop_mirror
from data.streams import bit_stream, permutation

__all__ = ["Batches", "evaluated"]


def evaluated(total, shard):
    """First and last + 1 of so many images that worker (index, count) evaluates."""
    index, count = shard
    return total * index // count, total * (index + 1) // count


class Batches:
    """Batches for training (shuffled, augmented) or for evaluation (in order, as they are).

    Parameters
    ----------
    image_set : ImageSet
    batch_size : int
        Of this worker.
    seed : int, default 0
        Not negative.
    train : bool, default True
        If true, an epoch is a random order of the images, cut into whole batches; what
        remains is left out. If false, every image comes once, in order, and the last batch
        may be smaller.
    padding : str, default 'black'
        See `random_crop_mirror`.
    mean : sequence of 3 floats, default None
        In [0, 1]; the colour of the padding 'mean'.
    shard : (int, int), default (0, 1)
        Index of this worker and number of workers. In training each has the same number of
        steps, and no image twice; in evaluation each has a contiguous part of the images.
    prefetch : int, default 2
        Batches prepared ahead in a thread; 0 prepares each when it is asked for.
    augment : bool, default True
        Whether training batches are cropped and mirrored.
    """

    def __init__(self, image_set, batch_size, seed=0, train=True, padding="black", mean=None,
                 shard=(0, 1), prefetch=2, augment=True):
        index, count = shard
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if not 0 <= index < count:
            raise ValueError(f"shard is {shard}; it must be (index, count) with "
                             "0 <= index < count")
        if prefetch < 0:
            raise ValueError(f"prefetch is {prefetch}; it must not be negative")
        if padding not in PADDINGS:
            raise ValueError(f"unknown padding '{padding}'. Known: {', '.join(PADDINGS)}.")
        if train and augment and padding == "mean" and mean is None:
            raise ValueError("padding 'mean' needs the mean colour")
        if train and len(image_set) < batch_size * count:
            workers = f" for each of {count} workers" if count > 1 else ""
            raise DataError(f"{len(image_set):,} training images do not fill one batch of "
                             f"{batch_size:,}{workers}; take a smaller batch size")
        self.image_set = image_set
        self.batch_size = batch_size
        self.seed = seed
        self.train = train
        self.padding = padding
        self.mean = mean
        self.shard = index, count
        self.prefetch = prefetch
        self.augment = train and augment

    def __len__(self):
        """Batches in an epoch of this worker."""
        if self.train:
            return len(self.image_set) // (self.batch_size * self.shard[1])
        return -(-self.num_images // self.batch_size)

    def digest(self):
        """What the images are known by, those of all workers: see `data.digest.digest`."""
        return self.image_set.digest()

    @property
    def num_images(self):
        """Images in an epoch of this worker."""
        if self.train:
            return len(self) * self.batch_size
        start, stop = self._range()
        return stop - start

    def epoch(self, epoch, start=0):
        """Iterate over the batches of an epoch, from the step `start` on.

        Yields
        ------
        images : numpy.ndarray
            uint8, (B, 3, H, W), C-contiguous; a fresh array each time.
        labels : numpy.ndarray
            int32, (B,).
        indices : numpy.ndarray
            int64, (B,): where in the image set they are.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; it must not be negative")
        if not 0 <= start <= len(self):
            raise ValueError(f"start is {start}; an epoch has the steps 0 to {len(self) - 1}")
        batches = self._batches(epoch, start)
        return _ahead(batches, self.prefetch) if self.prefetch else batches

    def _range(self):
        return evaluated(len(self.image_set), self.shard)

    def _batches(self, epoch, start):
        if self.train:
            order = permutation(len(self.image_set), self.seed, "order", epoch)
            index, count = self.shard
            skip, stride = index * self.batch_size, count * self.batch_size
        else:
            order = np.arange(*self._range(), dtype=np.int64)
            skip, stride = 0, self.batch_size
        for step in range(start, len(self)):
            first = step * stride + skip
            indices = order[first:first + self.batch_size].copy()
            images = self.image_set.images[indices]
            if self.augment:
                stream = bit_stream(self.seed, "augment", epoch, step)
                stream.advance(skip)    # past the words of the workers before this one
                images = random_crop_mirror(images, stream, padding=self.padding, mean=self.mean)
            yield images, self.image_set.labels[indices], indices


def _ahead(items, count):
    """Yield what `items` yields, prepared by a thread up to `count` items ahead.

    The thread ends with the items, with an error in them (raised here), and when this
    generator is closed or collected. Each token in `free` is leave to prepare one item. The
    queues are SimpleQueues because a finalizer may run anywhere, even in the thread amid a
    `put`; theirs is made for that.
    """
    free, ready, closed = SimpleQueue(), SimpleQueue(), threading.Event()
    for _ in range(count):
        free.put(None)
    thread = threading.Thread(target=_prepare, args=(items, free, ready, closed),
                              name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            free.put(None)
            yield item
    finally:
        closed.set()
        free.put(None)
        if thread is not threading.current_thread():
            thread.join()


def _prepare(items, free, ready, closed):
    """The thread of `_ahead`: puts (item, error, whether this is the end) into `ready`."""
    try:
        while True:
            free.get()
            if closed.is_set():
                return
            item = next(items, None)
            ready.put((item, None, item is None))
            if item is None:
                return
    except BaseException as error:    # all of them are the consumer's to see
        ready.put((None, error, True))
