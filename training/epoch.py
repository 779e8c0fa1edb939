"""One pass over the data: training or scoring.

`train_epoch` and `evaluate` are what every run is made of; `training.fit` strings them together.
"""
import math
import time
from dataclasses import dataclass

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd, nd

from common.errors import UserError

__all__ = ["Normalize", "to_device", "copy_parameters", "evaluate", "train_epoch", "Totals",
           "Step", "NonFiniteLoss"]

_TOP = 5
_AHEAD = 3    # steps that wait in MXNet's queue at most; each holds its images


class NonFiniteLoss(UserError):
    """The loss is not a finite number; training has stopped.

    Attributes
    ----------
    indices : sequence of int
        The images of that batch, by their number in the training set.
    """

    def __init__(self, message, indices=()):
        super().__init__(message)
        self.indices = () if indices is None else indices


def to_device(array, ctx, dtype):
    """A NumPy array on a device, without waiting for it.

    ``nd.array`` copies in the calling thread, and waits for the engine to let it: the device
    would idle until the next step is dispatched. On a CPU the result shares `array`'s memory,
    which is write-protected from then on.
    """
    array = np.ascontiguousarray(array, dtype)
    return nd.from_numpy(array).as_in_context(ctx)


class Normalize:
    """Bring a batch of uint8 images to a device and normalise it there.

    Parameters
    ----------
    mean, std : sequence of 3 floats
        Of the channels, with pixels in [0, 1].
    dtype : str, default 'float32'
        Type of the result.
    """

    def __init__(self, mean, std, dtype="float32"):
        self._shift = 255.0 * np.asarray(mean, np.float32).reshape(1, 3, 1, 1)
        self._scale = 1.0 / (255.0 * np.asarray(std, np.float32).reshape(1, 3, 1, 1))
        self._dtype = dtype
        self._constants = {}

    def __call__(self, images, ctx):
        """(N, 3, H, W) uint8 on the host -> (N, 3, H, W) floats on `ctx`."""
        if ctx not in self._constants:
            self._constants[ctx] = (nd.array(self._shift, ctx), nd.array(self._scale, ctx))
        shift, scale = self._constants[ctx]
        x = to_device(images, ctx, np.uint8).astype("float32")
        return nd.broadcast_mul(nd.broadcast_sub(x, shift), scale).astype(self._dtype, copy=False)


def copy_parameters(source, target):
    """Copy all parameters and statistics of a network into another of the same structure.

    The network that trains must never predict on a CPU: MXNet then reorders its convolution
    weights in place, at a moment that depends on timing, and the updates that follow round
    differently. A second network that predicts keeps training reproducible bit for bit.

    Devices have running statistics of their own: of these the mean is taken, as in saved files.
    """
    # BatchNorm's running statistics are written by the backward pass behind the engine's
    # back: waiting for the arrays themselves does not wait for it.
    nd.waitall()
    targets = target._collect_params_with_prefix()
    for name, parameter in source._collect_params_with_prefix().items():
        contexts = parameter.list_ctx()
        targets[name].set_data(parameter._reduce() if len(contexts) > 1
                               else parameter.data(contexts[0]))


def _pad(images, size):
    """Repeat the first image until there are `size`: a static graph wants one batch size."""
    missing = size - len(images)
    if missing <= 0:
        return images
    return np.concatenate([images, np.repeat(images[:1], missing, axis=0)])


def evaluate(net, batches, normalize, contexts, progress=None):
    """Score a network on every image exactly once.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Maps (N, 3, H, W) to logits (N, classes).
    batches : data.batches.Batches
        Not shuffled, last partial batch kept.
    normalize : Normalize
    contexts : list of mxnet.Context
        Batches go to them in turn.
    progress : Progress, optional

    Returns
    -------
    dict
        ``loss`` (mean cross-entropy), ``accuracy`` and ``top5_accuracy`` (fractions), and
        ``count``, the number of images.
    """
    pending, totals = [], np.zeros(4)
    for step, (images, labels, _) in enumerate(batches.epoch(0)):
        ctx = contexts[step % len(contexts)]
        logits = net(normalize(_pad(images, batches.batch_size), ctx))
        pending.append(_score(logits[:len(images)].astype("float32"),
                              to_device(labels, ctx, np.int32), len(images)))
        if len(pending) == 16:
            totals += _read(pending)
            if progress:
                progress.update(step + 1, batches.batch_size)
    totals += _read(pending)
    loss, top1, top5, count = totals
    return {"loss": loss / count, "accuracy": top1 / count, "top5_accuracy": top5 / count,
            "count": int(count)}


def _score(logits, labels, count):
    """Sums over a batch, left on the device: loss, top-1 hits, top-5 hits; and its size."""
    loss = -nd.pick(nd.log_softmax(logits), labels).sum()
    best = logits.topk(k=min(_TOP, logits.shape[1]), ret_typ="indices", dtype="int32")
    hits = nd.broadcast_equal(best, labels.reshape((-1, 1)))
    return loss, hits[:, 0].astype("float32").sum(), hits.astype("float32").sum(), count


def _read(pending):
    """Sum and clear the scores of several batches (a device read)."""
    total = np.zeros(4)
    for *sums, count in pending:
        total += [float(s.asscalar()) for s in sums] + [count]
    pending.clear()
    return total


