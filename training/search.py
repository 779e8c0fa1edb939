"""The search for a structure: weights and structure learn in turns.

After warm-up epochs, in which only the network's weights learn, the structure parameters
(alphas) have an optimizer of their own. As in the study, every second batch of the training
stream is the alphas'; or, where images are held out for them, each update of the weights
follows one of the alphas on a held-out batch (first-order DARTS, arXiv 1806.09055).

What can be searched is the caller's to say: see `Space`.
"""
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import numpy as np
from mxnet import autograd, nd

from common import interruption
from common.progress import Progress

from .checkpoint import load_checkpoint, save_checkpoint
from .epoch import Step, copy_parameters, evaluate
from .history import History, draw_curves, epoch_line
from .loop import Loop
from .position import Position
from .search_history import draw_weights, structure_rows, write_structure_rows

__all__ = ["Space", "Search", "SearchOptions"]


@dataclass(frozen=True)
class Space:
    """What is searched.

    Parameters
    ----------
    operations : sequence of str
        Names of a block's operations, in the order of its alpha.
    parameters : callable
        ``parameters(net)`` -> the alphas, one `mxnet.gluon.Parameter` a block.
    weights : callable
        ``weights(net)`` -> the operations' weights, array (blocks, operations).
    penalty : callable
        ``penalty(alphas)`` -> NDArray (1,), from a list of NDArray; differentiable.
    derive : callable
        ``derive(weights)`` -> name of the operation that a block's weights ask for.
    """

    operations: tuple
    parameters: Callable
    weights: Callable
    penalty: Callable
    derive: Callable


@dataclass
class SearchOptions:
    """How long to search and when to save; see the script's options of the same names."""

    warmup_epochs: int
    search_epochs: int
    seed: int = 0
    log_interval: int = 20
    checkpoint_every: int = 0
    title: str = ""
    reseed: bool = False


@dataclass
class _Position(Position):
    """Where a search stands."""

    structure: list = field(default_factory=list)


def _endless(batches, start):
    """The batches of epoch after epoch, from the batch number `start` on."""
    epoch, step = divmod(start, len(batches))
    while True:
        yield from batches.epoch(epoch, step)
        epoch, step = epoch + 1, 0


