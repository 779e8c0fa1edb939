"""The rewritten training graph computes what the network does."""
import json
import os
import subprocess
import sys
from collections import Counter
from unittest import mock

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from graph import fast_cpu
from graph.fast_cpu import fuse_norm_relu, hybridize
from graph.graph import from_symbol
from model import get_model
from model.activation import list_activations
from model.attention import list_attentions
from tests.scripts import ROOT

SHAPE = (4, 3, 32, 32)
CPU = [mx.cpu()]


def _operators(symbol):
    return Counter(node["op"] for node in json.loads(symbol.tojson())["nodes"]
                   if node["op"] != "null")


def _network(name="resnet_v2_cifar", **options):
    mx.random.seed(3)
    net = get_model(name, **options)
    net.initialize(mx.init.Xavier())
    net(nd.zeros((1, 3, 32, 32)))
    return net


def _plain_and_fused(name="resnet_v2_cifar", **options):
    """The same network twice: by all rules but the last, which fuses, and by all of them."""
    plain, fused = _network(name, **options), _network(name, **options)
    with mock.patch.object(fast_cpu, "RULES", fast_cpu.RULES[:-1]):
        hybridize(plain, SHAPE, CPU)
    hybridize(fused, SHAPE, CPU)
    return plain, fused


def _trained(net, steps=3):
    """Everything in a network after some steps, and the losses, as arrays."""
    generator = np.random.default_rng(0)
    images, labels = nd.array(generator.standard_normal(SHAPE)), nd.arange(SHAPE[0])
    trainer = gluon.Trainer(net.collect_params(), "nag", {"learning_rate": 0.1, "momentum": 0.9},
                            update_on_kvstore=False)
    losses = []
    for _ in range(steps):
        with autograd.record():
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(images), labels)
        loss.backward()
        trainer.step(SHAPE[0])
        losses.append(loss.asnumpy())
    nd.waitall()    # the running statistics are written behind the engine's back
    return losses + [p.data().asnumpy() for p in net._collect_params_with_prefix().values()]


@pytest.mark.parametrize("options", [
    *({"activation": name} for name in list_activations()),
    *({"activation": "relu", "attention": name} for name in list_attentions()),
    {"activation": "ChaATAC", "act_options": {"use_global": True}}], ids=str)
def test_training_is_the_same_with_every_unit(options):
    plain, fused = _plain_and_fused(blocks=1, **options)
    # More steps would magnify differences of rounding; a wrong gradient shows in two.
    for expected, found in zip(_trained(plain, 2), _trained(fused, 2)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def _gradients(net, shape):
    images = nd.array(np.random.default_rng(0).standard_normal(shape))
    with autograd.record():
        output = net(images)
        total = (output * output).sum()
    total.backward()
    return [output.asnumpy()] + [p.grad().asnumpy() for p in net.collect_params().values()
                                 if p.grad_req != "null"]


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [8, 16, 24, 40])
def test_gradients_are_the_same_between_convolutions_of_all_widths(channels, kernel_size):
    shape, fused = (4, 16, 16, 16), 0
    for following in (3, 8, 16, 24, 48):
        results = []
        for compiled in (nn.HybridBlock.hybridize, lambda net: hybridize(net, shape, CPU)):
            mx.random.seed(0)
            net = nn.HybridSequential()
            net.add(nn.Conv2D(channels, 3, padding=1, use_bias=False, in_channels=16),
                    nn.BatchNorm(in_channels=channels), nn.Activation("relu"),
                    nn.Conv2D(following, kernel_size, in_channels=channels))
            net.initialize(mx.init.Xavier())
            compiled(net)
            results.append(_gradients(net, shape))
        fused += _operators(net._cached_graph[1])["_contrib_BatchNormWithReLU"]
        for expected, found in zip(*results):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    assert fused


