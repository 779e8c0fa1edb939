"""The weights that a network begins with."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from .weights import OtherClasses, WeightsError, classifier, load_weights

__all__ = ["initial_weights"]


def initial_weights(build, seed, shape, path=None, summary=False, new_classifier=False):
    """The weights that a run begins with, drawn or read.

    Parameters
    ----------
    build : callable
        ``build(devices)`` -> an uninitialised HybridBlock.
    seed : int
        Of the drawn ones: MSRA's normal distribution for rectifiers (He et al., arXiv
        1502.01852), as MXNet draws it.
    shape : (3, H, W)
        Of an image.
    path : str or pathlib.Path, optional
        A parameter file to read.
    summary : bool, default False
        Whether to print the network's layers.
    new_classifier : bool, default False
        Whether the last layer is drawn all the same.

    Returns
    -------
    dict of str to numpy.ndarray
        By structural name.

    Raises
    ------
    WeightsError
        If the file cannot be read or is of another network.
    """
    # MXNet draws from NumPy's and its own global generators.
    mx.random.seed(seed)
    np.random.seed(seed)
    net = build(1)
    if not path or new_classifier:
        net.initialize(mx.init.MSRAPrelu())
    if path:
        new = classifier(net._collect_params_with_prefix()) if new_classifier else ()
        try:
            load_weights(net, path, new=new)
        except OtherClasses as error:
            raise WeightsError(f"{error}: --new-classifier takes over all but the last "
                               "layer") from None
    if summary:
        net.summary(mx.nd.zeros((1, *shape)))
    return {name: parameter.data().asnumpy()
            for name, parameter in net._collect_params_with_prefix().items()}
