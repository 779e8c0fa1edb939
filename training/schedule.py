"""Learning-rate schedules: pure functions of the step.

A step is one optimizer update, counted from 0. Every schedule starts with a linear warm-up
(Goyal et al., Accurate, Large Minibatch SGD, arXiv 1706.02677, section 2.2) of zero or more
steps and then follows its mode over the remaining ones.
"""
import math
from dataclasses import dataclass, field

__all__ = ["MODES", "Schedule", "Plateau", "proportional_milestones"]


def _step(schedule, step, _progress):
    return schedule.lr * schedule.decay ** sum(step >= m for m in schedule.milestones)


def _cosine(schedule, _step_, progress):
    return schedule.final_lr + (schedule.lr - schedule.final_lr) * (
        1 + math.cos(math.pi * progress)) / 2


def _poly(schedule, _step_, progress):
    return schedule.final_lr + (schedule.lr - schedule.final_lr) * (
        1 - progress) ** schedule.power


def _constant(schedule, _step_, _progress):
    return schedule.lr


# 'plateau' is constant as a function of the step; `Plateau` scales it by the results.
MODES = {"step": _step, "cosine": _cosine, "poly": _poly, "constant": _constant,
         "plateau": _constant}


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step.

    Parameters
    ----------
    mode : str
        A key of `MODES`.
    lr : float
        Rate after the warm-up.
    total_steps : int
        Steps of the whole run.
    warmup_steps : int, default 0
        Steps over which the rate rises linearly from `warmup_lr` to `lr`.
    warmup_lr : float, default 0
        Rate at step 0 of a warm-up.
    milestones : sequence of int
        Steps at which mode 'step' multiplies the rate by `decay`.
    decay : float, default 0.1
        See `milestones`.
    final_lr : float, default 0
        Rate that 'cosine' and 'poly' approach at `total_steps`.
    power : float, default 2
        Exponent of 'poly'.

    Raises
    ------
    ValueError
        If the mode is unknown or the warm-up is longer than the run.
    """

    mode: str
    lr: float
    total_steps: int
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    milestones: tuple = field(default=())
    decay: float = 0.1
    final_lr: float = 0.0
    power: float = 2.0

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"lr mode must be one of {', '.join(MODES)}, not '{self.mode}'")
        if self.warmup_steps >= self.total_steps > 0:
            raise ValueError(f"a warm-up of {self.warmup_steps} steps leaves nothing of a run of "
                             f"{self.total_steps}")

    def __call__(self, step):
        """The learning rate of `step`."""
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        remaining = max(self.total_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / remaining, 1.0)
        return MODES[self.mode](self, step, progress)


@dataclass
class Plateau:
    """Factor on the learning rate that falls when the results stop improving.

    Parameters
    ----------
    patience : int
        Epochs without improvement before the factor falls.
    decay : float
        What the factor is then multiplied by.
    """

    patience: int
    decay: float
    factor: float = 1.0
    waited: int = 0

    def update(self, improved):
        """Take note of an epoch's outcome."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited > self.patience:
            self.factor *= self.decay
            self.waited = 0


def proportional_milestones(milestones, reference_epochs, num_epochs):
    """Milestones of a shortened run, at the same share of its length (in epochs).

    The paper's 300 and 350 of 400 epochs become 30 and 35 of 40.
    """
    return tuple(m * num_epochs / reference_epochs for m in milestones)