@pytest.mark.parametrize("isa", ["AVX2", "SSE41"])
def test_training_is_the_same_on_older_processors(isa):
    """They have narrower blocks, so other memory layouts."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k",
         "with_every_unit or of_all_widths"], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "DNNL_MAX_CPU_ISA": isa})
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("activation", ["relu", "ChaATAC"])
def test_the_papers_network_trains_to_the_same_bits(activation):
    plain, fused = _plain_and_fused(activation=activation, blocks=1)
    for expected, found in zip(_trained(plain), _trained(fused)):
        np.testing.assert_array_equal(found, expected)


def test_each_relu_after_a_normalisation_is_fused():
    net = _network(activation="relu", blocks=1)
    hybridize(net, SHAPE, CPU)
    traced = _operators(_network(activation="relu", blocks=1)(mx.sym.var("data")))
    found = _operators(net._cached_graph[1])
    assert traced["Activation"] > 0
    assert found["_contrib_BatchNormWithReLU"] == traced["Activation"]
    assert found["BatchNorm"] == traced["BatchNorm"] - traced["Activation"]


def _fused(block, shape):
    block.initialize()
    graph = from_symbol(block(mx.sym.var("data")), shape[1:])
    return _operators(graph.rewrite(fuse_norm_relu).to_symbol())


def test_a_normalisation_that_something_else_reads_is_left():
    class Both(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2D(16, 3, in_channels=3), nn.BatchNorm()

        def hybrid_forward(self, F, x):
            x = self.norm(self.conv(x))
            return F.Activation(x, act_type="relu") + x

    assert _fused(Both(), SHAPE)["_contrib_BatchNormWithReLU"] == 0


def _conv(channels, **options):
    return nn.Conv2D(channels, 1, **options)


@pytest.mark.parametrize("layers, shape", [
    ((_conv(16), nn.BatchNorm(axis=3), nn.Activation("relu")), SHAPE),
    ((_conv(16), nn.BatchNorm(), nn.Activation("sigmoid")), SHAPE),
    ((nn.Conv1D(16, 1), nn.BatchNorm(), nn.Activation("relu")), (2, 3, 4)),
    ((nn.BatchNorm(), nn.Activation("relu")), SHAPE),
    ((_conv(12), nn.BatchNorm(), nn.Activation("relu")), SHAPE),
    ((_conv(16, groups=2), nn.BatchNorm(), nn.Activation("relu")), (2, 4, 8, 8)),
    ((_conv(16), nn.BatchNorm(), nn.Activation("relu"), _conv(8)), SHAPE),
], ids=["channels last", "sigmoid", "three dimensions", "plain data", "no whole blocks", "groups",
        "narrower gradient"])
def test_what_the_library_cannot_fuse_is_left(layers, shape):
    block = nn.HybridSequential()
    block.add(*layers)
    assert _fused(block, shape)["_contrib_BatchNormWithReLU"] == 0


def test_a_rectified_normalisation_may_be_read_by_many_and_be_an_output():
    class Net(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(16, 3, in_channels=3)
            self.norm, self.relu = nn.BatchNorm(), nn.Activation("relu")

        def hybrid_forward(self, F, x):
            x = self.relu(self.norm(self.conv(x)))
            return x, F.square(x) + x

    plain, fused = Net(), Net()
    images = nd.array(np.random.default_rng(0).standard_normal(SHAPE))
    results = []
    for net in (plain, fused):
        mx.random.seed(0)
        net.initialize()
        if net is fused:
            hybridize(net, SHAPE, CPU)
            assert _operators(net._cached_graph[1])["_contrib_BatchNormWithReLU"] == 1
        with autograd.record():
            results.append([each.asnumpy() for each in net(images)])
    for expected, found in zip(*results):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("contexts, dtype, environ", [
    ([mx.gpu(0)], "float32", {}), (CPU, "float16", {}),
    (CPU, "float32", {"MXNET_MKLDNN_ENABLED": "0"})])
def test_elsewhere_the_network_is_compiled_as_it_is(monkeypatch, contexts, dtype, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    net = _network(activation="relu", blocks=1)
    hybridize(net, SHAPE, contexts, dtype)
    assert net._active and not net._cached_graph


@pytest.mark.parametrize("name, options", [
    ("resnet50_v1b", {"activation": "ChaATAC"}),
    ("resnet50_v1b", {"attention": "CBAM"}),
    ("resnet18", {"attention": "SE", "width": 0.5}),
    ("resnet50", {"attention": "CBAM", "width": 0.25})], ids=str)
def test_other_networks_train_alike(name, options):
    plain, fused = _plain_and_fused(name, classes=10, **options)
    assert _operators(fused._cached_graph[1])["_contrib_BatchNormWithReLU"] > 0
    for expected, found in zip(_trained(plain, 1), _trained(fused, 1)):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
