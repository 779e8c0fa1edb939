"""What is minimised: cross-entropy, and the ways of softening its targets."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import autograd, nd

__all__ = ["Objective", "Distillation", "mixup", "cutmix"]


def mixup(x, target, alpha, rng):
    """Blend each image with another of the batch (Zhang et al., arXiv 1710.09412).

    Parameters
    ----------
    x : NDArray (N, C, H, W)
    target : NDArray (N, classes)
    alpha : float
        Both parameters of the Beta distribution that the share is drawn from.
    rng : numpy.random.Generator

    Returns
    -------
    x, target : NDArrays of the same shapes
    """
    share = float(rng.beta(alpha, alpha))
    return (share * x + (1 - share) * x[::-1],
            share * target + (1 - share) * target[::-1])


def cutmix(x, target, alpha, rng):
    """Paste a box of another image into each (Yun et al., arXiv 1905.04899).

    Parameters and returns as for `mixup`; the targets are weighted by area.
    """
    height, width = x.shape[2:]
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    row, column = int(rng.integers(height)), int(rng.integers(width))
    half_h, half_w = int(side * height) // 2, int(side * width) // 2
    top, bottom = max(row - half_h, 0), min(row + half_h, height)
    left, right = max(column - half_w, 0), min(column + half_w, width)
    inside = nd.zeros((1, 1, height, width), ctx=x.context, dtype=x.dtype)
    inside[:, :, top:bottom, left:right] = 1
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return (nd.where(nd.broadcast_like(inside, x), x[::-1], x),
            share * target + (1 - share) * target[::-1])


class Objective:
    """Softmax cross-entropy, optionally with smoothed and mixed targets.

    Parameters
    ----------
    classes : int
        Number of classes.
    label_smoothing : float, default 0
        Share of the target that is spread evenly over all classes.
    mixup_alpha, cutmix_alpha : float, default 0
        Strength of `mixup` and `cutmix`; 0 is off. With both, each batch gets one of them,
        chosen evenly.
    mix_epochs : int, optional
        Images are mixed in that many epochs, then no longer; in all if not given.
    """

    def __init__(self, classes, label_smoothing=0.0, mixup_alpha=0.0, cutmix_alpha=0.0,
                 mix_epochs=None):
        self.classes = classes
        self.label_smoothing = label_smoothing
        self.mix_epochs = mix_epochs
        self._mixers = [(mix, alpha) for mix, alpha in ((mixup, mixup_alpha),
                                                        (cutmix, cutmix_alpha)) if alpha > 0]
        self.soft = bool(self._mixers) or label_smoothing > 0
        self._loss = mx.gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=not self.soft)
        self._loss.hybridize()

    def prepare(self, x, label, rng, epoch=0):
        """Targets for a batch, and the images changed to match them.

        Parameters
        ----------
        x : NDArray (N, C, H, W)
        label : NDArray (N,)
        rng : callable
            Returns a numpy Generator; called only if something random is to be done.
        epoch : int, default 0
            See `mix_epochs`.

        Returns
        -------
        x : NDArray (N, C, H, W)
        target : NDArray (N,) of class indices, or (N, classes) of shares
        """
        if not self.soft:
            return x, label
        off = self.label_smoothing / self.classes
        target = nd.one_hot(label, self.classes, on_value=1 - self.label_smoothing + off,
                            off_value=off)
        if self._mixers and (self.mix_epochs is None or epoch < self.mix_epochs):
            generator = rng()
            mix, alpha = self._mixers[int(generator.integers(len(self._mixers)))]
            x, target = mix(x, target, alpha, generator)
        return x, target

    def __call__(self, logits, target):
        """Loss of each image, (N,), in float32."""
        return self._loss(logits.astype("float32"), target)


class Distillation(Objective):
    """Also learn what another network thinks of the images (Hinton et al., arXiv 1503.02531).

    The loss is ``hard_weight`` times that of `Objective`, plus ``1 - hard_weight`` times the
    cross-entropy between both networks' softmax at the given temperature T, times T squared.
    The targets of `prepare` are a pair: those of `Objective`, and the teacher's shares.

    Parameters
    ----------
    teacher : mxnet.gluon.Block
        Maps the images to logits (N, classes).
    temperature : float, default 20
        Divides the logits of both networks.
    hard_weight : float, default 0.5
        Share of the true targets, in [0, 1].
    **options
        Of `Objective`.
    """

    def __init__(self, classes, teacher, temperature=20.0, hard_weight=0.5, **options):
        super().__init__(classes, **options)
        self.teacher, self.temperature, self.hard_weight = teacher, temperature, hard_weight

    def prepare(self, x, label, rng, epoch=0):
        """As `Objective.prepare`; the teacher sees the images as they are changed."""
        x, target = super().prepare(x, label, rng, epoch)
        with autograd.pause(train_mode=False):
            logits = self.teacher(x).astype("float32")
            return x, (target, nd.softmax(logits / self.temperature))

    def __call__(self, logits, target):
        """Loss of each image, (N,), in float32."""
        target, shares = target
        logits = logits.astype("float32")
        soft = -(shares * nd.log_softmax(logits / self.temperature)).sum(axis=1)
        return (self.hard_weight * super().__call__(logits, target)
                + (1 - self.hard_weight) * self.temperature ** 2 * soft)
