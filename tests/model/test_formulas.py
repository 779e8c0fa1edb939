"""Whole networks against NumPy: where every unit stands, and what the defaults are.

All parameters and statistics are random, images are neither square nor of an even size, and the
units differ from slot to slot: whatever stands in another place changes the logits.
"""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from scipy.special import erf

import model
from tests.golden_cases import assert_close
from tests.model.formulas import UNITS, convolve, resnet_v1_cifar, resnet_v1b, resnet_v2_cifar, se
from tests.random_networks import randomise

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def _image(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def _weights(net):
    return {name: parameter.data().asnumpy().astype(np.float64)
            for name, parameter in net._collect_params_with_prefix().items()}


def _assert_equals(net, formula, shape, **arguments):
    x = _image(*shape)
    net(nd.array(x))    # what is initialized late
    randomise(net)
    expected = formula(x.astype(np.float64), _weights(net), **arguments)
    assert np.ptp(expected) > 0.1
    assert_close(net(nd.array(x)), expected, TOLERANCE)


def _by_name(names):
    return [UNITS[name] for name in names]


# ---- the paper's network ----

@pytest.mark.parametrize("options, acts", [
    ({}, ["ChaATAC"] * 4),
    ({"activation": "ChaATAC", "act_layers": 2}, ["swish", "swish", "ChaATAC", "ChaATAC"]),
    ({"activation": "ChaATAC", "act_layers": 1, "act_order": "pre"},
     ["ChaATAC", "swish", "swish", "swish"]),
    ({"activation": "prelu", "act_layers": 3}, ["swish", "prelu", "prelu", "prelu"]),
    ({"activation": "swish", "attention": "SE"}, ["swish"] * 4),
    ({"activation": "swish", "attention": "CBAM", "attn_options": {"kernel_size": 3}},
     ["swish"] * 4),
    ({"activation": "relu", "attention": ["SE", None, "ECA", "CBAM", "SE", None]}, ["relu"] * 4),
], ids=str)
def test_the_paper_s_network(options, acts):
    attention = options.get("attention")
    attns = attention if isinstance(attention, list) else [attention] * 6
    net = model.get_model("resnet_v2_cifar", blocks=2, channels=(4, 6, 8, 10),
                          replace_act="swish", **options)
    net.initialize()
    _assert_equals(net, resnet_v2_cifar, (2, 3, 9, 14), blocks=2, acts=_by_name(acts),
                   attns=_by_name(attns))


# ---- the hosts of the attention studies ----

@pytest.mark.parametrize("options, acts, lasts, attns", [
    ({"activation": "ChaATAC", "act_layers": 3,
      "attention": ["SE", None, "CBAM", "ECA", None, "SE", "SE", None]},
     ["prelu", "ChaATAC", "ChaATAC", "ChaATAC"], ["prelu"] * 4,
     ["SE", None, "CBAM", "ECA", None, "SE", "SE", None]),
    ({"activation": "swish", "act_layers": 1, "act_order": "pre", "act_last": True,
      "attention": "SE", "attention_at": "identity"},
     ["swish", "prelu", "prelu", "prelu"], ["swish", "prelu", "prelu", "prelu"],
     ["SE", "SE", None, "SE", None, "SE", None, "SE"]),
    ({"activation": "swish", "attention": "CBAM", "attention_at": ["block", "classifier"],
      "stem": "conv7"}, ["swish"] * 4, ["prelu"] * 4, ["CBAM"] * 8),
    ({"activation": "swish", "attention": "SE", "attention_at": ["classifier"]},
     ["swish"] * 4, ["prelu"] * 4, [None] * 8),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_resnet18_for_small_images(options, acts, lasts, attns):
    net = model.get_model("resnet18", width=1 / 16, replace_act="prelu", **options)
    net.initialize()
    classifier = UNITS[options["attention"]] if "classifier" in options.get(
        "attention_at", "") else None
    _assert_equals(net, resnet_v1_cifar, (2, 3, 17, 22), layers=(2, 2, 2, 2), bottleneck=False,
                   acts=_by_name(acts), lasts=_by_name(lasts), attns=_by_name(attns),
                   plain=UNITS["prelu"], pooled="stem" in options, classifier=classifier)


def test_resnet50_for_small_images():
    attns = [["SE", None, "ECA"][i % 3] for i in range(16)]
    net = model.get_model("resnet50", width=1 / 16, activation="ChaATAC", act_layers=2,
                          attention=attns)
    net.initialize()
    _assert_equals(net, resnet_v1_cifar, (2, 3, 9, 14), layers=(3, 4, 6, 3), bottleneck=True,
                   acts=_by_name(["relu", "relu", "ChaATAC", "ChaATAC"]),
                   lasts=_by_name(["relu"] * 4), attns=_by_name(attns), plain=UNITS["relu"])


# ---- the host of ImageNet ----

@pytest.mark.parametrize("depth, options, acts", [
    (18, {"act_layers": 1, "act_order": "pre"}, ["ChaATAC", "prelu", "prelu", "prelu"]),
    (50, {}, ["prelu", "prelu", "ChaATAC", "ChaATAC"]),
])
def test_the_imagenet_network(depth, options, acts):
    net = model.get_model(f"resnet{depth}_v1b", classes=7, layers=(1, 1, 1, 1),
                          activation="ChaATAC", replace_act="prelu", attention="SE", **options)
    net.initialize()
    _assert_equals(net, resnet_v1b, (1, 3, 41, 58), bottleneck=depth == 50,
                   acts=_by_name(acts), attn=se)


@pytest.mark.parametrize("name, options, convolution, norm", [
    ("resnet_v2_cifar", {"blocks": 1}, "features.1", "features.2.0.bn1"),
    ("resnet18", {"width": 1 / 16}, "features.0", "features.1"),
    ("resnet18_v1b", {"layers": (1, 1, 1, 1)}, "conv1", "bn1"),
])
def test_running_statistics_move_by_a_tenth(name, options, convolution, norm):
    net = model.get_model(name, **options)
    net.initialize(mx.init.Xavier())
    x = _image(4, 3, 33, 33)
    with autograd.record():
        out = net(nd.array(x))
    out.backward()
    nd.waitall()
    p = _weights(net)
    if name == "resnet_v2_cifar":    # its images are normalised by the batch
        x = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    seen = convolve(x.astype(np.float64), p, convolution, 2 if norm == "bn1" else 1)
    np.testing.assert_allclose(p[f"{norm}.running_mean"], 0.1 * seen.mean((0, 2, 3)), rtol=1e-3,
                               atol=1e-5)
    np.testing.assert_allclose(p[f"{norm}.running_var"], 0.9 + 0.1 * seen.var((0, 2, 3)),
                               rtol=1e-3)


# ---- defaults ----

# What a unit is without options, by its paper (or by the sentence in its docstring).
ACTIVATION_DEFAULTS = {
    "ChaATAC": {"reduction": 2, "use_relu": True, "use_global": False},
    "SpaATAC": {"kernel_size": 3, "dilation": 1, "use_relu": True},
    "SeqATAC": {"reduction": 2, "kernel_size": 3, "dilation": 1, "use_relu": True},
    "xUnit": {"kernel_size": 9, "gate": "gaussian"},
    "xUnitS": {"kernel_size": 3},
    "swish": {"beta": 1.0}, "elu": {"alpha": 1.0},
    "relu": {}, "prelu": {}, "selu": {}, "gelu": {}, "mish": {},
}
ATTENTION_DEFAULTS = {
    "ATAC": {"reduction": 2, "use_relu": True, "use_global": False},
    "BAM": {"reduction": 16, "dilation": 4},
    "CBAM": {"reduction": 16, "kernel_size": 7, "order": "channel-spatial", "use_bias": True,
             "channel_statistics": ("mean", "max"), "spatial_statistics": ("max", "mean"),
             "spatial_bias": True, "spatial_norm": False},
    "ChannelAttention": {"reduction": 16, "use_bias": True, "statistics": ("mean", "max")},
    "ECA": {"kernel_size": 3},    # at 32 channels
    "GE": {"variant": "theta-", "extent": "global"},
    "MVAM": {"reduction": 16, "kernel_size": 3, "order": "channel-spatial", "use_bias": True,
             "spatial_bias": False},
    "SE": {"reduction": 16, "use_bias": True},
    "SpatialAttention": {"kernel_size": 7, "statistics": ("max", "mean"), "use_bias": True,
                         "use_norm": False},
    "ZAM": {"skip": False, "order": "channel-spatial"},
}


@pytest.mark.parametrize("get, name", [
    *((model.get_activation, name) for name in model.list_activations()),
    *((model.get_attention, name) for name in model.list_attentions())],
    ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_defaults_are_the_papers(get, name):
    """A default is the same unit as its value, given: same parameters, same output."""
    defaults = ACTIVATION_DEFAULTS if get is model.get_activation else ATTENTION_DEFAULTS
    units = [randomise(get(name, 32, **options)) for options in ({}, defaults[name])]
    plain, explicit = ({key: value.shape for key, value in _weights(unit).items()}
                       for unit in units)
    assert plain == explicit
    x = nd.array(_image(2, 32, 15, 12))
    plain, explicit = (unit(x).asnumpy() for unit in units)
    np.testing.assert_array_equal(plain, explicit)


@pytest.mark.parametrize("options", [{"reduction": 2}, {"act_layers": 4, "act_order": "bac"},
                                     {"blocks": 3}, {"replace_act": "relu"}], ids=str)
def test_the_paper_s_network_by_default(options):
    """ResNet-20 with ATAC (r = 2) in all places, on CIFAR-10."""
    if "reduction" in options:
        options = {"activation": "ChaATAC", "act_options": options}
    plain, explicit = (randomise(model.get_model("resnet_v2_cifar", **chosen))
                       for chosen in ({}, {"classes": 10, **options}))
    x = nd.array(_image(2, 3, 8, 8))
    np.testing.assert_array_equal(plain(x).asnumpy(), explicit(x).asnumpy())


@pytest.mark.parametrize("name, options, formula", [
    ("swish", {"beta": 2.5}, lambda x: x / (1 + np.exp(-2.5 * x))),
    ("elu", {"alpha": 0.3}, lambda x: np.where(x > 0, x, 0.3 * np.expm1(x))),
    ("selu", {}, lambda x: 1.0507009873554805 * np.where(
        x > 0, x, 1.6732632423543772 * np.expm1(x))),
    ("gelu", {}, lambda x: x / 2 * (1 + erf(x / 2 ** 0.5))),
])
def test_constants_of_activations(name, options, formula):
    unit = model.get_activation(name, 4, **options)
    unit.initialize()
    x = _image(2, 4, 5, 3)
    np.testing.assert_allclose(unit(nd.array(x)).asnumpy(), formula(x.astype(np.float64)),
                               rtol=1e-4, atol=1e-6)
