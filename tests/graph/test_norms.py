"""Which normalisations see one value, and so erase it."""
import pytest
from mxnet.gluon import nn

from graph.graph import trace
from graph.norms import erasing_norms
from model.activation import get_activation
from model.attention import get_attention


def _found(unit, batch_size=1, size=4):
    return erasing_norms(trace(unit, (16, size, size)), batch_size)


@pytest.mark.parametrize("unit, names", [
    (lambda: get_activation("ChaATAC", 16, use_global=True), ["module.2", "module.5"]),
    (lambda: get_attention("ATAC", 16, use_global=True, use_relu=False), ["module.2", "module.4"]),
    (lambda: get_attention("BAM", 16), ["channel.3"]),
    (lambda: get_attention("GE", 16, variant="theta"), ["gather.1"]),
    (lambda: get_attention("GE", 16, variant="theta+", size=4), ["gather.1"])])
def test_after_a_global_pooling(unit, names):
    assert _found(unit()) == names
    assert _found(unit(), batch_size=2) == []


@pytest.mark.parametrize("name, count", [("ChaATAC", 2), ("SpaATAC", 2), ("SeqATAC", 3),
                                         ("xUnit", 2), ("xUnitS", 1)])
def test_on_maps_of_one_position(name, count):
    assert len(_found(get_activation(name, 16), size=1)) == count
    assert _found(get_activation(name, 16), size=1, batch_size=2) == []
    assert _found(get_activation(name, 16), size=2) == []


@pytest.mark.parametrize("name", ["SE", "CBAM", "MVAM", "ZAM", "ECA", "ChannelAttention"])
def test_gates_without_normalisations_take_single_images(name):
    assert _found(get_attention(name, 16), size=1) == []


def test_a_normalisation_by_fixed_statistics_erases_nothing():
    net = nn.HybridSequential()
    net.add(nn.GlobalAvgPool2D(), nn.BatchNorm(in_channels=16, use_global_stats=True))
    assert _found(net) == []
