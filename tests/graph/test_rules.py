"""Every unit computes the same by the rules for a CPU as it does plain, and learns the same."""
import functools
import itertools

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from graph import fast_cpu
from graph.fast_cpu import hybridize
from graph.graph import trace
from model.activation import get_activation, list_activations
from model.attention import get_attention, list_attentions
from model.structure import SearchableAttention

CPU = [mx.cpu()]
CHANNELS, SHAPE = 16, (3, 5, 11, 7)
_BUILDERS = {
    **{name: functools.partial(get_activation, name) for name in list_activations()},
    **{f"{name} (attention)": functools.partial(get_attention, name)
       for name in list_attentions()},
    "ChaATAC global": functools.partial(get_activation, "ChaATAC", use_global=True),
    "swish beta": functools.partial(get_activation, "swish", beta=1.5),
    "xUnit sigmoid": functools.partial(get_activation, "xUnit", gate="sigmoid"),
    "CBAM norm": functools.partial(get_attention, "CBAM", spatial_norm=True),
    "CBAM, three statistics": functools.partial(
        get_attention, "CBAM", order="spatial-channel", channel_statistics=("max", "var", "mean"),
        spatial_statistics=("var", "max", "mean")),
    "ZAM skip": functools.partial(get_attention, "ZAM", skip=True),
    "GE theta+": functools.partial(get_attention, "GE", variant="theta+"),
    "GE local": functools.partial(get_attention, "GE", variant="theta", extent=2),
    "searchable": SearchableAttention,
    "searchable MVAM": functools.partial(SearchableAttention, kind="MVAM"),
}


class _Host(nn.HybridBlock):
    """A unit between convolutions, as in a residual network."""

    def __init__(self, build, channels=CHANNELS, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv = nn.Conv2D(channels, 3, padding=1, in_channels=SHAPE[1])
            self.norm = nn.BatchNorm(in_channels=channels)
            self.unit = build(channels)
            self.last = nn.Conv2D(channels, 3, padding=1, in_channels=channels, use_bias=False)
            self.output = nn.Dense(4, in_units=channels)

    def hybrid_forward(self, F, x):
        x = self.norm(self.conv(x))
        return self.output(F.mean(self.last(self.unit(x)) + x, axis=(2, 3)))


def _host(build, **options):
    mx.random.seed(1)
    net = _Host(build, **options)
    net.initialize(mx.init.Xavier())
    return net


def _pass(net, x, labels):
    """Logits, and the gradients of the images and of the parameters by structural name."""
    x.attach_grad()
    with autograd.record():
        logits = net(x)
        loss = gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)
    loss.backward()
    nd.waitall()    # the running statistics are written behind the engine's back
    return {"logits": logits.asnumpy(), "images": x.grad.asnumpy(),
            **{name: p.grad().asnumpy() for name, p in net._collect_params_with_prefix().items()
               if p.grad_req != "null"}}


def _statistics(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()
            if "running" in name}


def _assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        # A bias before a normalisation has the gradient 0 but for rounding.
        np.testing.assert_allclose(found[name], array, rtol=tolerance, err_msg=name,
                                   atol=max(tolerance * abs(array).max(), 5e-6))


@functools.cache
def _plain(name):
    """What a host computes imperatively, on five batches."""
    net = _host(_BUILDERS[name])
    return [_pass(net, *batch) for batch in _batches()], _statistics(net)


def _batches():
    generator = np.random.default_rng(0)
    for count in itertools.repeat(SHAPE[0], 5):
        yield (nd.array(generator.standard_normal((count, *SHAPE[1:]))),
               nd.array(generator.integers(4, size=count)))


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", _BUILDERS)
def test_a_unit_computes_and_learns_the_same(name, static):
    expected, statistics = _plain(name)
    net = _host(_BUILDERS[name])
    hybridize(net, SHAPE, CPU, static=static)
    for batch, each in zip(_batches(), expected):
        _assert_close(_pass(net, *batch), each, 1e-4)
    _assert_close(_statistics(net), statistics, 1e-4)


@pytest.mark.parametrize("name", ["CBAM (attention)", "MVAM (attention)", "BAM (attention)",
                                  "ChaATAC global"])
