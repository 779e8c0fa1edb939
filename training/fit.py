"""The training loop: one for every network and data set.

`train_epoch` and `evaluate` do one pass each; `Fit` strings passes together into a run that
logs, draws, saves, and can be taken up again where it was left.
"""
import json
import math
import time
from dataclasses import asdict, dataclass, field

import mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd, nd

from params_format import check_params

from . import interruption
from .checkpoint import (
    CheckpointError,
    SaveError,
    load_checkpoint,
    newest_state,
    save_checkpoint,
    save_errors,
)
from .errors import UserError
from .files import replacing, sha256, write_json
from .finite import all_finite
from .history import History, batch_line, draw_curves, epoch_lines
from .loss_scale import LossScale
from .progress import Progress

__all__ = ["Normalize", "copy_parameters", "evaluate", "train_epoch", "Totals", "Fit", "FitOptions",
           "NonFiniteLoss", "SaveFailed"]

_TOP = 5


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


class SaveFailed(UserError):
    """The run came to its end, but its end is not on the disk."""

    code = 3


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
        x = nd.array(images, ctx=ctx, dtype="uint8").astype("float32")
        return nd.broadcast_mul(nd.broadcast_sub(x, shift), scale).astype(self._dtype, copy=False)


def copy_parameters(source, target):
    """Copy all parameters and statistics of a network into another of the same structure.

    The network that trains must never predict on a CPU: MXNet then reorders its convolution
    weights in place, at a moment that depends on timing, and the updates that follow round
    differently. A second network that predicts keeps training reproducible bit for bit.
    """
    # BatchNorm's running statistics are written by the backward pass behind the engine's
    # back: waiting for the arrays themselves does not wait for it.
    nd.waitall()
    targets = target._collect_params_with_prefix()
    for name, parameter in source._collect_params_with_prefix().items():
        targets[name].set_data(parameter.data(parameter.list_ctx()[0]))


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
                              nd.array(labels, ctx=ctx, dtype="int32"), len(images)))
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


