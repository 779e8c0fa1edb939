"""Attention units: equal to their references and formulas, however they are run."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import SymbolBlock, nn

from model.activation import get_activation
from model.attention import (
    CBAM,
    ECA,
    GE,
    MVAM,
    SE,
    ZAM,
    ChannelAttention,
    SpatialAttention,
    get_attention,
    list_attentions,
)
from tests.golden_cases import assert_close, cases, load, translate_reference_key

# Options that make another unit of the same name.
VARIANTS = {
    "CBAM": [{"order": "spatial-channel", "kernel_size": 3, "spatial_norm": True,
              "spatial_bias": False, "use_bias": False}],
    "MVAM": [{"spatial_bias": True, "reduction": 4}],
    "ZAM": [{"skip": True}],
    "SE": [{"use_bias": False, "reduction": 100}],
    "ECA": [{"kernel_size": 5}],
    "GE": [{"variant": "theta"}, {"variant": "theta+", "reduction": 4},
           {"extent": 2}, {"variant": "theta", "extent": 4}, {"variant": "theta+", "extent": 8}],
    "ChannelAttention": [{"statistics": ("var", "max")}],
    "SpatialAttention": [{"statistics": "var"}, {"use_norm": True}],
}
UNITS = [(name, options) for name in list_attentions()
         for options in [{}] + VARIANTS.get(name, [])]
# Searchable-CBAM's versions of the units.
SEARCHABLE = {"spatial_statistics": ("mean", "max"), "spatial_bias": False, "kernel_size": 3}


def _random(*shape, seed=0):
    return nd.array(np.random.default_rng(seed).standard_normal(shape), dtype="float32")


def _initialized(name, channels, options):
    unit = get_attention(name, channels, **options)
    mx.random.seed(3)
    unit.initialize(mx.init.Normal(0.3))
    return unit


def _output_and_gradients(unit, x, output_weights=None):
    """Output in training mode, gradient to x, and those to the trainable parameters."""
    x = x.copy()
    x.attach_grad()
    with autograd.record():
        out = unit(x)
    out.backward(_random(*out.shape, seed=9) if output_weights is None else output_weights)
    return out, x.grad, {name: p.grad() for name, p in unit._collect_params_with_prefix().items()
                         if p.grad_req != "null"}


# ---- against the references ----

def _fill(unit, arrays):
    parameters = unit._collect_params_with_prefix()
    for key, array in arrays.items():
        if key.startswith("param:") and not key.endswith("wgt"):
            parameter = parameters.pop(translate_reference_key(key[len("param:"):]))
            parameter.set_data(nd.array(array.reshape(parameter.shape)))
    assert not parameters


def _assert_equals_case(unit, case, run=None):
    unit.initialize()
    arrays = load(case)
    _fill(unit, arrays)
    x = nd.array(arrays["x"])
    x.attach_grad()
    with autograd.record():
        out = unit(x) if run is None else run(x)
    out.backward(nd.array(arrays["g"]))
    assert_close(out, arrays["out"], case["tolerance"])
    assert_close(x.grad, arrays["grad_x"], case["tolerance"])
    for name, parameter in unit._collect_params_with_prefix().items():
        expected = next(array for key, array in arrays.items() if key.startswith("grad:")
                        and translate_reference_key(key[len("grad:"):]) == name)
        assert_close(parameter.grad(), expected.reshape(parameter.shape), case["tolerance"])


@pytest.mark.parametrize("case", cases("se"), ids=lambda case: case["name"])
def test_se_equals_its_definition(case):
    made = case["constructor"]
    _assert_equals_case(SE(made["channels"], made["r"], made["use_bias"]), case)


@pytest.mark.parametrize("case", cases("cbam_elbuco1"), ids=lambda case: case["name"])
def test_cbam_equals_the_cifar_study(case):
    made = case["constructor"]
    _assert_equals_case(CBAM(made["n_channels_in"], made["reduction_ratio"],
                             made["kernel_size"]), case)


_SEARCHABLE_UNITS = {
    "ChannelAttention": lambda made: ChannelAttention(32),
    "SpatialAttention": lambda made: SpatialAttention(32, made["kernel_size"], ("mean", "max"),
                                                      use_bias=False),
    "CBAM": lambda made: CBAM(32, **SEARCHABLE),
    "MyChannelAttention": lambda made: ChannelAttention(32, statistics=("mean", "var")),
    "MySpatialAttention": lambda made: SpatialAttention(32, made["kernel_size"], ("mean", "var"),
                                                        use_bias=False),
    "MVAM": lambda made: MVAM(32),
    "ZAM": lambda made: ZAM(32, skip=made["use_skip_connection"]),
}


@pytest.mark.parametrize("case", cases("searchable_attention"), ids=lambda case: case["name"])
def test_units_equal_the_structure_search(case):
    made = case["constructor"]
    unit = _SEARCHABLE_UNITS[made["cls"]](made)
    # The reference's halves return their map.
    halves = made["cls"].endswith("Attention")
    _assert_equals_case(unit, case, run=(lambda x: unit.gate(nd, x)) if halves else None)


# ---- against formulas in NumPy ----

def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _normalized(z):
    """Batch normalisation in prediction, statistics and scale at their initial values."""
    return z / np.sqrt(1 + 1e-5)


def _weights(unit):
    return {name: p.data().asnumpy().astype(np.float64)
            for name, p in unit._collect_params_with_prefix().items()}


def _convolve(x, weight, bias=None, dilation=1, stride=1, groups=1, padding=None):
    """Direct convolution, (N, C, H, W) with (O, C / groups, k, k); keeps the size by default."""
    k = weight.shape[2]
    pad = dilation * (k - 1) // 2 if padding is None else padding
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = ((padded.shape[i] - dilation * (k - 1) - 1) // stride + 1 for i in (2, 3))
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    per_group, out_per_group = weight.shape[1], weight.shape[0] // groups
    for o in range(weight.shape[0]):
        first = o // out_per_group * per_group
        for i in range(k):
            for j in range(k):
                patch = padded[:, first:first + per_group,
                               i * dilation:i * dilation + stride * (height - 1) + 1:stride,
                               j * dilation:j * dilation + stride * (width - 1) + 1:stride]
                out[:, o] += np.einsum("nchw,c->nhw", patch, weight[o, :, i, j])
    return out if bias is None else out + bias[:, None, None]


def _dense(z, weight, bias):
    return np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], z) + bias[:, None, None]


@pytest.mark.parametrize("channels, kernel_size", [(1, 1), (8, 3), (32, 3), (64, 3), (256, 5),
                                                   (512, 5)])
def test_eca_kernel_follows_the_channels(channels, kernel_size):
    assert ECA(channels).conv.weight.shape == (1, 1, kernel_size)


def test_eca_is_a_convolution_along_the_channels():
    unit, x = _initialized("ECA", 6, {"kernel_size": 3}), _random(2, 6, 5, 4)
    taps, pooled = _weights(unit)["conv.weight"][0, 0], x.asnumpy().mean((2, 3))
    padded = np.pad(pooled, ((0, 0), (1, 1)))
    logit = sum(taps[i] * padded[:, i:i + 6] for i in range(3))
    expected = x.asnumpy() * _sigmoid(logit)[:, :, None, None]
    np.testing.assert_allclose(unit(x).asnumpy(), expected, rtol=1e-4, atol=1e-6)


def _local_means(x, extent):
    """Mean over the (2 e - 1) x (2 e - 1) neighbourhood, inside the map, of each e-th place."""
    reach = extent - 1
    rows, columns = (range(0, size, extent) for size in x.shape[2:])
    return np.stack([np.stack([x[:, :, max(i - reach, 0):i + reach + 1,
                                 max(j - reach, 0):j + reach + 1].mean((2, 3))
                               for j in columns], -1) for i in rows], -2)


def _upsampled(z, extent, shape):
    return z.repeat(extent, 2).repeat(extent, 3)[:, :, :shape[2], :shape[3]]


@pytest.mark.parametrize("variant", ["theta-", "theta", "theta+"])
@pytest.mark.parametrize("extent", ["global", 2, 4])
def test_ge_formula(variant, extent):
    unit = _initialized("GE", 6, {"variant": variant, "extent": extent, "reduction": 2})
    x = _random(2, 6, 9, 7)
    array, weights = x.asnumpy().astype(np.float64), _weights(unit)
    if variant == "theta-":
        z = array.mean((2, 3), keepdims=True) if extent == "global" else _local_means(array, extent)
    elif extent == "global":
        kernel = weights["gather.0.weight"][:, 0]                      # (C, 1, 1)
        z = _normalized(array.mean((2, 3), keepdims=True) * kernel)
    else:
        z = _normalized(_convolve(array, weights["gather.0.weight"], stride=2, groups=6))
        if extent == 4:
            z = _normalized(_convolve(np.maximum(z, 0), weights["gather.3.weight"], stride=2,
                                      groups=6))
    if variant == "theta+":
        z = np.maximum(_dense(z, weights["excite.0.weight"], weights["excite.0.bias"]), 0)
        z = _dense(z, weights["excite.2.weight"], weights["excite.2.bias"])
    if extent != "global":
        z = _upsampled(z, extent, x.shape)
    np.testing.assert_allclose(unit(x).asnumpy(), array * _sigmoid(z), rtol=1e-4, atol=1e-6)


def test_ge_of_a_given_size_is_one_depthwise_convolution_of_the_map():
    unit = _initialized("GE", 4, {"variant": "theta", "size": (5, 3)})
    x = _random(2, 4, 5, 3)
    kernel = _weights(unit)["gather.0.weight"][:, 0]
    z = _normalized((x.asnumpy() * kernel).sum((2, 3), keepdims=True))
    np.testing.assert_allclose(unit(x).asnumpy(), x.asnumpy() * _sigmoid(z), rtol=1e-4, atol=1e-6)


def test_bam_formula():
    unit, x = _initialized("BAM", 8, {"reduction": 4, "dilation": 2}), _random(2, 8, 9, 7)
    array, w = x.asnumpy().astype(np.float64), _weights(unit)
    z = np.maximum(_dense(array.mean((2, 3), keepdims=True), w["channel.0.weight"],
                          w["channel.0.bias"]), 0)
    channel = _normalized(_dense(z, w["channel.2.weight"], w["channel.2.bias"]))
    z = array
    for i, dilation in ((0, 1), (3, 2), (6, 2)):
        z = np.maximum(_normalized(_convolve(z, w[f"spatial.{i}.weight"], w[f"spatial.{i}.bias"],
                                             dilation)), 0)
    spatial = _normalized(_convolve(z, w["spatial.9.weight"], w["spatial.9.bias"]))
    expected = array * (1 + _sigmoid(channel + spatial))
    np.testing.assert_allclose(unit(x).asnumpy(), expected, rtol=1e-4, atol=1e-6)


def test_atac_is_the_activation_of_the_paper():
    x = _random(2, 6, 3, 5)
    unit, activation = _initialized("ATAC", 6, {}), get_activation("ChaATAC", 6)
    activation.initialize()
    for name, parameter in activation._collect_params_with_prefix().items():
        parameter.set_data(unit._collect_params_with_prefix()[name].data())
    np.testing.assert_array_equal(unit(x).asnumpy(), activation(x).asnumpy())


def test_order_of_the_halves_matters():
    x = _random(2, 8, 5, 5)
    first, second = (_initialized("CBAM", 8, {"order": order})
                     for order in ("channel-spatial", "spatial-channel"))
    np.testing.assert_array_equal(first(x).asnumpy(), first.spatial(first.channel(x)).asnumpy())
    np.testing.assert_array_equal(second(x).asnumpy(), second.channel(second.spatial(x)).asnumpy())


# ---- properties of all units ----

@pytest.mark.parametrize("name, options", UNITS)
@pytest.mark.parametrize("shape", [(3, 8, 9, 7), (2, 3, 1, 2), (2, 1, 5, 1)])
def test_same_hybridized(name, options, shape):
    x = _random(*shape)
    expected, expected_grad_x, expected_grads = _output_and_gradients(
        _initialized(name, shape[1], options), x)
    unit = _initialized(name, shape[1], options)
    unit.hybridize(static_alloc=True, static_shape=True)
    out, grad_x, grads = _output_and_gradients(unit, x)

    assert out.shape == shape
    np.testing.assert_allclose(out.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad_x.asnumpy(), expected_grad_x.asnumpy(), rtol=1e-4, atol=1e-5)
    for key, gradient in grads.items():
        assert np.isfinite(gradient.asnumpy()).all(), key
        np.testing.assert_allclose(gradient.asnumpy(), expected_grads[key].asnumpy(), rtol=1e-4,
                                   atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name, options", UNITS)
def test_every_parameter_gets_a_gradient(name, options):
    unit = _initialized(name, 64, options)             # a bottleneck of 4: not all of it dead
    out, grad_x, grads = _output_and_gradients(unit, _random(4, 64, 9, 9))
    assert np.isfinite(out.asnumpy()).all() and np.isfinite(grad_x.asnumpy()).all()
    assert np.abs(grad_x.asnumpy()).max() > 0
    for key, gradient in grads.items():
        # A bias or scale before a normalisation over the batch has none, by definition.
        before_norm = name == "BAM" and key.endswith("bias")
        assert before_norm or np.abs(gradient.asnumpy()).max() > 0, key


@pytest.mark.parametrize("name, options", UNITS)
def test_same_after_export_and_import(name, options, tmp_path):
    unit, x = _initialized(name, 8, options), _random(2, 8, 6, 5)
    unit.hybridize()
    expected = unit(x)
    unit.export(str(tmp_path / "unit"), epoch=0)
    params = tmp_path / "unit-0000.params"
    imported = SymbolBlock.imports(str(tmp_path / "unit-symbol.json"), ["data"],
                                   str(params) if params.exists() else None)
    np.testing.assert_allclose(imported(x).asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
    # Nothing of the size it was traced with is left in the graph.
    other = _random(3, 8, 9, 7)
    np.testing.assert_allclose(imported(other).asnumpy(), unit(other).asnumpy(), rtol=1e-5,
                               atol=1e-6)


@pytest.mark.parametrize("name", ["ChannelAttention", "SpatialAttention", "SE", "ECA", "GE"])
def test_the_gate_can_be_looked_at(name):
    unit, x = _initialized(name, 8, {}), _random(2, 8, 5, 6)
    gate = unit.gate(nd, x)
    assert gate.shape == ((2, 1, 5, 6) if name == "SpatialAttention" else (2, 8, 1, 1))
    assert gate.min().asscalar() > 0 and gate.max().asscalar() < 1
    np.testing.assert_allclose((x * gate).asnumpy(), unit(x).asnumpy(), rtol=1e-5, atol=1e-6)


def test_variance_of_a_single_position_or_channel_is_zero():
    for unit in (_initialized("MVAM", 1, {}), _initialized("MVAM", 4, {})):
        out, grad_x, _ = _output_and_gradients(unit, _random(2, unit.spatial._channels, 1, 1))
        assert np.isfinite(out.asnumpy()).all() and np.isfinite(grad_x.asnumpy()).all()


def test_an_own_normalisation_reaches_the_unit():
    unit = get_attention("CBAM", 8, spatial_norm=True, norm_layer=nn.BatchNorm,
                         norm_kwargs={"momentum": 0.5})
    assert unit.spatial.norm._kwargs["momentum"] == 0.5


# ---- errors ----

@pytest.mark.parametrize("name, options, message", [
    ("CBAN", {}, "Did you mean 'CBAM'"),
    ("SE", {"kernel_size": 3}, "'SE' has no option 'kernel_size'. It has: reduction, use_bias"),
    ("CBAM", {"kernel_size": 4}, "kernel_size must be odd"),
    ("CBAM", {"order": "both"}, "order must be one of channel-spatial, spatial-channel"),
    ("CBAM", {"spatial_statistics": ("mean", "median")}, "statistics must be one of mean, max"),
    ("ChannelAttention", {"statistics": ()}, "at least one of"),
    ("SE", {"reduction": 0}, "reduction must be a positive integer"),
    ("GE", {"variant": "theta++"}, "variant must be one of"),
    ("GE", {"extent": 3}, "extent must be one of global, 2, 4, 8"),
    ("GE", {"extent": 2, "size": 8}, "size belongs to"),
])
def test_errors_name_the_valid_choices(name, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        get_attention(name, 8, **options)


def test_a_factory_passes_through():
    assert isinstance(get_attention(GE, 8, extent=2), GE)
