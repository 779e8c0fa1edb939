"""Devices by name."""
from common.errors import UserError

__all__ = ["count_mxnet_gpus", "select_devices"]


def _parse_gpus(gpus):
    try:
        indices = [int(part) for part in gpus.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--gpus takes device numbers such as 0 or 0,1, not '{gpus}'") from None
    if len(set(indices)) != len(indices) or min(indices, default=0) < 0:
        raise UserError(f"--gpus must name different devices, numbered from 0: '{gpus}'")
    return indices


def select_devices(gpus=None, num_gpus=None, available=None, engine="MXNet"):
    """Names of the devices to compute on.

    Parameters
    ----------
    gpus : str, optional
        Device numbers, "0,1". An empty string means the CPU.
    num_gpus : int, optional
        The first so many devices; 0 means the CPU.
    available : int, optional
        Number of GPUs; asked of MXNet if not given.
    engine : str, default 'MXNet'
        Who finds them, for errors.

    Returns
    -------
    tuple of str
        ``gpu:0`` and the like, or ``cpu``. With neither option: the first GPU where there is
        one, else the CPU.

    Raises
    ------
    UserError
        If a device is asked for that does not exist, or both options are given.
    """
    if gpus is not None and num_gpus is not None:
        raise UserError("give either --gpus or --num-gpus, not both")
    available = count_mxnet_gpus() if available is None else available
    if gpus is not None:
        indices = _parse_gpus(gpus)
    elif num_gpus is not None:
        indices = list(range(num_gpus))
    else:
        indices = list(range(min(available, 1)))
    missing = [index for index in indices if index >= available]
    if missing:
        raise UserError(f"GPU {missing[0]} was asked for, but {engine} finds {available or 'no'} "
                        f"GPU{'' if available == 1 else 's'} here; use --num-gpus " +
                        (f"{available} or less" if available else "0, which is the CPU"))
    return tuple(f"gpu:{index}" for index in indices) or ("cpu",)


def count_mxnet_gpus():
    """How many GPUs MXNet finds."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    return mx.context.num_gpus()
