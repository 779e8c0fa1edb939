"""The loop: epoch after epoch, scored and saved as it goes, taken up again where it was left.

A run is made of four parts. The *engine* computes. The *step* is what is done with a batch,
and at which learning rates. The *record* knows when the run ends, what is said and which
files are written. The loop strings them together. A search for a structure is the same loop
with another step and another record.
"""
import io
import math
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from common import interruption
from common.errors import FileError, UserError
from common.files import reason
from common.progress import Progress
from engines.interface import OtherNetwork
from engines.workers import total

from .checkpoint import (
    CheckpointError,
    newest_checkpoint,
    other_version,
    read_state,
    save_checkpoint,
)
from .scores import evaluate

__all__ = ["Loop", "NonFinite", "Position", "SaveFailed", "Totals", "TrainStep"]


class NonFinite(UserError):
    """A loss or a weight is not a finite number; training has stopped."""


class SaveFailed(UserError):
    """The run came to its end, but its end is not on the disk."""

    code = 3


@dataclass
class Totals:
    """What an epoch has added up so far; travels in a checkpoint within the epoch.

    Attributes
    ----------
    step : int
        Steps that are done.
    images : int
    loss, correct : float
        Sums over these images.
    seconds : float
    """

    step: int = 0
    images: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0


@dataclass
class Position:
    """Where a run stands.

    Attributes
    ----------
    epoch : int
        The epoch that is under way, from 0.
    totals : Totals
        What it has added up so far.
    rows : list of dict
        Figures of the epochs that are done (`training.history.COLUMNS`).
    """

    epoch: int = 0
    totals: Totals = field(default_factory=Totals)
    rows: list = field(default_factory=list)

    @classmethod
    def from_state(cls, path, state):
        """The position that the state of the checkpoint `path` holds.

        Raises
        ------
        training.checkpoint.CheckpointError
            If the state lacks something.
        """
        try:
            return cls(state["epoch"], Totals(**state["totals"]), state["rows"])
        except (KeyError, TypeError):
            raise other_version(path) from None

    def finish_epoch(self, lr, totals, scores):
        """Note the epoch's figures, and move on to the next one.

        Parameters
        ----------
        lr : float
            Learning rate of its last step.
        totals : Totals
            Of all workers.
        scores : dict
            From `training.scores.evaluate`.

        Returns
        -------
        dict
            The epoch's row.
        """
        row = {"epoch": self.epoch, "lr": lr,
               "train_loss": totals.loss / totals.images,
               "train_accuracy": totals.correct / totals.images, "val_loss": scores["loss"],
               "val_accuracy": scores["accuracy"], "val_top5_accuracy": scores["top5_accuracy"],
               "images_per_s": totals.images / totals.seconds, "seconds": totals.seconds}
        self.rows.append(row)
        self.epoch += 1
        self.totals = Totals()
        return row


class TrainStep:
    """One update from each batch.

    Parameters
    ----------
    engine
        See `engines.interface`; its weights are the group ``weights``.
    batches : data.batches.Batches
    rate : callable
        ``rate(number)`` -> the learning rate of a step, counted from the beginning.
    mixing : training.mixing.Mixing
    devices : int, default 1
        Of this worker.
    """

    def __init__(self, engine, batches, rate, mixing, devices=1):
        self.engine, self.batches, self.rate = engine, batches, rate
        self.mixing, self.devices = mixing, devices

    def __call__(self, epoch, index, images, labels):
        """Let the engine learn from a batch."""
        first = self.engine.workers.rank * self.devices
        mixes = [self.mixing.draw(epoch, index, first + device, *images.shape[2:])
                 for device in range(self.devices)]
        self.engine.learn((images, labels), (epoch, index),
                          {"weights": self.rate(epoch * len(self.batches) + index)}, mixes=mixes)


