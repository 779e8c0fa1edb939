"""Whether numbers are finite."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
from mxnet import nd

__all__ = ["all_finite"]

# MXNet's operator has room for 200 arrays and does not check: more of them end the process.
_MOST = 100


def all_finite(arrays):
    """Whether no array holds an infinity or a NaN (a read from the device).

    Parameters
    ----------
    arrays : iterable of NDArray
        Of any float types; all on one device.

    Returns
    -------
    bool
    """
    by_type = {}
    for array in arrays:
        by_type.setdefault(str(array.dtype), []).append(array)
    groups = [same[i:i + _MOST] for same in by_type.values() for i in range(0, len(same), _MOST)]
    return all(nd.multi_all_finite(*group, num_arrays=len(group)).asscalar() for group in groups)
