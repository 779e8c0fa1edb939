"""Does a heat map point at what the network uses? Deletion and insertion.

V. Petsiuk, A. Das, K. Saenko: RISE, BMVC 2018, arXiv 1806.07421, section 4.2. *Deletion*
blurs the image away, hottest places first: the sooner the class's probability falls, the
smaller the area under its curve, the better the map. *Insertion* starts from the blurred
image and brings the hottest places back first: the larger the area, the better. (RISE
deletes to grey and inserts from blurred; here both go between the image and its blur, which
makes no edges of its own.)

An area alone says little, since networks differ in how soon they lose a class whatever is
removed. So each is set beside a control: the same with random places. These come from
random maps as coarse as the heat map, since scattered single pixels would do other harm
than patches of the same total size.
"""
from dataclasses import dataclass

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import numpy as np
from PIL import Image, ImageFilter

from .cam import softmax
from .layers import imperative

__all__ = ["Faithfulness", "measure", "blur", "enlarge", "pixel_order", "curves", "area"]


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the probability's curves, each (N,), in [0, 1].

    `blurred` is the class's probability for the fully blurred image, where both curves of
    every order meet: if it is not small, blurring does not remove the class.
    """

    deletion: np.ndarray
    random_deletion: np.ndarray
    insertion: np.ndarray
    random_insertion: np.ndarray
    whole: np.ndarray
    blurred: np.ndarray

    def summary(self):
        """Means over the images, and how often the map beats the control, as a dict."""
        return {"images": len(self.deletion), "deletion": self.deletion.mean(),
                "random_deletion": self.random_deletion.mean(),
                "deletion_wins": (self.deletion < self.random_deletion).mean(),
                "insertion": self.insertion.mean(),
                "random_insertion": self.random_insertion.mean(),
                "insertion_wins": (self.insertion > self.random_insertion).mean(),
                "whole": self.whole.mean(), "blurred": self.blurred.mean()}


def blur(image, share=1 / 8):
    """A uint8 image (3, H, W), blurred by a Gaussian of `share` of its shorter side."""
    radius = share * min(image.shape[1:])
    smooth = Image.fromarray(image.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(smooth).transpose(2, 0, 1)


def enlarge(heat, height, width):
    """A map (h, w), enlarged smoothly to (height, width); its range does not grow."""
    heat = np.asarray(heat, np.float32)
    smooth = Image.fromarray(heat).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth).clip(heat.min(), heat.max())


def pixel_order(heat, random):
    """Indices of a map's pixels, hottest first; equal ones in random order."""
    flat = np.asarray(heat).ravel()
    return np.lexsort((random.random(flat.size), -flat))


def curves(probability, image, smooth, order, steps):
    """Probabilities while an image is blurred away, and while it comes back.

    Parameters
    ----------
    probability : callable
        Takes uint8 images (M, 3, H, W), gives (M,).
    image, smooth : (3, H, W) uint8
        The image and its blur.
    order : (H W,) int
        Pixels, in the order in which they change.
    steps : int
        Number of equal steps.

    Returns
    -------
    deletion, insertion : numpy.ndarray
        Both (steps + 1,).
    """
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    rank = rank.reshape(1, 1, *image.shape[1:])
    changed = np.linspace(0, order.size, steps + 1).round().astype(int).reshape(-1, 1, 1, 1)
    first = rank < changed                                    # (steps + 1, 1, H, W)
    frames = np.concatenate([np.where(first, smooth, image), np.where(first, image, smooth)])
    values = probability(frames)
    return values[:steps + 1], values[steps + 1:]


def area(curve):
    """Area under a curve over equal steps of [0, 1], by the trapezoidal rule."""
    return float((curve[0] / 2 + curve[1:-1].sum() + curve[-1] / 2) / (len(curve) - 1))


def measure(net, to_input, images, maps, classes, steps=32, seed=0):
    """Deletion and insertion of heat maps, beside random maps of the same coarseness.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Maps (N, 3, H, W) to logits (N, classes).
    to_input : callable
        Takes uint8 images (N, 3, H, W), gives the network's input, normalised.
    images : (N, 3, H, W) uint8
    maps : (N, h, w)
        Heat maps.
    classes : (N,) int
        The class that each map is about.
    steps : int, default 32
        Equal steps in which an image changes.
    seed : int, default 0
        Of the random maps, and of the order among equal pixels.

    Returns
    -------
    Faithfulness
    """
    random = np.random.default_rng(seed)
    rows = []
    with imperative(net):
        for image, heat, label in zip(images, maps, classes):
            def probability(frames, label=label):
                return softmax(net(to_input(frames)).asnumpy().astype(np.float64))[:, label]

            smooth = blur(image)
            orders = (pixel_order(enlarge(m, *image.shape[1:]), random)
                      for m in (heat, random.random(heat.shape)))
            (deletion, insertion), (random_deletion, random_insertion) = (
                curves(probability, image, smooth, order, steps) for order in orders)
            rows.append((area(deletion), area(random_deletion), area(insertion),
                         area(random_insertion), deletion[0], deletion[-1]))
    return Faithfulness(*np.array(rows).T)