class Loop:
    """Trains to the end of a run.

    Parameters
    ----------
    engine
        See `engines.interface`.
    step
        ``batches``, whose epochs are trained on; ``rate(number)``, the learning rate of a step
        counted from the beginning; and ``step(epoch, index, images, labels)``, which lets the
        engine learn.
    record : training.record.Record
    val_batches : data.batches.Batches
        What is scored after each epoch.
    log_interval, checkpoint_every : int
        Steps between two readings from the device, and between two checkpoints within an
        epoch (0: none).
    """

    def __init__(self, engine, step, record, val_batches, log_interval=20, checkpoint_every=0):
        self.engine, self.step, self.record = engine, step, record
        self.val_batches = val_batches
        self.log_interval, self.checkpoint_every = log_interval, checkpoint_every
        self.workers, self.log = engine.workers, record.log
        self.steps_per_epoch = len(step.batches)
        self.position = Position()
        self._pending = deque()     # (step, numbers of its images) of what is not collected yet
        self._unsaved = None        # why the last save failed

    # ---- the run -------------------------------------------------------------------------

    def __call__(self):
        """Train to the end.

        Raises
        ------
        NonFinite
        interruption.Interrupted
            If a signal asked for it; all is saved.
        SaveFailed
            If the disk did not take the last save.
        """
        if self.position.rows:
            # The run may have been killed between a checkpoint and these.
            self._show()
        while not self.record.finished(self.position):
            self._train_epoch()
            try:
                self._finish_epoch()
            except interruption.Interrupted:
                self._checkpoint()
                raise
            self._checkpoint()
            self._show()
            if self.workers.count == 1:    # several stop after the same step only
                interruption.check()
        if self._unsaved:
            raise SaveFailed(f"the end of the run is not saved: {self._unsaved}. Make room, and "
                             "go on from the last checkpoint with --resume")

    def _train_epoch(self):
        position, steps = self.position, self.steps_per_epoch
        later = (self.record.num_epochs - position.epoch - 1) * steps
        progress = Progress(self.record.phase(position.epoch), steps, later,
                            None if self.workers.first else io.StringIO(), self.workers.count)
        self._started = time.monotonic() - position.totals.seconds
        batches = self.step.batches.epoch(position.epoch, position.totals.step)
        try:
            for index, (images, labels, numbers) in enumerate(batches, position.totals.step):
                self.step(position.epoch, index, images, labels)
                self._pending.append((index, numbers))
                if len(self._pending) >= self.log_interval:
                    self._collect()
                    self._report(progress, index, len(labels))
                self._after_step(index + 1)
            self._collect()
        finally:
            progress.close()

    def _report(self, progress, index, images):
        totals = self.position.totals
        progress.close()    # the record may write a line
        self.record.report(self.position, self._rate(index), self.workers.count)
        progress.update(index + 1, images, f"loss {totals.loss / totals.images:.3f} "
                                           f"acc {100 * totals.correct / totals.images:.1f} %")

    def _rate(self, index):
        return self.step.rate(self.position.epoch * self.steps_per_epoch + index)

    def _collect(self):
        """Read the finished steps' results into the totals, one after the other.

        The order of the additions does not depend on how often this is called, so an
        interrupted and resumed epoch ends with the same bits.
        """
        totals = self.position.totals
        for loss, hits, count in self.engine.collect():
            index, numbers = self._pending.popleft()
            if not math.isfinite(loss):
                raise self._non_finite(loss, index, () if numbers is None else numbers)
            totals.loss += loss
            totals.correct += hits
            totals.images += count
            totals.step = index + 1
        totals.seconds = time.monotonic() - self._started

    def _non_finite(self, loss, index, numbers):
        error = NonFinite(
            f"the loss is {loss} in epoch {self.position.epoch}, step {index} (images "
            f"{', '.join(map(str, numbers[:8])) or 'unknown'} ...): training stops; the last "
            "checkpoint is kept. A lower --lr or a longer --warmup-epochs may help")
        self.log.error(f"{error}; all images of that batch, by number: "
                       f"{' '.join(map(str, numbers)) or 'not known'}")
        return error

    def _after_step(self, done):
        """Save if it is time, and stop if somebody asks for it."""
        stop = self.workers.stops_after(self.position.epoch * self.steps_per_epoch + done)
        due = (self.checkpoint_every and done % self.checkpoint_every == 0
               and done < self.steps_per_epoch)
        if due or stop:
            self._collect()
            self._checkpoint()
        if stop:
            self.workers.stop()

    def _finish_epoch(self):
        """Score, note the epoch's figures, and move on to the next one."""
        scores = evaluate(self.engine, self.val_batches)
        parts = self.workers.gather(asdict(self.position.totals))
        sums = total([{name: part[name] for name in ("images", "loss", "correct")}
                      for part in parts])
        totals = replace(self.position.totals, **sums)
        row = self.position.finish_epoch(self._rate(totals.step - 1), totals, scores)
        self.record.finish_epoch(row, self.engine)

    def _show(self):
        """Write what is only to be seen; if that fails, say so."""
        if not self.workers.first:
            return
        try:
            self.record.show(self.position.rows)
        except OSError as error:
            run = self.record.run
            self.log.warning(f"could not write figures and curves to {run.logs} or "
                             f"{run.curves.parent}: {error.strerror}; the next epoch tries again")

    # ---- checkpoints ---------------------------------------------------------------------

    def _checkpoint(self):
        """Save all there is to save. If that fails, say so: the next call tries again."""
        if not self.engine.is_finite():
            # They must not take the place of the last good ones.
            raise NonFinite(
                f"weights are not finite in epoch {self.position.epoch}, after step "
                f"{self.position.totals.step}: training stops; the last checkpoint is kept. A "
                "lower --lr or a longer --warmup-epochs may help")
        all_totals = self.workers.gather(asdict(self.position.totals))
        state = self.engine.state()
        if not self.workers.first:
            return
        run, number = self.record.run, (self.position.epoch * self.steps_per_epoch
                                        + self.position.totals.step)
        content = {**asdict(self.position), **self.record.state(), "all_totals": all_totals,
                   "steps_per_epoch": self.steps_per_epoch, "data": self._data}
        try:
            # A checkpoint says that the files of its best epoch are there: so they come first.
            self.record.write_params()
            save_checkpoint(run.checkpoints, number, state, content)
            self._unsaved = None
        except (OSError, FileError) as error:
            self._unsaved = reason(error)
            self.log.warning(f"could not save to {run.params}: {self._unsaved}; the checkpoint "
                             "before is kept, and the next save tries again")

    def resume(self):
        """Take up the run at its newest undamaged checkpoint.

        Returns
        -------
        bool
            Whether there was one.

        Raises
        ------
        UserError
            If all checkpoints are damaged, or the newest one belongs to another run; or if
            there is none, but the account of a finished run, which a new one would overwrite.
        """
        found = self._newest() if self.workers.first else None
        path, content = self.workers.gather(found and (str(found[0]), found[1]))[0] or (None, None)
        if path is None:
            return False
        path = Path(path)
        self.record.check_network(path, content)
        self._check_steps(content)
        self._check_data(path, content)
        state = read_state(path, content, self.workers)
        try:
            self.engine.load_state(state)
        except OtherNetwork as error:
            raise CheckpointError(f"checkpoint {path} {error}") from None
        self.position = Position.from_state(path, content)
        if self.workers.count > 1:
            self.position.totals = Totals(**content["all_totals"][self.workers.rank])
        self.record.load(path, content)
        self.log.info(f"resumed from {path}: epoch {self.position.epoch}, "
                      f"step {self.position.totals.step}")
        return True

    def _newest(self):
        run = self.record.run
        found = newest_checkpoint(run.checkpoints, self.log.warning)
        if found is None and run.is_accounted_for():
            raise UserError(f"{run.logs} is the account of a finished run, but {run.checkpoints} "
                            "holds no checkpoint to go on from: choose another --name, or "
                            "--overwrite")
        return found

    @cached_property
    def _data(self):
        """Fingerprint of the training images."""
        return self.step.batches.digest()

    def _check_data(self, path, content):
        """Raise UserError if the checkpoint is of a run on other images or labels."""
        if "data" not in content:
            self.log.warning(f"{path} does not say which images it was trained on: make sure that "
                             "they are these")
        elif content["data"] != self._data:
            raise UserError("a resumed run goes on as it began: its training images or their "
                            "labels are not those of before; name the same data, or start a new "
                            "run with another --name")

    def _check_steps(self, content):
        """Raise UserError if an epoch would not have the steps that it had."""
        had = len(content.get("all_totals", (None,))), content.get("steps_per_epoch")
        have = self.workers.count, self.steps_per_epoch
        if had != have and had[1] is not None:
            raise UserError("a resumed run goes on as it began: it had {} worker(s) and {:,} steps "
                            "an epoch, this one would have {} and {:,}; start as many workers and "
                            "devices as before".format(*had, *have))