class Search(Loop):
    """A search for a structure.

    Parameters
    ----------
    net, predictor : mxnet.gluon.HybridBlock
        The searchable network, initialized on `contexts`, and its twin that predicts: see
        `training.epoch.copy_parameters`.
    space : Space
    trainer, alpha_trainer : mxnet.gluon.Trainer
        Of the weights, and of the alphas.
    objective : training.objective.Objective
    schedule : training.schedule.Schedule
        Learning rate of the weights, by the number of batches.
    train_batches, val_batches : data.batches.Batches
        `val_batches` are only looked at: nothing is chosen by them.
    alpha_batches : data.batches.Batches or None
        Held-out images for the alphas; None: they share the training stream.
    normalize, contexts, run, log
        As for `training.fit.Fit`.
    options : SearchOptions
    """

    def __init__(self, net, predictor, space, trainer, alpha_trainer, objective, schedule,
                 train_batches, alpha_batches, val_batches, normalize, contexts, run, log, options):
        super().__init__(net, predictor, train_batches, val_batches, normalize, contexts, run, log,
                         options)
        self.space, self.trainer, self.alpha_trainer = space, trainer, alpha_trainer
        self.schedule, self.alpha_batches = schedule, alpha_batches
        self.alphas = space.parameters(net)
        self.num_epochs = options.warmup_epochs + options.search_epochs
        self._weight_step = Step(net, trainer, objective, normalize, contexts, options.seed,
                                  options.reseed)
        self._held_out = None
        self.position = _Position()

    def resume(self):
        """Take up the search at its newest undamaged checkpoint; whether there was one."""
        found = self._newest_state()
        if found is None:
            return False
        path, state = found
        load_checkpoint(path, state, self.net, [self.trainer, self.alpha_trainer])
        self.position = _Position.from_state(path, state)
        self.log.info(f"resumed from {path}: epoch {self.position.epoch}, "
                      f"step {self.position.totals.step}")
        return True

    def __call__(self):
        """Search to the end.

        Returns
        -------
        list of str
            The operation of each block.

        Raises
        ------
        training.epoch.NonFiniteLoss
        interruption.Interrupted
            If a signal asked for it; all is saved.
        training.loop.SaveFailed
            If the disk took none of the last saves.
        """
        if self.position.rows:
            # The search may have been killed between a checkpoint and these.
            self._show()
        while self.position.epoch < self.num_epochs:
            self._train_one_epoch()
            self._finish_epoch()
            interruption.check()
        self._check_saved()
        return [self.space.derive(weights) for weights in self.space.weights(self.net)]

    # ---- one step ------------------------------------------------------------------------------

    def _step(self, epoch, index, images, labels):
        """One batch of the training stream, for the weights or for the alphas."""
        if epoch < self.options.warmup_epochs:
            return self._weight_step(epoch, index, images, labels)
        if self.alpha_batches is not None:
            self._alpha_step(epoch, index, *self._next_held_out(epoch, index))
            return self._weight_step(epoch, index, images, labels)
        turn = self._alpha_step if index % 2 else self._weight_step
        return turn(epoch, index, images, labels)

    def _alpha_step(self, epoch, index, images, labels):
        results = self._weight_step.gradients(epoch, index, images, labels)
        self._add_penalty(len(labels))
        self.alpha_trainer.step(len(labels))
        return results

    def _add_penalty(self, images):
        """Add the gradient of the penalty of so many images to that of the alphas.

        Recorded beside the network, on copies: a compiled network whose first backward pass
        shares a parameter with other operators does not update its gradient any more.
        """
        for k, ctx in enumerate(self.contexts):
            share = len(np.array_split(np.arange(images), len(self.contexts))[k])
            copies = [alpha.data(ctx).copy() for alpha in self.alphas]
            for copy in copies:
                copy.attach_grad()
            with autograd.record():
                penalty = self.space.penalty(copies) * share
            penalty.backward()
            for alpha, copy in zip(self.alphas, copies):
                grad = alpha.grad(ctx)
                grad += copy.grad

    def _next_held_out(self, epoch, index):
        if self._held_out is None:
            done = (epoch - self.options.warmup_epochs) * self.steps_per_epoch + index
            self._held_out = _endless(self.alpha_batches, done)
        images, labels, _ = next(self._held_out)
        return images, labels

    # ---- one epoch -----------------------------------------------------------------------------

    def _rate(self, index):
        return self.schedule(self.position.epoch * self.steps_per_epoch + index)

    def _train_one_epoch(self):
        position = self.position
        phase = "warm-up" if position.epoch < self.options.warmup_epochs else "search"
        progress = Progress(f"{phase} {position.epoch + 1}/{self.num_epochs}",
                            self.steps_per_epoch,
                            (self.num_epochs - position.epoch - 1) * self.steps_per_epoch)
        self._train(self._step, progress)

    def _maybe_checkpoint(self, done, collect):
        if self._is_due(done) or interruption.requested():
            collect()
            self._checkpoint()
        interruption.check()

    def _finish_epoch(self):
        """Evaluate, note figures and weights, and move on to the next epoch."""
        position, totals = self.position, self.position.totals
        copy_parameters(self.net, self.predictor)
        val = evaluate(self.predictor, self.val_batches, self.normalize, self.contexts)
        row = position.finish_epoch(self._rate(totals.step - 1), totals, val)
        alphas = nd.stack(*(alpha.data(self.contexts[0]) for alpha in self.alphas)).asnumpy()
        position.structure += structure_rows(row["epoch"], self.space.operations,
                                             self.space.weights(self.net), alphas)
        self.log.info(epoch_line(row))
        self._checkpoint()
        self._show()

    def _draw(self):
        """Metrics, curves, alphas and their figure."""
        position = self.position
        History(self.run.metrics, position.rows).write()
        draw_curves(position.rows, self.run.curves, self.options.title)
        write_structure_rows(self.run.logs / "alphas.csv", self.space.operations,
                             position.structure)
        draw_weights(position.structure, self.space.operations, self.run.logs / "structure.png",
                     self.options.title, self.options.warmup_epochs, self.space.derive)

    def _checkpoint(self):
        self._check_finite()
        with self._saving():
            save_checkpoint(self.run.checkpoints, self._step_number(), self.net,
                            [self.trainer, self.alpha_trainer], asdict(self.position))
