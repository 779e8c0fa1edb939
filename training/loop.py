"""Epoch after epoch, saved as it goes: what a training run and a search have in common."""
import contextlib

import model.mxnet_compat  # noqa: F401  (comes before mxnet)

from common.errors import UserError

from .checkpoint import SaveError, newest_state
from .epoch import NonFiniteLoss, train_epoch
from .finite import all_finite

__all__ = ["Loop", "SaveFailed"]


class SaveFailed(UserError):
    """The run came to its end, but its end is not on the disk."""

    code = 3


class Loop:
    """Base of what trains for epochs and can be taken up again where it was left.

    Subclasses set `trainer` and `position`, and define `_rate(index)`, the learning rate of the
    epoch's step `index`, `_maybe_checkpoint`, called as ``after`` of `training.epoch.train_epoch`,
    and `_draw()`, which writes what is only to be seen.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialized on `contexts`.
    predictor : mxnet.gluon.HybridBlock
        A second network of the same structure, initialized, for prediction: see
        `training.epoch.copy_parameters`.
    train_batches, val_batches : data.batches.Batches
    normalize : training.epoch.Normalize
    contexts : list of mxnet.Context
    run : training.run.Run
        The run's folders.
    log : logging.Logger
    options : object
        With ``log_interval`` and ``checkpoint_every``, both in steps.
    """

    def __init__(self, net, predictor, train_batches, val_batches, normalize, contexts, run, log,
                 options):
        self.net, self.predictor = net, predictor
        self.train_batches, self.val_batches = train_batches, val_batches
        self.normalize, self.contexts = normalize, contexts
        self.run, self.log, self.options = run, log, options
        self.steps_per_epoch = len(train_batches)
        self._unsaved = None    # why the last save failed

    def _train(self, step, progress, report=None):
        """Train to the end of the epoch; names the batch of a loss that is not finite."""
        try:
            train_epoch(step, self.train_batches, self.position.epoch,
                        lambda index: self.trainer.set_learning_rate(self._rate(index)),
                        self.position.totals, progress, self.options.log_interval,
                        self._maybe_checkpoint, report)
        except NonFiniteLoss as error:
            batch = " ".join(map(str, error.indices)) or "not known"
            self.log.error(f"{error}; all images of that batch, by number: {batch}")
            raise
        finally:
            progress.close()

    def _newest_state(self):
        """As `training.checkpoint.newest_state`, of this run.

        Raises
        ------
        UserError
            If there is no checkpoint, but the account of a finished run, which a new one would
            overwrite.
        """
        found = newest_state(self.run.checkpoints, self.log.warning)
        if found is None and self.run.is_accounted_for():
            raise UserError(f"{self.run.logs} is the account of a finished run, but "
                            f"{self.run.checkpoints} holds no checkpoint to go on from: choose "
                            "another --name, or --overwrite")
        return found

    def _is_due(self, done):
        """Whether a checkpoint within the epoch is, after so many of its steps."""
        every = self.options.checkpoint_every
        return every and done % every == 0 and done < self.steps_per_epoch

    def _check_finite(self):
        """Weights that are not finite must not take the place of the last good ones."""
        if not all_finite(parameter.data(parameter.list_ctx()[0])
                          for parameter in self.net.collect_params().values()):
            raise NonFiniteLoss(
                f"weights are not finite in epoch {self.position.epoch}, after step "
                f"{self.position.totals.step}: training stops; the last checkpoint is kept. A "
                "lower --lr or a longer --warmup-epochs may help")

    @contextlib.contextmanager
    def _saving(self):
        """If the block cannot save, say so: the next save tries again."""
        try:
            yield
            self._unsaved = None
        except SaveError as error:
            self._unsaved = str(error)
            self.log.warning(f"could not save to {self.run.params}: {error}; the checkpoint "
                             "before is kept, and the next save tries again")

    def _check_saved(self):
        """Raise SaveFailed if the last save failed."""
        if self._unsaved:
            raise SaveFailed(f"the end of the run is not saved: {self._unsaved}. Make room, and "
                             "go on from the last checkpoint with --resume")

    def _show(self):
        """Write what is only to be seen; if that fails, say so."""
        try:
            self._draw()
        except OSError as error:
            self.log.warning(f"could not write figures and curves to {self.run.logs} or "
                             f"{self.run.curves.parent}: {error.strerror}; the next epoch tries "
                             "again")

    def _step_number(self):
        """Steps that were done since the beginning."""
        return self.position.epoch * self.steps_per_epoch + self.position.totals.step
