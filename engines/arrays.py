"""An engine's arrays by structural name, as files and checkpoints hold them."""
import numpy as np

from .interface import OtherNetwork

__all__ = ["average_statistics", "check_arrays", "statistics_names", "with_statistics"]

_RUNNING = ("running_mean", "running_var")


def check_arrays(shapes, weights):
    """Raise OtherNetwork unless `weights` has an array of each shape, by name, and no other."""
    for name in sorted(shapes.keys() | weights.keys()):
        has = weights[name].shape if name in weights else None
        wants = shapes.get(name)
        if has != wants:
            raise OtherNetwork("belongs to another network: " + (
                f"{name} is not in it" if has is None else f"it has no {name}" if wants is None
                else f"{name} is {has}, not {wants}"))


def statistics_names(weights):
    """Names of the running statistics among weights, sorted."""
    return [name for name in sorted(weights) if name.endswith(_RUNNING)]


def with_statistics(weights, vector):
    """Weights whose running statistics are those of one vector, (N,), by name."""
    weights, start = dict(weights), 0
    for name in statistics_names(weights):
        stop = start + weights[name].size
        weights[name] = vector[start:stop].reshape(weights[name].shape)
        start = stop
    return weights


def average_statistics(weights, workers):
    """Weights with the workers' mean of the running statistics, and each worker's own.

    Parameters
    ----------
    weights : dict of str to float32 array
        This worker's.
    workers : engines.workers.SingleWorker

    Returns
    -------
    dict of str to array
    array (workers, N) or None
        None where there is one worker, or nothing is normalised by batches.
    """
    names = statistics_names(weights)
    if workers.count == 1 or not names:
        return weights, None
    rows = np.zeros((workers.count, sum(weights[name].size for name in names)), np.float32)
    rows[workers.rank] = np.concatenate([weights[name].ravel() for name in names])
    rows = workers.sum(rows.ravel(), "statistics").reshape(rows.shape)
    return with_statistics(weights, rows.mean(axis=0)), rows
