"""An engine's arrays by structural name, as files and checkpoints hold them."""
import numpy as np

from common.params import difference

from .interface import EngineState, OtherNetwork

__all__ = ["KeepsState", "check_arrays", "stored_moments"]

_RUNNING = ("running_mean", "running_var")


def check_arrays(shapes, weights):
    """Raise OtherNetwork unless `weights` has an array of each shape, by name, and no other."""
    found = difference(shapes, weights)
    if found:
        raise OtherNetwork(f"belongs to another network: {found}")


def stored_moments(state, name, shapes):
    """What an `EngineState` keeps of a parameter's moments.

    Parameters
    ----------
    state : engines.interface.EngineState
    name : str
    shapes : list of tuple
        Of the moments that the optimizer has.

    Returns
    -------
    list of array or None
        None if the parameter was never updated.

    Raises
    ------
    OtherNetwork
        If they are another optimizer's, or an earlier version's.
    """
    if name not in state.update_counts:
        raise OtherNetwork("was written by another optimizer or an earlier version (nothing is "
                           f"said of {name})")
    if not state.update_counts[name] and f"{name}:0" not in state.optimizer:
        return None
    *stored, further = [state.optimizer.get(f"{name}:{k}") for k in range(len(shapes) + 1)]
    if further is not None or any(array is None or array.shape != tuple(shape)
                                  for array, shape in zip(stored, shapes)):
        raise OtherNetwork(f"was written by another optimizer ({name} has no fitting state)")
    return stored


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


class KeepsState:
    """What is the same of an engine's arrays, whatever computes.

    An engine has ``workers``, ``loss_scale`` and ``load_weights``; ``_own_weights()``, float32
    arrays of this worker by structural name; and ``_optimizer_states()``, which has for each
    group ``arrays()``, ``counts``, ``num_updates`` and ``load(state, num_updates)``.
    """

    def weights(self):
        """What parameter files hold; see `engines.interface`."""
        return average_statistics(self._own_weights(), self.workers)[0]

    def state(self):
        """All that a checkpoint keeps; see `engines.interface`."""
        weights, statistics = average_statistics(self._own_weights(), self.workers)
        state = EngineState(weights, statistics=statistics,
                            scaling=self.loss_scale and self.loss_scale.state)
        for optimizer in self._optimizer_states():
            state.optimizer.update(optimizer.arrays())
            state.update_counts.update(optimizer.counts)
            state.num_updates.append(optimizer.num_updates)
        return state

    def load_state(self, state):
        """Take up the state of a checkpoint; see `engines.interface`."""
        weights = state.weights
        if state.statistics is not None:
            weights = with_statistics(weights, state.statistics[self.workers.rank])
        self.load_weights(weights)
        optimizers = self._optimizer_states()
        if len(state.num_updates) != len(optimizers):
            raise OtherNetwork("was written with other optimizers")
        for optimizer, num_updates in zip(optimizers, state.num_updates):
            optimizer.load(state, num_updates)
        if self.loss_scale:
            self.loss_scale.state = state.scaling
