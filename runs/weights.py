"""The weights that a network begins with: drawn, or read from parameter files."""
import os

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

from common.errors import UserError
from common.params import ParamsError, read_params
from model.resnet_v2_cifar import translate_reference_key

__all__ = ["OtherClasses", "WeightsError", "classifier", "initial_weights", "load_weights",
           "read_weights"]


class WeightsError(UserError):
    """A parameter file cannot be read, or belongs to another network."""


class OtherClasses(WeightsError):
    """A parameter file is of the same network with another number of outputs."""


def read_weights(path):
    """Read a file written by Gluon's ``save_parameters``, or by MXNet's ``export``.

    Returns
    -------
    dict of str to mxnet.nd.NDArray
        Arrays on the CPU by their names in the file, in this project's spelling; without the
        ``arg:`` or ``aux:`` of an export.

    Raises
    ------
    WeightsError
        If the file is missing or is no such file.
    """
    try:
        arrays = read_params(path)
    except ParamsError as error:
        raise WeightsError(f"cannot read parameters from {path}: {error}") from None
    if not arrays:
        raise WeightsError(f"{path} holds no parameters")
    weights = {}
    for key in list(arrays):
        # One after the other, so that the file is never in memory twice.
        array = arrays.pop(key)
        name = translate_reference_key(key.removeprefix("arg:").removeprefix("aux:"))
        if name in weights:
            raise WeightsError(f"{path} holds {name} in two spellings")
        weights[name] = mx.nd.array(array, dtype=array.dtype)
    return weights


def _few(names, limit=3):
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def classifier(parameters):
    """Names of the last layer's parameters, which all networks here have at their end."""
    layer, _, _ = list(parameters)[-1].rpartition(".")
    return [name for name in parameters if name.rpartition(".")[0] == layer]


def _structural(arrays, parameters):
    """The arrays by structural name, where the file has the names of Gluon's parameters.

    They begin with a prefix that counts the networks of the process that wrote them.
    """
    if any("." in name for name in arrays):
        return arrays
    ours, theirs = (len(os.path.commonprefix(list(names))) for names in (
        [parameter.name for parameter in parameters.values()], arrays))
    known = {parameter.name[ours:]: name for name, parameter in parameters.items()}
    return {known.get(name[theirs:], name): array for name, array in arrays.items()}


def _check_fit(path, arrays, parameters):
    """Raise WeightsError unless names and shapes are those of the network."""
    missing, extra = parameters.keys() - arrays.keys(), arrays.keys() - parameters.keys()
    differing = {name: f"{name} {tuple(arrays[name].shape)} instead of "
                       f"{tuple(parameters[name].shape)}"
                 for name in parameters.keys() & arrays.keys()
                 if arrays[name].shape != parameters[name].shape}
    last = classifier(parameters)
    if differing and not (missing or extra or differing.keys() - set(last)):
        raise OtherClasses(f"{path} holds a network of {arrays[last[0]].shape[0]:,} outputs; "
                           f"{parameters[last[0]].shape[0]:,} are asked for")
    problems = [text for found, text in (
        (missing, f"{len(missing)} of the network's {len(parameters)} parameters are not in "
                  f"the file ({_few(missing)})"),
        (extra, f"{len(extra)} in the file are not in the network ({_few(extra)})"),
        (differing, f"{len(differing)} differ in shape ({_few(differing.values())})"))
        if found]
    if problems:
        raise WeightsError(f"{path} was written by another network: " + "; ".join(problems))


def load_weights(net, path, ctx=None, new=()):
    """Fill a network from a parameter file of any float type.

    Parameters
    ----------
    net : mxnet.gluon.Block
        A network whose parameter shapes are known.
    path : str or pathlib.Path
        File written by ``save_parameters``, by this project or by the authors' code, or by
        MXNet's ``export``.
    ctx : mxnet.Context or list of them, optional
        Where the parameters shall live; the CPU if not given.
    new : collection of str, default ()
        Names of parameters that the network has already, and keeps.

    Raises
    ------
    WeightsError
        If the file cannot be read, or names or shapes differ from the network's.
    """
    parameters = net._collect_params_with_prefix()
    arrays = _structural(read_weights(path), parameters)
    if new:
        arrays.update((name, parameters[name].data()) for name in new)
    _check_fit(path, arrays, parameters)
    if not new:
        net.initialize(ctx=ctx or mx.cpu(), force_reinit=False)
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))


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
