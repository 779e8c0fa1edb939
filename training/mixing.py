"""How the images of a batch are mixed: mixup and cutmix, what is drawn for each step.

Drawn here, as a function of (seed, epoch, step, device); an engine only applies it.
"""
from dataclasses import dataclass

import numpy as np

from engines.interface import Mix

__all__ = ["Mixing", "mixup", "cutmix"]


def mixup(alpha, rng, height, width):
    """Blend each image with another of the batch (Zhang et al., arXiv 1710.09412).

    Parameters
    ----------
    alpha : float
        Both parameters of the Beta distribution that the share is drawn from.
    rng : numpy.random.Generator
    height, width : int
        Of the images, in pixels.

    Returns
    -------
    engines.interface.Mix
    """
    return Mix(float(rng.beta(alpha, alpha)))


def cutmix(alpha, rng, height, width):
    """Paste a box of another image into each (Yun et al., arXiv 1905.04899).

    Parameters and returns as for `mixup`; the targets are weighted by area.
    """
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    row, column = int(rng.integers(height)), int(rng.integers(width))
    half_h, half_w = int(side * height) // 2, int(side * width) // 2
    top, bottom = max(row - half_h, 0), min(row + half_h, height)
    left, right = max(column - half_w, 0), min(column + half_w, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width),
               (top, bottom, left, right))


@dataclass(frozen=True)
class Mixing:
    """How the batches of a run are mixed.

    Parameters
    ----------
    mixup_alpha, cutmix_alpha : float
        Strength of `mixup` and `cutmix`; 0 is off. With both, each batch gets one of them,
        chosen evenly.
    epochs : int
        Images are mixed in that many epochs, then no longer.
    seed : int
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    epochs: int = 0
    seed: int = 0

    @property
    def used(self):
        """Whether any batch of the run is mixed."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def draw(self, epoch, step, device, height, width):
        """The `Mix` of one device's part of a batch, or None; `device` counts over workers."""
        ways = [(way, alpha) for way, alpha in ((mixup, self.mixup_alpha),
                                                (cutmix, self.cutmix_alpha)) if alpha > 0]
        if not ways or epoch >= self.epochs:
            return None
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch, step, device]))
        way, alpha = ways[int(rng.integers(len(ways)))]
        return way(alpha, rng, height, width)
