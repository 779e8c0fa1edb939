"""What MXNet's optimizers and normalisations have gathered, as NumPy arrays by name."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
from mxnet import nd

from .arrays import stored_moments

__all__ = ["TrainerState"]


class TrainerState:
    """A Trainer's arrays and counts, by the structural names of its parameters.

    Parameters
    ----------
    trainer : mxnet.gluon.Trainer
    net : mxnet.gluon.Block
    """

    def __init__(self, trainer, net):
        self._trainer, self._optimizer = trainer, trainer._optimizer
        names = {id(parameter): name
                 for name, parameter in net._collect_params_with_prefix().items()}
        self._trained = [(index, names[id(parameter)], parameter)
                         for index, parameter in enumerate(trainer._params)
                         if parameter.grad_req != "null"]

    def _split(self, state, parameter):
        """(float32 master or None, moments) of one parameter's state."""
        leaves = _leaves(state)
        if not leaves or np.dtype(parameter.dtype) != np.float16:
            return None, leaves
        # SGD and NAG put the master last, MXNet's other optimizers first.
        at = -1 if isinstance(self._optimizer, (mx.optimizer.SGD, mx.optimizer.NAG)) else 0
        return leaves.pop(at), leaves

    def _parts(self):
        states = self._trainer._updaters[0].states
        return [(name, *self._split(states.get(index), parameter))
                for index, name, parameter in self._trained]

    def masters(self):
        """(name, NDArray) of the float32 masters of float16 parameters."""
        return [(name, master) for name, master, _ in self._parts() if master is not None]

    def arrays(self):
        """``<name>:<k>`` -> array: momentum, or Adam's two means."""
        return {f"{name}:{k}": moment.asnumpy()
                for name, _, moments in self._parts() for k, moment in enumerate(moments)}

    @property
    def counts(self):
        """Name -> how often it was updated."""
        counts = self._optimizer._index_update_count
        return {name: counts.get(index, 0) for index, name, _ in self._trained}

    @property
    def num_updates(self):
        """How often the optimizer has updated."""
        return self._optimizer.num_update

    def load(self, state, num_update):
        """Take up what an `EngineState` keeps of this optimizer.

        Raises
        ------
        OtherNetwork
            If it is another optimizer's, or an earlier version's.
        """
        counts = {}
        for index, name, parameter in self._trained:
            self._load(index, name, parameter, state)
            counts[index] = state.update_counts[name]
        # One count per device; the optimizer switches between them by device number.
        contexts = self._trainer._contexts
        self._optimizer._all_index_update_counts = {
            context.device_id: dict(counts) for context in contexts}
        self._optimizer._index_update_count = self._optimizer._all_index_update_counts[
            contexts[0].device_id]
        self._optimizer.num_update = num_update

    def _load(self, index, name, parameter, state):
        for updater, data in zip(self._trainer._updaters, parameter.list_data()):
            fresh = self._optimizer.create_state_multi_precision(index, data)
            master, moments = self._split(fresh, parameter)
            stored = stored_moments(state, name, [moment.shape for moment in moments])
            if stored is None:
                return    # it gets its state from the first update
            if master is not None:
                _fill(master, state.weights[name])
            for array, moment in zip(stored, moments):
                _fill(moment, array)
            updater.states[index] = fresh
            updater.states_synced[index] = True


def _fill(target, array):
    target[:] = nd.array(array, ctx=target.context, dtype=target.dtype)


def _leaves(state):
    """The arrays of an optimizer's state for one parameter, in a fixed order."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [leaf for part in state for leaf in _leaves(part)]
    return [state]