def test_batch_and_image_may_have_other_sizes_than_the_graph_was_made_for(name):
    net, plain = _host(_BUILDERS[name]), _host(_BUILDERS[name])
    hybridize(net, SHAPE, CPU, static=False)
    for shape in ((4, 5, 6, 13), (2, 5, 3, 3)):
        x = nd.random.normal(shape=shape)
        np.testing.assert_allclose(net(x).asnumpy(), plain(x).asnumpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("name", ["CBAM (attention)", "MVAM (attention)", "BAM (attention)",
                                  "ChaATAC global", "SeqATAC", "GE local"])
def test_a_single_position_or_channel_is_no_special_case(name, channels):
    results = []
    for compile_ in (nn.HybridBlock.hybridize, lambda net: hybridize(net, (2, 5, 1, 1), CPU)):
        net = _host(_BUILDERS[name], channels=channels)
        compile_(net)
        results.append(net(nd.random.normal(shape=(2, 5, 1, 1), ctx=CPU[0]) * 0 + 0.3).asnumpy())
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)


class _Gate(nn.HybridBlock):
    """A unit's gate alone: only its statistics lead back to the input."""

    def __init__(self, unit):
        super().__init__()
        self.unit = unit

    def hybrid_forward(self, F, x):
        return self.unit.gate(F, x)


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("name, first", [
    ("ChannelAttention", (slice(None), slice(None), 0, 0)),
    ("SpatialAttention", (slice(None), 0))])
def test_of_equal_maxima_the_first_gets_the_gradient(name, first, fast):
    """As after a ReLU, whose zeros are equal."""
    net = _Gate(get_attention(name, 4, statistics=("max",), use_bias=False))
    net.initialize(mx.init.Constant(0.5))
    x = nd.ones((2, 4, 5, 3))
    if fast:
        hybridize(net, x.shape, CPU)
    x.attach_grad()
    with autograd.record():
        gate = net(x)
    gate.backward()
    gradient = x.grad.asnumpy()
    assert (gradient[first] > 1e-3).all()
    gradient[first] = 0
    assert not gradient.any()


# ---- the graph of each unit is the quick one ----

def _operators(name, channels=CHANNELS):
    graph = trace(_host(_BUILDERS[name], channels=channels), SHAPE[1:]).rewrite(*fast_cpu.RULES)
    assert all(node.shapes for node in graph.nodes)
    return [node.op for node in graph.nodes if not node.is_variable]


@pytest.mark.parametrize("name", _BUILDERS)
def test_no_slow_operator_is_left_at_a_map(name):
    assert not {"relu", "sigmoid", "broadcast_sub", "mean"} & set(_operators(name))
    assert "Pooling" not in _operators(name) or "GE local" in name


def test_copies_out_of_blocks_are_where_they_pay():
    assert _operators("ChaATAC").count("Reshape") - _operators("relu").count("Reshape") == 1
    assert _operators("SeqATAC").count("Reshape") - _operators("relu").count("Reshape") == 2
    assert _operators("swish").count("Reshape") - _operators("relu").count("Reshape") == 1
    assert "batch_dot" in _operators("BAM (attention)")
    assert "broadcast_add" not in _operators("BAM (attention)")


# ---- the compiled graph is the one that runs ----

@pytest.mark.parametrize("undo", [
    lambda net: net.hybridize(), lambda net: net.cast("float64"),
    lambda net: net._clear_cached_op()], ids=["hybridize", "cast", "clear"])
def test_undoing_the_rules_is_said_before_the_next_step(undo):
    net = _host(_BUILDERS["ChaATAC"])
    hybridize(net, SHAPE, CPU)
    net(nd.zeros(SHAPE))
    undo(net)
    with pytest.raises(RuntimeError, match="call graph.fast_cpu.hybridize last"):
        net(nd.zeros(SHAPE))
    net.cast("float32")
    hybridize(net, SHAPE, CPU)
    net(nd.zeros(SHAPE))


def test_a_network_that_runs_imperatively_again_is_no_fault():
    net = _host(_BUILDERS["ChaATAC"])
    hybridize(net, SHAPE, CPU)
    net.hybridize(False)
    net(nd.zeros(SHAPE))
