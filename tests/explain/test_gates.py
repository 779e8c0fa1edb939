"""Gate statistics against NumPy."""
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from explain.gates import BINS, find_units, read_gates, variance_shares
from model import get_activation, get_attention, get_model


class Recorder(nn.HybridSequential):
    """A unit between two convolutions."""

    def __init__(self, unit):
        super().__init__(prefix="")
        self.add(nn.Conv2D(6, 3, padding=1, in_channels=3), unit,
                 nn.Conv2D(2, 1, in_channels=6))
        self.initialize(mx.init.Normal(0.7))


@pytest.fixture
def x():
    return mx.nd.array(np.random.default_rng(3).normal(size=(5, 3, 7, 6)))


@pytest.mark.parametrize("unit", [
    get_activation("ChaATAC", 6), get_activation("ChaATAC", 6, use_global=True),
    get_activation("SpaATAC", 6), get_activation("SeqATAC", 6), get_activation("xUnit", 6),
    get_attention("SE", 6, reduction=2), get_attention("SpatialAttention", 6, kernel_size=3),
    get_activation("relu", 6)], ids=lambda unit: type(unit).__name__)
def test_statistics_are_numpy_s(unit, x):
    net = Recorder(unit)
    net.hybridize()
    layer, = read_gates(net, x, batch_size=2)
    inner = net[0](x)
    given, out = inner.asnumpy().astype(np.float64), unit(inner).asnumpy()
    if layer.kind == "relu":
        gate = (given > 0).astype(float)
    else:
        gate = unit.gate(mx.nd, inner).asnumpy().astype(np.float64)
    full = np.broadcast_to(gate, given.shape)
    np.testing.assert_allclose(given * full, out, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.maps, gate.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(layer.histogram,
                               np.histogram(gate, BINS, (0, 1))[0] / gate.size)
    for ours, theirs in (
            (layer.mean, gate.mean()), (layer.deviation, gate.std()),
            (layer.closed, (gate < 0.1).mean()), (layer.open, (gate > 0.9).mean()),
            (layer.relu_on, (given > 0).mean()), (layer.when_on, full[given > 0].mean()),
            (layer.when_off, full[given <= 0].mean())):
        assert ours == pytest.approx(theirs, abs=1e-6)
    total = gate.var()
    np.testing.assert_allclose(layer.shares * total, [
        gate.mean(axis=(0, 2, 3)).var(), gate.mean(axis=(2, 3)).var(axis=0).mean(),
        gate.var(axis=(2, 3)).mean()], atol=1e-6)
    assert layer.shares.sum() == pytest.approx(1)


def test_shares_of_pure_cases():
    by_channel = np.array([[0.2, 0.8], [0.2, 0.8]])
    np.testing.assert_allclose(variance_shares(by_channel, by_channel ** 2), [1, 0, 0])
    np.testing.assert_allclose(variance_shares(by_channel.T, by_channel.T ** 2), [0, 1, 0])
    same = np.full((2, 2), 0.5)
    np.testing.assert_allclose(variance_shares(same, same ** 2 + 0.1), [0, 0, 1])
    np.testing.assert_array_equal(variance_shares(same, same ** 2), [0, 0, 0])


def test_units_of_a_network_in_the_order_they_run(x):
    net = get_model("resnet_v2_cifar", blocks=1, activation="ChaATAC", act_layers=2)
    net.initialize()
    kinds = [(layer.name, layer.kind) for layer in read_gates(net, mx.nd.zeros((1, 3, 32, 32)))]
    assert [kind for _, kind in kinds] == ["relu"] * 4 + ["ChaATAC"] * 3
    assert kinds[-1][0] == "features.6"
    assert not any("module" in name for name, _ in find_units(net))


def test_a_network_without_gates(x):
    net = Recorder(nn.BatchNorm(in_channels=6))
    with pytest.raises(ValueError, match="no unit of this network shows its gate"):
        read_gates(net, x)
