"""Reading parameter files into networks."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx

from common.errors import UserError
from common.params import ParamsError, read_params
from model.resnet_v2_cifar import translate_reference_key

__all__ = ["WeightsError", "read_weights", "load_weights"]


class WeightsError(UserError):
    """A parameter file cannot be read, or belongs to another network."""


def read_weights(path):
    """Read a file written by Gluon's ``save_parameters``.

    Returns
    -------
    dict of str to mxnet.nd.NDArray
        Arrays on the CPU by structural name, in this project's spelling.

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
        name = translate_reference_key(key)
        if name in weights:
            raise WeightsError(f"{path} holds {name} in two spellings")
        weights[name] = mx.nd.array(array, dtype=array.dtype)
    return weights


def _few(names, limit=3):
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check_fit(path, arrays, parameters):
    """Raise WeightsError unless names and shapes are those of the network."""
    missing, extra = parameters.keys() - arrays.keys(), arrays.keys() - parameters.keys()
    differing = [f"{name} {tuple(arrays[name].shape)} instead of {tuple(parameters[name].shape)}"
                 for name in parameters.keys() & arrays.keys()
                 if arrays[name].shape != parameters[name].shape]
    problems = [text for found, text in (
        (missing, f"{len(missing)} of the network's {len(parameters)} parameters are not in "
                  f"the file ({_few(missing)})"),
        (extra, f"{len(extra)} in the file are not in the network ({_few(extra)})"),
        (differing, f"{len(differing)} differ in shape ({_few(differing)})")) if found]
    if problems:
        raise WeightsError(f"{path} was written by another network: " + "; ".join(problems))


def load_weights(net, path, ctx=None):
    """Fill a network from a parameter file of any float type.

    Parameters
    ----------
    net : mxnet.gluon.Block
        A network whose parameter shapes are known.
    path : str or pathlib.Path
        File written by ``save_parameters``, by this project or by the authors' code.
    ctx : mxnet.Context or list of them, optional
        Where the parameters shall live; the CPU if not given.

    Raises
    ------
    WeightsError
        If the file cannot be read, or names or shapes differ from the network's.
    """
    arrays = read_weights(path)
    parameters = net._collect_params_with_prefix()
    _check_fit(path, arrays, parameters)
    net.initialize(ctx=ctx or mx.cpu(), force_reinit=False)
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))
