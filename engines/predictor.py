"""What scoring needs of an engine: batches of images in, logits out, running ahead."""
from collections import deque

from .workers import SingleWorker

__all__ = ["Predictor"]


class Predictor:
    """Predicts batches, and runs ahead of who reads.

    A kind of it has ``_begin(images, number)``, which gives what comes of a full batch, and
    ``_end(result)``, which waits for that: logits, float32 (N, outputs).
    """

    workers = SingleWorker()
    _ahead = 0    # batches

    def predict(self, images, batch_size):
        """Logits, float32 (n, outputs), of each array of images, uint8 (n, ...)."""
        pending = deque()
        for number, each in enumerate(images):
            pending.append((self._begin(_pad(each, batch_size), number), len(each)))
            if len(pending) > self._ahead:
                yield self._next(pending)
        while pending:
            yield self._next(pending)

    def _next(self, pending):
        result, count = pending.popleft()
        return self._end(result)[:count]


def _pad(images, size):
    """Repeat the first image until there are `size`: a static graph wants one batch size."""
    import numpy as np

    missing = size - len(images)
    if missing <= 0:
        return images
    return np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
