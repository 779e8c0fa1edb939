"""How well a network does: every image once."""
from collections import deque

import numpy as np

from common import interruption

__all__ = ["evaluate"]

_TOP = 5


def evaluate(engine, batches, progress=None):
    """Score a network on every image exactly once; several workers, each on its part.

    Parameters
    ----------
    engine
        With ``predict`` and ``workers``; see `engines.interface`.
    batches : data.batches.Batches
        Not shuffled, last partial batch kept.
    progress : common.progress.Progress, optional

    Returns
    -------
    dict
        ``loss`` (mean cross-entropy), ``accuracy`` and ``top5_accuracy`` (fractions), and
        ``count``, the number of images, over all workers.

    Raises
    ------
    interruption.Interrupted
        If a signal asks a single worker to stop.
    """
    waiting, workers = deque(), engine.workers

    def images():
        for images, labels, _ in batches.epoch(0):
            if workers.count == 1:
                interruption.check()
            waiting.append(labels)
            yield images

    sums = np.zeros(4)
    for step, logits in enumerate(engine.predict(images(), batches.batch_size)):
        sums += _score(logits, waiting.popleft())
        if progress:
            progress.update(step + 1, batches.batch_size)
    loss, top1, top5, count = np.sum(workers.gather(sums.tolist()), axis=0)
    return {"loss": float(loss / count), "accuracy": float(top1 / count),
            "top5_accuracy": float(top5 / count), "count": int(count)}


def _score(logits, labels):
    """Sums over a batch: cross-entropy, top-1 hits, top-5 hits, and its size."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(labels)), labels]
    loss = np.log(np.exp(shifted).sum(axis=1)) - own
    # Of equal logits, those of the smaller class numbers count as larger.
    best = np.argsort(-shifted, axis=1, kind="stable")[:, :_TOP]
    hits = best == np.asarray(labels)[:, None]
    return np.array([loss.sum(), hits[:, 0].sum(), hits.sum(), len(labels)])
