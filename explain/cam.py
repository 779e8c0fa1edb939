"""Grad-CAM and Grad-CAM++: which places of a feature map speak for a class."""
from dataclasses import dataclass

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import numpy as np
from mxnet import autograd, nd

from common.errors import UserError

from .layers import find_layer, hooked, imperative, trace

__all__ = ["METHODS", "Cam", "grad_cam", "channel_weights", "softmax"]


@dataclass(frozen=True)
class Cam:
    """Heat maps of a batch, as NumPy arrays.

    Parameters
    ----------
    maps : (N, h, w)
        At least 0, not scaled; 0 means that nothing speaks for the class.
    signed : (N, h, w)
        The same before negative values were set to 0.
    weights : (N, C)
        Of the feature map's channels.
    features : (N, C, h, w)
        The feature map.
    logits : (N, classes)
    classes : (N,)
        The class that each map is about.
    layer : str
        Name of the feature map's layer.
    """

    maps: np.ndarray
    signed: np.ndarray
    weights: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    classes: np.ndarray
    layer: str

    @property
    def probabilities(self):
        """(N, classes): softmax of the logits."""
        return softmax(self.logits)


def softmax(logits):
    """Probabilities of logits (N, classes)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _plain_weights(features, gradients):
    r"""Grad-CAM: :math:`w_k = mean_{ij}\; \partial S / \partial A_{kij}`.

    R. R. Selvaraju et al.: Grad-CAM, ICCV 2017, arXiv 1610.02391, equation 1.
    """
    return gradients.mean(axis=(2, 3))


def _plus_plus_weights(features, gradients):
    r"""Grad-CAM++: a mean of the positive gradients, weighted by position.

    .. math::
        w_k = \sum_{ij} \alpha_{kij}\, relu(g_{kij}), \quad
        \alpha_{kij} = \frac{g_{kij}^2}{2 g_{kij}^2 + g_{kij}^3 \sum_{ab} A_{kab}}

    A. Chattopadhay et al.: Grad-CAM++, WACV 2018, arXiv 1710.11063, equations 11 and 19, for
    the score :math:`Y = e^S` of the class, whose higher derivatives are powers of
    :math:`g = \partial S / \partial A`. Its factor :math:`e^S`, the same at every place of an
    image, is left out. The sum is meant for a feature map after a ReLU; where it is negative
    enough to turn the denominator's sign, the place gets no weight.
    """
    squares = gradients ** 2
    denominator = 2 * squares + gradients ** 3 * features.sum(axis=(2, 3), keepdims=True)
    usable = denominator > 0
    alpha = np.where(usable, squares / np.where(usable, denominator, 1), 0)
    return (alpha * np.maximum(gradients, 0)).sum(axis=(2, 3))


# Method -> f(features, gradients), both (N, C, h, w), -> weights (N, C).
METHODS = {"grad-cam": _plain_weights, "grad-cam++": _plus_plus_weights}


def channel_weights(method, features, gradients):
    """Weights (N, C) of the channels of a feature map (N, C, h, w) and its gradients.

    Raises
    ------
    UserError
        If the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f"unknown method '{method}'. Known: {', '.join(METHODS)}.")
    return METHODS[method](features.astype(np.float64), gradients.astype(np.float64))


def grad_cam(net, x, classes=None, layer=None, method="grad-cam", batch_size=64):
    r"""Heat maps :math:`relu(\sum_k w_k A_k)` of a batch of images.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Maps (N, 3, H, W) to logits (N, classes); any Gluon classifier whose layers are
        blocks. It is left as it was, its gradients too.
    x : mxnet.nd.NDArray
        (N, 3, H, W), normalised, on the network's device.
    classes : int or sequence of N int, optional
        The class of all images, or of each; the predicted one if not given.
    layer : str, optional
        Structural name of the layer that gives the feature map A; the last one before
        pooling if not given.
    method : {'grad-cam', 'grad-cam++'}, default 'grad-cam'
        How the weights w are made: Selvaraju et al., ICCV 2017, arXiv 1610.02391, or
        Chattopadhay et al., WACV 2018, arXiv 1710.11063.
    batch_size : int, default 64
        Images on the device at once.

    Returns
    -------
    Cam

    Raises
    ------
    UserError
        If a layer, method or class is unknown.
    """
    target = find_layer(trace(net, x), layer)
    if classes is not None:
        classes = np.broadcast_to(np.asarray(classes, np.int64), (len(x),))
    parts = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        parts.append(_features_and_gradients(
            net, x[part], None if classes is None else classes[part], target))
    features, gradients, logits, classes = (np.concatenate(arrays) for arrays in zip(*parts))
    weights = channel_weights(method, features, gradients)
    signed = np.einsum("nc,nchw->nhw", weights, features, dtype=np.float64)
    return Cam(np.maximum(signed, 0).astype(np.float32), signed.astype(np.float32),
               weights.astype(np.float32), features, logits, classes, target.name)


def _features_and_gradients(net, x, classes, target):
    """Feature map, gradient of each image's class score to it, logits, and classes."""
    captured = []

    def capture(block, inputs, output):
        output.attach_grad()    # from here on a variable: nothing below it is differentiated
        captured.append(output)

    with imperative(net), hooked([(target.block, capture)]), autograd.record(train_mode=False):
        logits = net(x)
        values = logits.asnumpy().astype(np.float32)
        classes = values.argmax(axis=1) if classes is None else classes
        _check_classes(classes, values.shape[1])
        # In prediction mode images do not touch each other: the gradient of the sum is that
        # of each image's own score.
        score = logits.pick(nd.array(classes, logits.context, "int32")).sum()
    # Without train_mode=False this would be the gradient of BatchNorm as in training, whatever
    # mode the forward pass was recorded in.
    gradient, = autograd.grad(score, captured[-1:], train_mode=False)
    return (captured[-1].asnumpy().astype(np.float32), gradient.asnumpy().astype(np.float32),
            values, classes)


def _check_classes(classes, count):
    wrong = [int(label) for label in classes if not 0 <= label < count]
    if wrong:
        raise UserError(f"class {wrong[0]} is out of range: the network has classes 0 to "
                         f"{count - 1}")
