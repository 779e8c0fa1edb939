"""MXNet's optimizers on PyTorch's parameters.

They differ from `torch.optim`: nag's and sgd's learning rate is inside the momentum, so that a
change of the rate does not change what is in it; adam's correction is in the rate.
"""
import math

import numpy as np
import torch

from .arrays import stored_moments

__all__ = ["Optimizer"]

_EPSILON = 1e-8    # of adam


class Optimizer:
    """The parameters of one group, and their moments.

    Parameters
    ----------
    group : engines.interface.Group
    parameters : dict of str to torch.nn.Parameter
        By structural name.

    Attributes
    ----------
    moments : list of list of torch.Tensor
        In their order the parameters' momenta; of adam also their means of squares.
    counts : dict of str to int
        How often each was updated.
    num_updates : int
    """

    def __init__(self, group, parameters):
        self._group, self.parameters = group, parameters
        self._tensors = [parameter.detach() for parameter in parameters.values()]
        self._decays = [group.weight_decay * group.decays(name) for name in parameters]
        count = 2 if group.optimizer == "adam" else int(group.momentum != 0)
        self.moments = [[torch.zeros_like(tensor) for tensor in self._tensors]
                        for _ in range(count)]
        self.counts, self.num_updates = dict.fromkeys(parameters, 0), 0

    @torch.no_grad()
    def step(self, rate, scale=1.0):
        """Update all parameters by their gradients times `scale`."""
        gradients = [parameter.grad for parameter in self.parameters.values()]
        if scale != 1:
            gradients = torch._foreach_mul(gradients, scale)
        self.num_updates += 1
        self.counts = {name: count + 1 for name, count in self.counts.items()}
        getattr(self, f"_{self._group.optimizer}")(gradients, rate)

    def _decayed(self, gradients):
        """The gradients with those of the weight decay."""
        return torch._foreach_add(gradients, torch._foreach_mul(self._tensors, self._decays))

    def _sgd(self, gradients, rate):
        step = self._decayed(gradients)
        if not self.moments:
            torch._foreach_add_(self._tensors, step, alpha=-rate)
            return
        momenta, = self.moments
        torch._foreach_mul_(momenta, self._group.momentum)
        torch._foreach_add_(momenta, step, alpha=-rate)
        torch._foreach_add_(self._tensors, momenta)

    def _nag(self, gradients, rate):
        if not self.moments:
            self._sgd(gradients, rate)
            return
        momenta, = self.moments
        momentum = self._group.momentum
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(self._tensors, self._decayed(gradients), alpha=-(1 + momentum) * rate)
        torch._foreach_add_(self._tensors, momenta, alpha=momentum)
        # MXNet's kernel has written the weight by now: this is the decay of the new one.
        torch._foreach_add_(momenta, self._decayed(gradients), alpha=-rate)

    def _adam(self, gradients, rate):
        means, squares = self.moments
        first, second = self._group.betas
        gradients = self._decayed(gradients)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_add(torch._foreach_sqrt(squares), _EPSILON)
        count = max(self.counts.values())
        rate *= math.sqrt(1 - second ** count) / (1 - first ** count)
        torch._foreach_addcdiv_(self._tensors, means, roots, -rate)

    # ---- state ---------------------------------------------------------------------------

    def arrays(self):
        """``<name>:<k>`` -> array, of all moments of what was updated."""
        return {f"{name}:{k}": moment.cpu().numpy().copy()
                for k, moments in enumerate(self.moments)
                for name, moment in zip(self.parameters, moments) if self.counts[name]}

    def load(self, state, num_updates):
        """Take up what an `EngineState` keeps of this optimizer.

        Raises
        ------
        OtherNetwork
            If it is another optimizer's, or an earlier version's.
        """
        for index, (name, parameter) in enumerate(self.parameters.items()):
            stored = stored_moments(state, name, [parameter.shape] * len(self.moments))
            for moments, array in zip(self.moments, stored or ()):    # else they are zero
                moments[index].copy_(torch.from_numpy(np.array(array)))
        self.counts = {name: state.update_counts[name] for name in self.parameters}
        self.num_updates = num_updates
