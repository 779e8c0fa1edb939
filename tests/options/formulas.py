"""Training in NumPy: update rules as MXNet documents them, and a network of one bias."""
import numpy as np

from tests.options.runs import log_softmax


def nag(weight, gradient, state, rate, decay, momentum):
    """Nesterov's gradient, with the rate inside the momentum.

    MXNet's kernel writes the weight before the momentum, which so gets the decay of the new one.
    """
    before = momentum * state.get("m", 0)
    step = rate * (gradient + decay * weight)
    weight = weight - (1 + momentum) * step - momentum * before
    state["m"] = before + rate * (gradient + decay * weight)
    return weight


def sgd(weight, gradient, state, rate, decay, momentum):
    """Stochastic gradient descent with momentum, the rate inside it."""
    state["m"] = momentum * state.get("m", 0) + rate * (gradient + decay * weight)
    return weight - state["m"]


def adam(weight, gradient, state, rate, decay, _momentum=None, beta1=0.9, beta2=0.999,
         epsilon=1e-8):
    """D. Kingma, J. Ba, arXiv 1412.6980, algorithm 1 in the form of the end of section 2."""
    gradient = gradient + decay * weight
    state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * gradient
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * gradient ** 2
    rate = rate * np.sqrt(1 - beta2 ** state["t"]) / (1 - beta1 ** state["t"])
    return weight - rate * state["m"] / (np.sqrt(state["v"]) + epsilon)


def is_trained(name):
    """Whether a parameter of resnet_v2_cifar is: not the input's scale and shift."""
    return not name.startswith("features.0.") and "running" not in name


class Learner:
    """A `runs.constant_network` that learns.

    Parameters
    ----------
    arrays : dict
        Its parameters by name.
    rule : callable
        `nag`, `sgd` or `adam`.
    momentum, weight_decay : float
    exempt : bool
        Whether parameters with one axis have no weight decay.
    loss : callable
        ``loss(logits, labels)`` -> loss and gradient of one image, each of the batch.
    """

    def __init__(self, arrays, rule=nag, momentum=0.9, weight_decay=1e-4, exempt=False,
                 loss=None):
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
        self.rule, self.momentum = rule, momentum
        self.weight_decay, self.exempt = weight_decay, exempt
        self.loss = loss or cross_entropy()
        self._states = {name: {} for name in arrays if is_trained(name)}

    @property
    def bias(self):
        """Its logits."""
        return self.arrays["output.bias"]

    def step(self, labels, rate):
        """One update; returns the mean loss before it."""
        losses, gradients = self.loss(self.bias, np.asarray(labels))
        for name, state in self._states.items():
            weight = self.arrays[name]
            gradient = gradients.mean(axis=0) if name == "output.bias" else np.zeros_like(weight)
            decay = 0 if self.exempt and weight.ndim == 1 else self.weight_decay
            self.arrays[name] = self.rule(weight, gradient, state, rate, decay, self.momentum)
        return losses.mean()


def cross_entropy(smoothing=0.0):
    """Cross-entropy with a share of the target spread over all classes."""
    def loss(logits, labels):
        classes = len(logits)
        targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
        logs = log_softmax(logits)
        return -targets @ logs, np.exp(logs) - targets
    return loss


def distillation(teacher, temperature, hard_weight):
    """G. Hinton et al., arXiv 1503.02531, section 2; `teacher` are its logits."""
    def loss(logits, labels):
        hard, gradients = cross_entropy()(logits, labels)
        shares = np.exp(log_softmax(teacher / temperature))
        logs = log_softmax(logits / temperature)
        soft = -temperature ** 2 * (shares @ logs)
        return (hard_weight * hard + (1 - hard_weight) * soft,
                hard_weight * gradients
                + (1 - hard_weight) * temperature * (np.exp(logs) - shares))
    return loss