class _Step:
    """One optimizer update on one global batch."""

    def __init__(self, net, trainer, objective, normalize, contexts, seed, reseed, workers=1,
                 scaling=None):
        self.net, self.trainer, self.objective = net, trainer, objective
        self.normalize, self.contexts = normalize, contexts
        self.seed, self.reseed = seed, reseed
        self.workers, self.scaling = workers, scaling

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
            mx.random.seed(_seed_of(self.seed, epoch, step))
        outputs = []
        for k, part in enumerate(np.array_split(np.arange(len(labels)), len(self.contexts))):
            ctx = self.contexts[k]
            label = nd.array(labels[part], ctx=ctx, dtype="int32")
            x, target = self.objective.prepare(
                self.normalize(images[part], ctx), label,
                lambda k=k: np.random.Generator(np.random.PCG64([self.seed, epoch, step, k])),
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
        ``after(totals, collect)`` is called after each step; it may call ``collect()`` to have
        the totals up to date, and save.
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


class _Interruptible:
    """Batches that end with `Interrupted` when a signal asks for it."""

    def __init__(self, batches):
        self._batches, self.batch_size = batches, batches.batch_size

    def epoch(self, epoch):
        for batch in self._batches.epoch(epoch):
            interruption.check()
            yield batch


@dataclass
class FitOptions:
    """How long to train and when to save; see the scripts' options of the same names."""

    num_epochs: int
    seed: int = 0
    log_interval: int = 20
    save_period: int = 0
    keep: int = 0
    checkpoint_every: int = 0
    early_stop: int = 0
    val_name: str = "test"
    title: str = ""
    reseed: bool = False
    style: str = "cifar"
    workers: int = 1
    loss_scaling: bool = False


@dataclass
class _Position:
    """Where a run stands; everything of it that is not an array. Travels in checkpoints."""

    epoch: int = 0
    totals: Totals = field(default_factory=Totals)
    rows: list = field(default_factory=list)
    best: dict = None
    waited: int = 0
    factor: float = 1.0
    plateau_waited: int = 0
    finished: bool = False
    scaling: dict = None

    @classmethod
    def from_state(cls, state):
        values = {name: state[name] for name in cls.__dataclass_fields__}
        values["totals"] = Totals(**values["totals"])
        return cls(**values)


class Fit:
    """A training run.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialized on `contexts`.
    predictor : mxnet.gluon.HybridBlock
        A second network of the same structure, initialized, for prediction: see
        `copy_parameters`.
    trainer : mxnet.gluon.Trainer
    objective : training.objective.Objective
    schedule : training.schedule.Schedule
    train_batches, val_batches : data.batches.Batches
    normalize : Normalize
    contexts : list of mxnet.Context
    run : training.run.Run
        The run's folders.
    log : logging.Logger
    options : FitOptions
    description : dict
        The network's description; stands beside every saved parameter file.
    plateau : training.schedule.Plateau, optional
        Scales the learning rate by the results.
    """

    def __init__(self, net, predictor, trainer, objective, schedule, train_batches, val_batches,
                 normalize, contexts, run, log, options, description, plateau=None):
        self.net, self.predictor = net, predictor
        self.trainer, self.schedule = trainer, schedule
        self.train_batches, self.val_batches = train_batches, val_batches
        self.normalize, self.contexts = normalize, contexts
        self.run, self.log, self.options = run, log, options
        self.description, self.plateau = description, plateau
        self.steps_per_epoch = len(train_batches)
        self.step = _Step(net, trainer, objective, normalize, contexts, options.seed,
                          options.reseed, options.workers,
                          LossScale() if options.loss_scaling else None)
        self.position = _Position()
        self._owed = {}         # params files to be written: name -> (arrays, row)
        self._unsaved = None    # why the last save failed

    def resume(self):
        """Take up the run at its newest undamaged checkpoint.

        Returns
        -------
        bool
            Whether there was one.
        """
        found = newest_state(self.run.checkpoints, self.log.warning)
        if found is None:
            return False
        path, state = found
        # Networks may differ although their parameters fit: attention in another order.
        if state["network"] != self._network():
            raise UserError(f"the run in {self.run.checkpoints} trains another network; choose "
                            "another --name, or replace it with --overwrite")
        load_checkpoint(path, state, self.net, self.trainer)
        try:
            self.position = _Position.from_state(state)
        except (KeyError, TypeError):
            raise CheckpointError(f"checkpoint {path} was written by another version") from None
        if self.plateau:
            self.plateau.factor = self.position.factor
            self.plateau.waited = self.position.plateau_waited
        if self.step.scaling:
            self.step.scaling.state = self.position.scaling
        self.log.info(f"resumed from {path}: epoch {self.position.epoch}, "
                      f"step {self.position.totals.step}")
        return True

    def __call__(self):
        """Train to the end.

        Returns
        -------
        dict
            ``last`` and ``best``: the rows of those epochs.

        Raises
        ------
        NonFiniteLoss
        interruption.Interrupted
            If a signal asked for it; all is saved.
        SaveFailed
            If the disk took none of the last saves.
        """
        position = self.position
        if position.rows:
            # The run may have been killed between a checkpoint and these.
            self._show()
        while not position.finished:
            self._train_one_epoch()
            try:
                row = self._finish_epoch()
            except interruption.Interrupted:
                self._checkpoint()
                raise
            self._save_epoch(row)
            interruption.check()
        if self._unsaved:
            raise SaveFailed(f"the end of the run is not saved: {self._unsaved}. Make room, and "
                             "go on from the last checkpoint with --resume")
        return {"last": position.rows[-1], "best": position.best}

    def _rate(self, index):
        step = self.position.epoch * self.steps_per_epoch + index
        return self.schedule(step) * self.position.factor

    def _train_one_epoch(self):
        position, options = self.position, self.options
        later = (options.num_epochs - position.epoch - 1) * self.steps_per_epoch
        progress = Progress(f"epoch {position.epoch + 1}/{options.num_epochs}",
                            self.steps_per_epoch, later)
        try:
            train_epoch(self.step, self.train_batches, position.epoch,
                        lambda index: self.trainer.set_learning_rate(self._rate(index)),
                        position.totals, progress, options.log_interval, self._maybe_checkpoint,
                        self._batch_logger() if options.style == "imagenet" else None)
        except NonFiniteLoss as error:
            batch = " ".join(map(str, error.indices)) or "not known"
            self.log.error(f"{error}; all images of that batch, by number: {batch}")
            raise
        finally:
            progress.close()

    def _batch_logger(self):
        """Logs a line at each read from the device: speed since the last one."""
        position = self.position
        since = [time.monotonic(), position.totals.images]

        def log_batches(index):
            totals, now = position.totals, time.monotonic()
            rate = (totals.images - since[1]) / max(now - since[0], 1e-9)
            since[:] = now, totals.images
            self.log.info(batch_line(position.epoch, index, rate, totals.correct / totals.images,
                                     self.trainer.learning_rate))
        return log_batches

    def _maybe_checkpoint(self, done, collect):
        if self.step.scaling:
            self.position.scaling = self.step.scaling.state
        every = self.options.checkpoint_every
        due = every and done % every == 0 and done < self.steps_per_epoch
        if due or interruption.requested():
            collect()
            self._checkpoint()
        interruption.check()

    def _finish_epoch(self):
        """Evaluate, note the epoch's figures, and move on to the next one."""
        position, totals = self.position, self.position.totals
        copy_parameters(self.net, self.predictor)
        val = evaluate(self.predictor, _Interruptible(self.val_batches), self.normalize,
                       self.contexts)
        row = {"epoch": position.epoch, "lr": self._rate(totals.step - 1),
               "train_loss": totals.loss / totals.images,
               "train_accuracy": totals.correct / totals.images, "val_loss": val["loss"],
               "val_accuracy": val["accuracy"], "val_top5_accuracy": val["top5_accuracy"],
               "images_per_s": totals.images / totals.seconds, "seconds": totals.seconds}
        position.rows.append(row)
        improved = position.best is None or row["val_accuracy"] > position.best["val_accuracy"]
        if improved:
            position.best = row
        position.waited = 0 if improved else position.waited + 1
        if self.plateau:
            self.plateau.update(improved)
            position.factor, position.plateau_waited = self.plateau.factor, self.plateau.waited
        position.epoch += 1
        position.totals = Totals()
        stopped = 0 < self.options.early_stop <= position.waited
        position.finished = stopped or position.epoch >= self.options.num_epochs
        for line in epoch_lines(row, self.options.style):
            self.log.info(line)
        if self.step.scaling:
            self.log.info(f"loss scale {self.step.scaling.scale:g}, {self.step.scaling.skipped:,} "
                          "steps skipped so far")
        if stopped:
            self.log.info(f"no improvement for {position.waited} epochs: stopped early")
        return row

    def _save_epoch(self, row):
        """Params, then the checkpoint that vouches for them, then what is only to be seen."""
        options = self.options
        names = ["last"]
        if row is self.position.best:
            names.append("best")
        if options.save_period and (row["epoch"] + 1) % options.save_period == 0:
            names.append(f"epoch-{row['epoch'] + 1:04d}")
        arrays = {name: parameter._reduce()
                  for name, parameter in self.net._collect_params_with_prefix().items()}
        self._owed.update(dict.fromkeys(names, (arrays, row)))
        self._checkpoint()
        self.run.drop_periodic(options.keep)
        self._show()

    def _show(self):
        try:
            History(self.run.metrics, self.position.rows).write()
            draw_curves(self.position.rows, self.run.curves, self.options.title,
                        self.options.val_name)
        except OSError as error:
            self.log.warning(f"could not write {self.run.metrics} or {self.run.curves}: "
                             f"{error.strerror}; the next epoch tries again")

    def _save_params(self, name, arrays, row):
        path = self.run.params / f"{name}.params"
        with save_errors():
            with replacing(path) as temporary:
                nd.save(str(temporary), arrays)
                # MXNet does not look whether its last bytes reached the disk.
                check_params(temporary)
            write_json(path.with_suffix(".json"), {
                **self.description, "epoch": row["epoch"], "figures": row,
                "val_name": self.options.val_name, "sha256": sha256(path)})

    def _checkpoint(self):
        """Save all there is to save. If that fails, say so: the next call tries again."""
        self._check_finite()
        step = self.position.epoch * self.steps_per_epoch + self.position.totals.step
        try:
            # A checkpoint says that the files of its best epoch are there: so they come first.
            for name in list(self._owed):
                self._save_params(name, *self._owed[name])
                del self._owed[name]
            save_checkpoint(self.run.checkpoints, step, self.net, self.trainer,
                            {**asdict(self.position), "network": self._network()})
            self._unsaved = None
        except SaveError as error:
            # Others would pile up in memory.
            self._owed = {name: self._owed[name] for name in ("last", "best")
                          if name in self._owed}
            self._unsaved = str(error)
            self.log.warning(f"could not save to {self.run.params}: {error}; the checkpoint "
                             "before is kept, and the next save tries again")

    def _check_finite(self):
        """Weights that are not finite must not take the place of the last good ones."""
        if not all_finite(parameter.data(parameter.list_ctx()[0])
                          for parameter in self.net.collect_params().values()):
            raise NonFiniteLoss(
                f"weights are not finite in epoch {self.position.epoch}, after step "
                f"{self.position.totals.step}: training stops; the last checkpoint is kept. A "
                "lower --lr or a longer --warmup-epochs may help")

    def _network(self):
        """Name and options of the network, as JSON has them."""
        return json.loads(json.dumps({name: self.description.get(name)
                                      for name in ("model", "options")}))

