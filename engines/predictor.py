"""A network of MXNet's that predicts."""
from collections import deque

import numpy as np

from .workers import SingleWorker

__all__ = ["Predictor", "pad"]

_AHEAD = 16    # batches that a prediction runs ahead


class Predictor:
    """A network that predicts, running ahead of who reads; all of an engine that scoring needs.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Maps (N, 3, H, W) to logits (N, outputs).
    normalize : callable
        ``normalize(images, ctx)``: uint8 images to the network's input.
    contexts : list of mxnet.Context
        Batches go to them in turn.
    """

    workers = SingleWorker()

    def __init__(self, net, normalize, contexts):
        self.net, self.normalize, self.contexts = net, normalize, contexts

    def predict(self, images, batch_size):
        """Logits, float32 (n, outputs), of each array of images, uint8 (n, ...)."""
        pending = deque()
        for number, each in enumerate(images):
            ctx = self.contexts[number % len(self.contexts)]
            logits = self.net(self.normalize(pad(each, batch_size), ctx))
            pending.append(logits[:len(each)].astype("float32"))
            if len(pending) > _AHEAD:
                yield pending.popleft().asnumpy()
        while pending:
            yield pending.popleft().asnumpy()


def pad(images, size):
    """Repeat the first image until there are `size`: a static graph wants one batch size."""
    missing = size - len(images)
    if missing <= 0:
        return images
    return np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
