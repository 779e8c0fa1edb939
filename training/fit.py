"""The training loop: one for every network and data set.

`Fit` strings passes over the data (`training.epoch`) together into a run that logs, draws,
saves, and can be taken up again where it was left.
"""
import io
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
from mxnet import nd

from common import interruption
from common.errors import UserError
from common.files import replacing, sha256, write_json
from common.params import check_params
from common.progress import Progress

from .checkpoint import (
    array_files,
    load_checkpoint,
    other_version,
    save_checkpoint,
    save_errors,
)
from .epoch import Step, Totals, copy_parameters, evaluate
from .history import History, batch_line, draw_curves, epoch_lines
from .loop import Loop
from .loss_scale import LossScale
from .position import Position
from .workers import Alone, averaged, set_running_statistics, total

__all__ = ["Fit", "FitOptions", "evaluate_together"]


class _Interruptible:
    """Batches that end with `Interrupted` when a signal asks for it."""

    def __init__(self, batches):
        self._batches, self.batch_size = batches, batches.batch_size

    def epoch(self, epoch):
        for batch in self._batches.epoch(epoch):
            interruption.check()
            yield batch


def evaluate_together(workers, net, batches, normalize, contexts):
    """As `training.epoch.evaluate`, of all workers, each of which has its part of the images."""
    if workers.count == 1:
        return evaluate(net, _Interruptible(batches), normalize, contexts)
    scores = evaluate(net, batches, normalize, contexts)
    parts = workers.gather({name: value * (1 if name == "count" else scores["count"])
                            for name, value in scores.items()})
    sums = total(parts)
    return {name: value if name == "count" else value / sums["count"]
            for name, value in sums.items()}


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
    loss_scaling: bool = False


@dataclass
class _Position(Position):
    """Where a training run stands."""

    best: dict = None
    waited: int = 0
    factor: float = 1.0
    plateau_waited: int = 0
    finished: bool = False
    scaling: dict = None


