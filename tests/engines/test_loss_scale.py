"""Loss scaling, on a network of element-wise products in float16."""
import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

from common.errors import UserError
from engines.gluon_scale import GluonLossScale


class Product(gluon.nn.HybridBlock):
    """y = w * x: MXNet has no float16 convolutions or dense layers on a CPU."""

    def __init__(self, size):
        super().__init__()
        with self.name_scope():
            self.w = self.params.get("w", shape=(size,), init="ones")
            self.running = self.params.get("running", shape=(size,), grad_req="null")

    def hybrid_forward(self, F, x, w, running):
        return F.broadcast_mul(x, w.reshape((1, -1)))


def _network(dtype="float16", contexts=None, lr=0.5):
    net = Product(3)
    net.cast(dtype)
    net.initialize(ctx=contexts or [mx.cpu()])
    trainer = gluon.Trainer(net.collect_params(), "sgd", {
        "learning_rate": lr, "momentum": 0.9, "multi_precision": dtype == "float16"},
        update_on_kvstore=False)
    return net, trainer


def _step(net, trainer, scaling, x, contexts=None):
    """One step on the loss sum(w * x), whose gradient is x."""
    losses = []
    with autograd.record():
        for ctx, part in zip(contexts or [mx.cpu()], x):
            data = nd.array(part, dtype=net.w.dtype, ctx=ctx).reshape((1, -1))
            losses.append(net(data).astype("float32").sum(axis=1))
    autograd.backward(losses, scaling.head_gradients(losses))
    return scaling.step(trainer, len(losses))


def test_small_gradients_survive():
    """1e-8 is zero in float16; times 2**16 it is not, and the master weights are float32."""
    results = {}
    for name, scale in (("scaled", 2.0 ** 16), ("plain", 1.0)):
        net, trainer = _network(lr=1.0)
        losses = []
        with autograd.record():
            small = net(nd.ones((1, 3), dtype="float16")).astype("float32") * 1e-8
            losses.append(small.sum(axis=1))
        scaling = GluonLossScale(scale)
        autograd.backward(losses, scaling.head_gradients(losses))
        assert scaling.step(trainer, 1)
        results[name] = [leaf.asnumpy() for leaf in _leaves(trainer, net)]
    assert np.abs(results["plain"][0]).max() == 0
    np.testing.assert_allclose(np.abs(results["scaled"][0]), 1e-8, rtol=0.05)


def _leaves(trainer, net):
    """The momentum in float32, from the state (master weights, momentum) in either order."""
    def flat(state):
        if isinstance(state, (list, tuple)):
            return [leaf for part in state for leaf in flat(part)]
        return [state]
    arrays = flat(trainer._updaters[0].states[trainer._param2idx[net.w.name]])
    assert all(array.dtype == np.float32 for array in arrays) and len(arrays) == 2
    return sorted(arrays, key=lambda array: float(array.abs().max().asscalar()))


@pytest.mark.parametrize("contexts", [[mx.cpu(0)], [mx.cpu(0), mx.cpu(1)]], ids=["one", "two"])
def test_it_equals_unscaled_float32_training(contexts):
    x = np.random.default_rng(0).normal(size=(8, len(contexts), 3)).astype(np.float32)
    weights = []
    for dtype, scaling in (("float32", GluonLossScale(1.0, window=100)),
                           ("float16", GluonLossScale(256.0))):
        net, trainer = _network(dtype, contexts, lr=0.05)
        for parts in x:
            assert _step(net, trainer, scaling, parts, contexts)
        weights.append(net.w.data(contexts[0]).asnumpy().astype(np.float32))
        assert scaling.skipped == 0
    np.testing.assert_allclose(*weights, rtol=5e-3, atol=2e-3)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    net, trainer = _network()
    scaling = GluonLossScale(2.0 ** 16)
    assert not _step(net, trainer, scaling, [np.full(3, 4.0)])      # 4 * 65536 > 65504
    assert (scaling.skipped, scaling.scale) == (1, 2.0 ** 15)
    np.testing.assert_array_equal(net.w.data().asnumpy(), 1)
    while not _step(net, trainer, scaling, [np.full(3, 4.0)]):
        pass
    assert scaling.skipped == 3
    np.testing.assert_allclose(net.w.data().asnumpy(), 1 - 0.5 * 4)


def test_the_scale_grows_after_quiet_steps_and_not_for_ever():
    net, trainer = _network()
    scaling = GluonLossScale(8.0, window=2, largest=16.0)
    scales = []
    for _ in range(6):
        _step(net, trainer, scaling, [np.ones(3)])
        scales.append(scaling.scale)
    assert scales == [8, 16, 16, 16, 16, 16]


def test_an_overflow_starts_the_count_of_quiet_steps_anew():
    net, trainer = _network()
    scaling = GluonLossScale(8.0, window=3)
    scales = []
    for gradient in (1, 1, np.inf, 1, 1, 1):
        _step(net, trainer, scaling, [np.full(3, gradient)])
        scales.append(scaling.scale)
    assert scales == [8, 8, 4, 4, 4, 8]


def test_its_state_goes_on():
    one, two = GluonLossScale(8.0, window=3), GluonLossScale()
    net, trainer = _network()
    _step(net, trainer, one, [np.ones(3)])
    two.state = one.state
    assert two.state == one.state == {"scale": 8.0, "skipped": 0, "since": 1}


def test_gradients_that_are_never_finite_end_training():
    net, trainer = _network()
    scaling = GluonLossScale(1.0)
    with pytest.raises(UserError, match="not finite whatever"):
        for _ in range(100):
            _step(net, trainer, scaling, [np.array([np.nan, 1, 1])])
    np.testing.assert_array_equal(net.w.data().asnumpy(), 1)
