"""What training asks of an engine, and the words it is asked in: NumPy in, NumPy out.

An engine has a network and its optimizers on one or several devices:

    learn(batch, at, rates, update=None, add=None, mixes=None, counted=True)
        One update from a batch: uint8 images (N, 3, H, W) and integer labels (N,), cut into
        one part a device. `at` is (epoch, step), `rates` the learning rate of each group,
        `update` the groups that are updated (all, if not given), `add` gradients to add to
        those of the mean loss, by parameter, `mixes` a `Mix` or None for each device. Waits
        for nothing; the results are there to `collect` unless they are not `counted`.
    collect() -> [(loss, hits, images)]
        Sums over the batch of each counted step since the last call, in their order; waits.
    predict(images, batch_size) -> iterator of logits
        float32 (n, outputs) for each array of n <= batch_size images, uint8 (n, 3, H, W);
        with the weights of the moment when it is called.
    weights() / load_weights(arrays)
        float32 arrays by structural name, running statistics averaged over devices and
        workers: what parameter files hold.
    values(names) -> [array]
        Parameters as they are now; waits.
    num_trained
        How many numbers are trained.
    is_finite() -> bool
        Whether all parameters are; waits.
    state() / load_state(state)
        All that a checkpoint keeps: `EngineState`.
    loss_scale
        See `engines.loss_scale.LossScale`, or None.
    room
        Bytes of training images that it may `keep`; 0 where that would not help.
    keep(images)
        Keep images, uint8 (N, 3, H, W), on the device: a batch may then have
        `data.batches.Crops` of them in place of its own.
    workers
        `engines.workers.SingleWorker` or one of several.

With several workers, `predict`, `weights` and `state` are to be called by all at once.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.errors import UserError

__all__ = ["EngineState", "Group", "Loss", "Mix", "OtherNetwork", "Settings"]


_UNDECAYED = ("gamma", "beta", "bias")


class OtherNetwork(UserError):
    """Arrays belong to another network or optimizer; says how they differ."""


@dataclass(frozen=True)
class Group:
    """Parameters with an optimizer of their own.

    Parameters
    ----------
    optimizer : {'nag', 'sgd', 'adam'}
        With MXNet's meaning: the learning rate is inside nag's and sgd's momentum.
    momentum : float, default 0.9
        Of nag and sgd.
    betas : pair of float, default (0.9, 0.999)
        Of adam.
    weight_decay : float, default 0
    decay_all : bool, default True
        If false, biases and the parameters of normalisations are not decayed.
    names : tuple of str, default ()
        Structural names; none stands for all that no other group has.
    """

    optimizer: str
    momentum: float = 0.9
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 0.0
    decay_all: bool = True
    names: tuple = ()

    def decays(self, name):
        """Whether the parameter of this name is decayed."""
        return self.decay_all or not name.endswith(_UNDECAYED)


@dataclass(frozen=True)
class Loss:
    """Softmax cross-entropy, and the ways of softening its targets.

    Parameters
    ----------
    outputs : int
        Of the network.
    label_smoothing : float, default 0
        Share of the target that is spread evenly over all outputs.
    mixed : bool, default False
        Whether any batch of the run is mixed: targets are then shares throughout.
    teacher : callable, optional
        ``teacher()`` -> an initialised network on the CPU, whose softmax is learned, too
        (Hinton et al., arXiv 1503.02531): the loss is `hard_weight` times the cross-entropy
        with the true targets, plus 1 - `hard_weight` times that of both networks' softmax at
        the temperature T, times T squared.
    temperature : float, default 20
    hard_weight : float, default 0.5
    """

    outputs: int
    label_smoothing: float = 0.0
    mixed: bool = False
    teacher: Callable = None
    temperature: float = 20.0
    hard_weight: float = 0.5

    @property
    def soft(self):
        """Whether targets are shares (N, outputs), not class numbers (N,)."""
        return self.mixed or self.label_smoothing > 0


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are mixed with those of the batch in reverse order.

    Parameters
    ----------
    share : float
        Of an image's own target.
    box : (top, bottom, left, right), optional
        Pixels that come from the other image (cutmix); without it, both are blended (mixup).
    """

    share: float
    box: tuple = None


@dataclass(frozen=True)
class Settings:
    """How an engine computes.

    Parameters
    ----------
    groups : dict of str to Group
    loss : Loss
    mean, std : sequence of 3 floats
        Of the channels, with pixels in [0, 1].
    batch_shape : (N, 3, H, W)
        Of one device in training.
    devices : tuple of str, default ('cpu',)
        ``cpu``, or ``gpu:0`` and the like.
    dtype : {'float32', 'bfloat16', 'float16'}
        bfloat16 with PyTorch only.
    compiled : bool, default True
        Whether the network is compiled into a static graph.
    seed : int, default 0
        Of dropout, with epoch and step.
    dropout : bool, default False
        Whether the network draws random numbers.
    """

    groups: dict
    loss: Loss
    mean: tuple
    std: tuple
    batch_shape: tuple
    devices: tuple = ("cpu",)
    dtype: str = "float32"
    compiled: bool = True
    seed: int = 0
    dropout: bool = False

    def members(self, which, names):
        """Those of `names` that belong to the group `which`."""
        others = {name for group in self.groups.values() for name in group.names}
        own = self.groups[which].names
        return [name for name in names if (name in own if own else name not in others)]

    def dropout_seed(self, at, rank):
        """Seed of what a worker drops in the step `at`, an (epoch, step)."""
        own = (rank,) if rank else ()
        numbers = np.random.SeedSequence((self.seed, *at, *own)).generate_state(1)
        return int(numbers[0] & 0x7FFFFFFF)


@dataclass
class EngineState:
    """What a checkpoint keeps of an engine; says nothing of which engine it was.

    Attributes
    ----------
    weights : dict of str to float32 array
        By structural name; running statistics are the workers' mean.
    optimizer : dict of str to array
        ``<name>:0`` is the momentum, or Adam's mean; ``<name>:1`` Adam's mean of squares.
    update_counts : dict of str to int
        Updates of each parameter.
    num_updates : list of int
        Updates of each group.
    scaling : dict or None
        State of the loss scale.
    statistics : array (workers, N) or None
        The workers' own running statistics, one after the other by name; None where there is
        one worker, or nothing is normalised by batches.
    """

    weights: dict
    optimizer: dict = field(default_factory=dict)
    update_counts: dict = field(default_factory=dict)
    num_updates: list = field(default_factory=list)
    scaling: Any = None
    statistics: Any = None