class Fit(Loop):
    """A training run.

    Parameters
    ----------
    net, predictor
        As for `training.loop.Loop`.
    trainer : mxnet.gluon.Trainer
    objective : training.objective.Objective
    schedule : training.schedule.Schedule
    train_batches, val_batches : data.batches.Batches
    normalize : Normalize
    contexts : list of mxnet.Context
    run : training.run.Run or None
        The run's folders; only worker 0 needs them.
    log : logging.Logger
    options : FitOptions
    description : dict
        The network's description; stands beside every saved parameter file.
    plateau : training.schedule.Plateau, optional
        Scales the learning rate by the results.
    workers : training.workers.Alone or training.workers.Workers, optional
        Those that train this network together.
    """

    def __init__(self, net, predictor, trainer, objective, schedule, train_batches, val_batches,
                 normalize, contexts, run, log, options, description, plateau=None,
                 workers=None):
        super().__init__(net, predictor, train_batches, val_batches, normalize, contexts, run, log,
                         options)
        self.workers = workers or Alone()
        self.trainer, self.schedule = trainer, schedule
        self.description, self.plateau = description, plateau
        self.step = Step(net, trainer, objective, normalize, contexts, options.seed,
                         options.reseed, self.workers.count,
                         LossScale() if options.loss_scaling else None, self.workers.rank)
        self.position = _Position()
        self.workers.start(trainer)
        self._owed = {}    # params files to be written: name -> (arrays, row)

    def resume(self):
        """Take up the run at its newest undamaged checkpoint.

        Returns
        -------
        bool
            Whether there was one.
        """
        found = self._newest_state() if self.workers.first else None
        path, state = self.workers.gather(found and (str(found[0]), found[1]))[0] or (None, None)
        if path is None:
            return False
        path = Path(path)
        # Networks may differ although their parameters fit: attention in another order.
        if state["network"] != self._network():
            raise UserError(f"the run in {path.parent} trains another network; choose "
                            "another --name, or replace it with --overwrite")
        self._check_steps(state)
        with self.workers.shared_files(array_files(path)) as files:
            extra = load_checkpoint(path, state, self.net, self.trainer, files)
        self.position = _Position.from_state(path, state)
        try:
            if self.workers.count > 1:
                self.position.totals = Totals(**state["all_totals"][self.workers.rank])
            if "statistics" in extra:
                set_running_statistics(self.net, extra["statistics"][self.workers.rank].asnumpy())
        except (KeyError, TypeError):
            raise other_version(path) from None
        if self.plateau:
            self.plateau.factor = self.position.factor
            self.plateau.waited = self.position.plateau_waited
        if self.step.scaling:
            self.step.scaling.state = self.position.scaling
        self.log.info(f"resumed from {path}: epoch {self.position.epoch}, "
                      f"step {self.position.totals.step}")
        return True

    def _check_steps(self, state):
        """Raise UserError if an epoch would not have the steps that it had."""
        had = len(state.get("all_totals", (None,))), state.get("steps_per_epoch")
        have = self.workers.count, self.steps_per_epoch
        if had != have and had[1] is not None:
            raise UserError("a resumed run goes on as it began: it had {} worker(s) and {:,} steps "
                            "an epoch, this one would have {} and {:,}; start as many workers and "
                            "devices as before".format(*had, *have))

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
            if self.workers.count == 1:    # several stop after the same step only
                interruption.check()
        self._check_saved()
        return {"last": position.rows[-1], "best": position.best}

    def _rate(self, index):
        step = self.position.epoch * self.steps_per_epoch + index
        return self.schedule(step) * self.position.factor

    def _train_one_epoch(self):
        position, options = self.position, self.options
        later = (options.num_epochs - position.epoch - 1) * self.steps_per_epoch
        progress = Progress(f"epoch {position.epoch + 1}/{options.num_epochs}",
                            self.steps_per_epoch, later,
                            None if self.workers.first else io.StringIO(), self.workers.count)
        self._train(self.step, progress,
                    self._batch_logger() if options.style == "imagenet" else None)

    def _batch_logger(self):
        """Logs a line at each read from the device: speed since the last one."""
        position = self.position
        since = [time.monotonic(), position.totals.images]

        def log_batches(index):
            totals, now = position.totals, time.monotonic()
            rate = (totals.images - since[1]) * self.workers.count / max(now - since[0], 1e-9)
            since[:] = now, totals.images
            self.log.info(batch_line(position.epoch, index, rate, totals.correct / totals.images,
                                     self.trainer.learning_rate))
        return log_batches

    def _maybe_checkpoint(self, done, collect):
        if self.step.scaling:
            self.position.scaling = self.step.scaling.state
        stop = self.workers.stops_after(self.position.epoch * self.steps_per_epoch + done)
        if self._is_due(done) or stop:
            collect()
            self._checkpoint()
        if stop:
            self.workers.stop()

    def _all_totals(self):
        """The totals of all workers together."""
        parts = self.workers.gather(asdict(self.position.totals))
        sums = total([{name: part[name] for name in ("images", "loss", "correct")}
                      for part in parts])
        return replace(self.position.totals, **sums)

    def _copy_to_predictor(self):
        """The parameters, and the mean of what the workers' normalisations have seen."""
        copy_parameters(self.net, self.predictor)
        statistics = self.workers.running_statistics(self.net)
        if statistics is not None:
            set_running_statistics(self.predictor, statistics.mean(axis=0))

    def _finish_epoch(self):
        """Evaluate, note the epoch's figures, and move on to the next one."""
        position = self.position
        self._copy_to_predictor()
        val = evaluate_together(self.workers, self.predictor, self.val_batches, self.normalize,
                                self.contexts)
        totals = self._all_totals()
        row = position.finish_epoch(self._rate(totals.step - 1), totals, val)
        improved = position.best is None or row["val_accuracy"] > position.best["val_accuracy"]
        if improved:
            position.best = row
        position.waited = 0 if improved else position.waited + 1
        if self.plateau:
            self.plateau.update(improved)
            position.factor, position.plateau_waited = self.plateau.factor, self.plateau.waited
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
        # With several workers, the mean of their running statistics is the predictor's.
        net = self.net if self.workers.count == 1 else self.predictor
        arrays = {name: parameter._reduce()
                  for name, parameter in net._collect_params_with_prefix().items()}
        self._owed.update(dict.fromkeys(names, (arrays, row)))
        self._checkpoint()
        if self.workers.first:
            self.run.drop_periodic(options.keep)
        self._show()

    def _draw(self):
        if self.workers.first:
            History(self.run.metrics, self.position.rows).write()
            draw_curves(self.position.rows, self.run.curves, self.options.title,
                        self.options.val_name)

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
        all_totals = self.workers.gather(asdict(self.position.totals))
        statistics = self.workers.running_statistics(self.net)
        if self.workers.first:
            with averaged(self.net, statistics):
                self._write_checkpoint({
                    **asdict(self.position), "network": self._network(),
                    "steps_per_epoch": self.steps_per_epoch, "all_totals": all_totals},
                    {} if statistics is None else {"statistics": nd.array(statistics)})

    def _write_checkpoint(self, state, extra):
        with self._saving():
            # A checkpoint says that the files of its best epoch are there: so they come first.
            for name in list(self._owed):
                self._save_params(name, *self._owed[name])
                del self._owed[name]
            save_checkpoint(self.run.checkpoints, self._step_number(), self.net, self.trainer,
                            state, extra=extra)
        # After a failure, others would pile up in memory.
        self._owed = {name: self._owed[name] for name in ("last", "best") if name in self._owed}

    def _network(self):
        """Name and options of the network, as JSON has them."""
        return json.loads(json.dumps({name: self.description.get(name)
                                      for name in ("model", "options")}))

