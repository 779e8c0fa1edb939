"""The running statistics of an input's normalisation follow the batches, on a CPU too."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from engines.input_statistics import keep_input_statistics
from graph.fast_cpu import hybridize
from model import get_model
from tests.model import units


def _network():
    net = get_model("resnet_v2_cifar", blocks=1)
    net.initialize(mx.init.MSRAPrelu())
    keep_input_statistics(net)
    return net


@pytest.mark.parametrize("compiled", [False, True], ids=["imperative", "compiled"])
def test_input_statistics_follow_the_batches(compiled):
    """Without care they would stay at 0 and 1 on a CPU, and prediction differ from training."""
    net = _network()
    x = units.image((16, 3, 32, 32)) * 2 + 3
    if compiled:
        hybridize(net, x.shape, [mx.cpu()])
    for _ in range(2):
        with autograd.record():
            out = net(x)
        out.backward()
    batch = x.asnumpy().astype(np.float64)
    mean, variance = batch.mean(axis=(0, 2, 3)), batch.var(axis=(0, 2, 3))
    norm = net.features[0]
    np.testing.assert_allclose(norm.running_mean.data().asnumpy(), 0.19 * mean, rtol=1e-4)
    np.testing.assert_allclose(norm.running_var.data().asnumpy(), 0.81 + 0.19 * variance,
                               rtol=1e-4)
    before = norm.running_mean.data().asnumpy()
    net(x)
    np.testing.assert_array_equal(norm.running_mean.data().asnumpy(), before)


def test_input_statistics_are_not_updated_twice():
    net = _network()
    x = units.image((8, 3, 32, 32)) + 3
    x.attach_grad()
    with autograd.record():
        out = net(x)
    out.backward()
    assert np.abs(x.grad.asnumpy()).max() > 0
    np.testing.assert_allclose(net.features[0].running_mean.data().asnumpy(),
                               0.1 * x.asnumpy().mean(axis=(0, 2, 3)), rtol=1e-4)


def test_a_network_without_such_a_norm_is_left():
    net = get_model("resnet18", width=0.25)
    keep_input_statistics(net)
    assert not net._forward_pre_hooks
