"""What a training run leaves: when it ends, what it says, which files it writes."""
import json
import time
from dataclasses import dataclass

from common.errors import UserError
from common.files import sha256, write_json
from common.params import write_params

from .checkpoint import other_version
from .history import batch_line, draw_curves, epoch_lines, write_metrics

__all__ = ["Record", "RecordOptions", "TrainingRecord"]


class Record:
    """Base of what is recorded of a run.

    Parameters
    ----------
    run : runs.folder.Run
        The run's folders.
    log : logging.Logger
    title : str
        Stands above its curves.
    num_epochs : int
        After which it ends.
    """

    def __init__(self, run, log, title, num_epochs):
        self.run, self.log, self.title, self.num_epochs = run, log, title, num_epochs

    def phase(self, epoch):
        """What the progress bar calls an epoch."""
        return f"epoch {epoch + 1}/{self.num_epochs}"

    def finished(self, position):
        """Whether the run is at its end."""
        return position.epoch >= self.num_epochs

    def report(self, position, lr, workers):
        """Called after each reading from the device within an epoch."""

    def finish_epoch(self, row, engine):
        """Take note of an epoch's figures; called by all workers."""

    def write_params(self):
        """Write the parameter files that the next checkpoint vouches for.

        Raises
        ------
        OSError, FileError
            If one could not be written; the next call tries again.
        """

    def show(self, rows):
        """Write what is only to be seen; raises OSError."""

    def state(self):
        """What a checkpoint keeps of this record; JSON-compatible."""
        return {}

    def load(self, path, state):
        """Take up the state of the checkpoint `path`."""

    def check_network(self, path, state):
        """Raise UserError unless the checkpoint `path` is of this network."""


@dataclass(frozen=True)
class RecordOptions:
    """What a training run saves and when it ends; see the options of the same names.

    Parameters
    ----------
    val_name : str
        What the images are that it is scored on ("test", "validation").
    style : {'cifar', 'imagenet'}
        Whose log lines: see `training.history.epoch_lines`.
    save_period, keep : int
        In epochs, and how many of those files.
    early_stop : int
        Epochs without improvement before it ends; 0 never.
    plateau : training.schedule.Plateau, optional
        Scales the learning rate by the results.
    """

    val_name: str = "test"
    style: str = "cifar"
    save_period: int = 0
    keep: int = 0
    early_stop: int = 0
    plateau: object = None


class TrainingRecord(Record):
    """Of a training run: the last and the best network, metrics and curves.

    Parameters
    ----------
    run, log, title, num_epochs
        As for `Record`.
    description : dict
        The network's; stands beside every parameter file.
    options : RecordOptions
    """

    def __init__(self, run, log, title, num_epochs, description, options):
        super().__init__(run, log, title, num_epochs)
        self.description, self.options = description, options
        self.last = self.best = None            # rows
        self._waited, self._stopped = 0, False  # epochs without improvement
        self._unsaved = {}                      # name of a params file -> (arrays, row)
        self._read = None                       # when the device was last read, and images

    def finished(self, position):
        """After the last epoch, or early."""
        return self._stopped or super().finished(position)

    @property
    def factor(self):
        """What the learning rate is multiplied by, for want of improvement."""
        return self.options.plateau.factor if self.options.plateau else 1.0

    def report(self, position, lr, workers):
        """A line as in the authors' ImageNet script: speed since the last one."""
        if self.options.style != "imagenet":
            return
        totals, now = position.totals, time.monotonic()
        epoch, images, then = self._read or (None, 0, now)
        if epoch != position.epoch:
            images, then = 0, now - totals.seconds
        self._read = position.epoch, totals.images, now
        rate = (totals.images - images) * workers / max(now - then, 1e-9)
        self.log.info(batch_line(position.epoch, totals.step - 1, rate,
                                 totals.correct / totals.images, lr))

    def finish_epoch(self, row, engine):
        """Is it the best, and is it the last one? Says so, and notes what is to be saved."""
        options = self.options
        improved = self.best is None or row["val_accuracy"] > self.best["val_accuracy"]
        self.last, self.best = row, row if improved else self.best
        self._waited = 0 if improved else self._waited + 1
        if options.plateau:
            options.plateau.update(improved)
        self._stopped = 0 < options.early_stop <= self._waited
        for line in epoch_lines(row, options.style):
            self.log.info(line)
        if engine.loss_scale:
            self.log.info(f"loss scale {engine.loss_scale.scale:g}, "
                          f"{engine.loss_scale.skipped:,} steps skipped so far")
        if self._stopped:
            self.log.info(f"no improvement for {self._waited} epochs: stopped early")
        names = ["last"] + ["best"] * improved
        if options.save_period and (row["epoch"] + 1) % options.save_period == 0:
            names.append(f"epoch-{row['epoch'] + 1:04d}")
        weights = engine.weights()
        # After failures, more than the last and the best would pile up in memory.
        self._unsaved = {name: self._unsaved[name] for name in ("last", "best")
                         if name in self._unsaved}
        self._unsaved.update(dict.fromkeys(names, (weights, row)))

    def write_params(self):
        """Those of the last and the best epoch, and of every `save_period`-th."""
        for name in list(self._unsaved):
            self._write(self.run.params / f"{name}.params", *self._unsaved[name])
            del self._unsaved[name]
        self.run.drop_periodic(self.options.keep)

    def _write(self, path, weights, row):
        write_params(path, weights)
        write_json(path.with_suffix(".json"), {
            **self.description, "epoch": row["epoch"], "figures": row,
            "val_name": self.options.val_name, "sha256": sha256(path)})

    def show(self, rows):
        """Metrics and curves."""
        write_metrics(self.run.metrics, rows)
        draw_curves(rows, self.run.curves, self.title, self.options.val_name)

    def state(self):
        """Best and last row, waiting times, the network."""
        plateau = self.options.plateau
        return {"best": self.best, "waited": self._waited, "finished": self._stopped,
                "factor": self.factor, "plateau_waited": plateau.waited if plateau else 0,
                "network": self._network()}

    def load(self, path, state):
        """Take up the state of the checkpoint `path`."""
        try:
            self.last, self.best = (state["rows"] or [None])[-1], state["best"]
            self._waited, self._stopped = state["waited"], state["finished"]
            if self.options.plateau:
                self.options.plateau.factor = state["factor"]
                self.options.plateau.waited = state["plateau_waited"]
        except (KeyError, TypeError):
            raise other_version(path) from None

    def check_network(self, path, state):
        """Networks may differ although their parameters fit: attention in another order."""
        if state.get("network") != self._network():
            raise UserError(f"the run in {path.parent} trains another network; choose another "
                            "--name, or replace it with --overwrite")

    def _network(self):
        """Name and options of the network, as JSON has them."""
        return json.loads(json.dumps({name: self.description.get(name)
                                      for name in ("model", "options")}))