@dataclass
class Totals:
    """What an epoch has added up so far; travels in a mid-epoch checkpoint."""

    step: int = 0
    images: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass
class _Pending:
    """Results of one step, still on the device."""

    step: int
    count: int
    indices: np.ndarray
    losses: list
    hits: list


class Step:
    """One optimizer update on one global batch."""

    def __init__(self, net, trainer, objective, normalize, contexts, seed, reseed, workers=1,
                 scaling=None, rank=0):
        self.net, self.trainer, self.objective = net, trainer, objective
        self.normalize, self.contexts = normalize, contexts
        self.seed, self.reseed = seed, reseed
        self.workers, self.scaling, self.rank = workers, scaling, rank

    def __call__(self, epoch, step, images, labels):
        """Returns the summed loss and the number of hits of each device, unread."""
        results = self.gradients(epoch, step, images, labels)
        self._update(len(labels) * self.workers)
        return results

    def _update(self, images):
        if self.scaling:
            self.scaling.step(self.trainer, images)
        else:
            self.trainer.step(images)

    def gradients(self, epoch, step, images, labels):
        """Compute the gradients and leave them; returns the same."""
        if self.reseed:
            # Dropout draws from MXNet's own stream: tie it to the step, so that a resumed
            # run draws the same masks.
            own = (self.rank,) if self.rank else ()
            mx.random.seed(_seed_of(self.seed, epoch, step, *own))
        outputs = []
        parts = zip(self.contexts, *(np.array_split(each, len(self.contexts))
                                     for each in (images, labels)))
        for k, (ctx, own_images, own_labels) in enumerate(parts):
            number = self.rank * len(self.contexts) + k
            x, target = self.objective.prepare(
                self.normalize(own_images, ctx), to_device(own_labels, ctx, np.int32),
                lambda number=number: np.random.Generator(
                    np.random.PCG64([self.seed, epoch, step, number])),
                epoch)
            with autograd.record():
                logits = self.net(x)
                loss = self.objective(logits, target)
            outputs.append((loss, logits, target))
        losses = [loss for loss, _, _ in outputs]
        autograd.backward(losses, self.scaling.head_gradients(losses) if self.scaling else None)
        return ([loss.sum() for loss in losses],
                [_hits(logits, target) for _, logits, target in outputs])


def _seed_of(*numbers):
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] & 0x7FFFFFFF)


def _hits(logits, target):
    """How many images are given their class (their larger share, where targets are mixed)."""
    if isinstance(target, tuple):    # the images' own, and a teacher's
        target = target[0]
    target = target.argmax(axis=1) if target.ndim == 2 else target.astype("float32")
    return (logits.argmax(axis=1).astype("float32") == target).sum()


def _collect(pending, totals, epoch):
    """Read the finished steps' results into the totals, one after the other.

    The order of the additions does not depend on how often this is called, so an interrupted
    and resumed epoch ends with the same bits.
    """
    for item in pending:
        loss = sum(float(part.asscalar()) for part in item.losses)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} in epoch {epoch}, step {item.step} (images "
                f"{', '.join(map(str, item.indices[:8])) or 'unknown'} ...): training stops; "
                "the last checkpoint is kept. A lower --lr or a longer --warmup-epochs may help",
                item.indices)
        totals.loss += loss
        totals.correct += sum(float(part.asscalar()) for part in item.hits)
        totals.images += item.count
        totals.step = item.step + 1
    pending.clear()


def train_epoch(step, batches, epoch, set_rate, totals, progress, log_interval=20, after=None,
                report=None):
    """Train for one epoch, or for the rest of one.

    Parameters
    ----------
    step : callable
        ``step(epoch, index, images, labels)`` does an update and returns unread results.
    batches : data.batches.Batches
    epoch : int
        Counted from 0.
    set_rate : callable
        ``set_rate(index)`` sets the learning rate of the epoch's step `index`.
    totals : Totals
        Where to start; filled while training.
    progress : Progress
    log_interval : int, default 20
        Steps between two reads from the device. Nothing else waits for it.
    after : callable, optional
        ``after(done, collect)`` is called after each step, with the number of the epoch's steps
        that are done; it may call ``collect()`` to have the totals up to date, and save.
    report : callable, optional
        ``report(index)`` is called after each read from the device.

    Raises
    ------
    NonFiniteLoss
        If a loss is not finite; names the step.
    """
    pending, start = [], time.monotonic() - totals.seconds

    def collect():
        _collect(pending, totals, epoch)
        totals.seconds = time.monotonic() - start

    for index, (images, labels, indices) in enumerate(batches.epoch(epoch, totals.step),
                                                      totals.step):
        set_rate(index)
        pending.append(_Pending(index, len(labels), () if indices is None else indices,
                                *step(epoch, index, images, labels)))
        if len(pending) > _AHEAD:
            pending[-1 - _AHEAD].losses[0].wait_to_read()
        if len(pending) >= log_interval:
            collect()
            progress.update(index + 1, len(labels),
                            f"loss {totals.loss / totals.images:.3f} "
                            f"acc {100 * totals.correct / totals.images:.1f} %")
            if report:
                report(index)
        if after:
            after(index + 1, collect)
    collect()
