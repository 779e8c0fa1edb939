"""Running statistics of a network's input, which MXNet leaves alone on a CPU."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
from mxnet import autograd, nd

from model.resnet_v2_cifar import InputNorm

__all__ = ["keep_input_statistics"]


def keep_input_statistics(net):
    """Have each training pass of a network move the statistics of its `InputNorm`.

    On a CPU, MXNet updates them in BatchNorm's backward pass, which never runs there: nothing
    at or below this layer asks for a gradient, unless the image itself does. Left at mean 0 and
    variance 1 they would scale the image differently in prediction than in training. A GPU
    (cuDNN) updates them in the forward pass.

    Parameters
    ----------
    net : mxnet.gluon.Block
        Its first layer may be an `InputNorm`; other networks are left as they are.
    """
    first = net
    while first._children and not isinstance(first, InputNorm):
        first = next(iter(first._children.values()))
    if isinstance(first, InputNorm):
        net.register_forward_pre_hook(lambda _, inputs: _update(first, *inputs))


def _update(norm, x):
    if (not isinstance(x, nd.NDArray) or not autograd.is_training()
            or x.context.device_type != "cpu" or x.grad is not None):
        return
    gamma, beta, running_mean, running_var = (
        parameter.data(x.context)
        for parameter in (norm.gamma, norm.beta, norm.running_mean, norm.running_var))
    momentum, epsilon = norm._kwargs["momentum"], norm._kwargs["eps"]
    with autograd.pause(train_mode=True):
        _, mean, inverse_std = nd.BatchNorm(x, gamma, beta, running_mean, running_var,
                                            output_mean_var=True, **norm._kwargs)
        variance = 1 / nd.square(inverse_std) - epsilon
        running_mean[:] = momentum * running_mean + (1 - momentum) * mean
        running_var[:] = momentum * running_var + (1 - momentum) * variance
