import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd

import model
from model.activation import ChaATAC, SeqATAC, SpaATAC, xUnit, xUnitS
from model.layers import hidden_channels
from tests import golden_cases
from tests.model import units

NAMES = model.list_activations()


def test_the_paper_s_units_are_registered():
    expected = {"ChaATAC", "SpaATAC", "SeqATAC", "xUnit", "xUnitS", "relu", "prelu", "elu",
                "selu", "gelu", "swish", "mish"}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("shape", units.SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape(name, shape):
    units.check_keeps_shape(units.initialized(model.get_activation(name, 8)), shape)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    units.check_gradients(units.initialized(model.get_activation(name, 8)), (3, 8, 7, 5))


@pytest.mark.parametrize("name", NAMES)
def test_hybridized_is_imperative(name):
    units.check_hybridized(lambda: model.get_activation(name, 8), (3, 8, 7, 5))


@pytest.mark.parametrize("name", NAMES)
def test_exported_is_reimported(name, tmp_path):
    units.check_exported(units.initialized(model.get_activation(name, 8)), (2, 8, 6, 5), tmp_path)


# ---- against the reference ----------------------------------------------------------------

def _golden_unit(case, arrays):
    options = case["constructor"]
    unit = ChaATAC(options["channels"], reduction=options["r"], use_relu=options["useReLU"],
                   use_global=options["useGlobal"])
    unit.initialize()
    for name, parameter in unit._collect_params_with_prefix().items():
        parameter.set_data(nd.array(arrays[f"param:{name}"]))
    return unit


@pytest.mark.parametrize("static", [False, True], ids=["imperative", "static"])
@pytest.mark.parametrize("case", golden_cases.cases("chaatac"), ids=lambda case: case["name"])
def test_chaatac_equals_the_reference(case, static):
    arrays = golden_cases.load(case)
    unit = _golden_unit(case, arrays)
    if static:
        unit.hybridize(static_alloc=True, static_shape=True)

    def close(actual, name):
        golden_cases.assert_close(actual.asnumpy(), arrays[name], case["tolerance"], name)

    x = nd.array(arrays["x"])
    close(unit(x), "out_predict")
    x.attach_grad()
    with autograd.record():
        out = unit(x)
        loss = (out * nd.array(arrays["g"])).sum()
    loss.backward()
    close(out, "out_train")
    close(x.grad, "grad_x")
    parameters = unit._collect_params_with_prefix()
    checked = 0
    for name in arrays:
        kind, _, key = name.partition(":")
        if kind == "grad":
            close(parameters[key].grad(), name)
        elif kind == "after":
            close(parameters[key].data(), name)
        checked += kind in ("grad", "after")
    assert checked == len(parameters)


# ---- against plain NumPy ----------------------------------------------------------------------

def _conv_depthwise(x, weight, dilation=1):
    n, c, h, w = x.shape
    k = weight.shape[-1]
    pad = dilation * (k - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros_like(x)
    for i in range(k):
        for j in range(k):
            out += weight[None, :, 0, i, j, None, None] * padded[
                :, :, i * dilation:i * dilation + h, j * dilation:j * dilation + w]
    return out


def _conv_pointwise(x, weight):
    return np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x)


def _norm(x, p, index):
    def column(name):
        return p[f"module.{index}.{name}"][None, :, None, None]
    return ((x - column("running_mean")) / np.sqrt(column("running_var") + 1e-5)
            * column("gamma") + column("beta"))


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _relu(z):
    return np.maximum(z, 0)


def _spaatac(x, p, relu=True, dilation=1):
    z = _norm(_conv_depthwise(x, p["module.0.weight"], dilation), p, 1)
    second = 3 if relu else 2
    z = _relu(z) if relu else z
    z = _norm(_conv_depthwise(z, p[f"module.{second}.weight"], dilation), p, second + 1)
    return x * _sigmoid(z)


def _seqatac(x, p, relu=True, dilation=1):
    z = _norm(_conv_depthwise(x, p["module.0.weight"], dilation), p, 1)
    z = _norm(_conv_pointwise(z, p["module.2.weight"]), p, 3)
    last = 5 if relu else 4
    z = _relu(z) if relu else z
    return x * _sigmoid(_norm(_conv_pointwise(z, p[f"module.{last}.weight"]), p, last + 1))


def _xunit(x, p, gate):
    z = _conv_depthwise(_relu(_norm(x, p, 0)), p["module.2.weight"])
    z = _norm(z, p, 3)
    return x * (np.exp(-z ** 2) if gate == "gaussian" else _sigmoid(z))


def _xunits(x, p):
    bias = p["module.0.bias"][None, :, None, None]
    return x * _sigmoid(_norm(_conv_depthwise(x, p["module.0.weight"]) + bias, p, 1))


@pytest.mark.parametrize("name, options, per_channel", [
    ("xUnitS", {}, 12), ("xUnit", {}, 85), ("xUnit", {"kernel_size": 3}, 13), ("SpaATAC", {}, 22)])
def test_trained_parameters_of_spatial_units_per_channel(name, options, per_channel):
    unit = model.get_activation(name, 16, **options)
    trained = sum(np.prod(parameter.shape) for parameter in unit.collect_params().values()
                  if parameter.grad_req != "null")
    assert trained == 16 * per_channel


@pytest.mark.parametrize("build, formula", [
    (lambda: SpaATAC(6), _spaatac),
    (lambda: SpaATAC(6, kernel_size=5, dilation=2),
     lambda x, p: _spaatac(x, p, dilation=2)),
    (lambda: SpaATAC(6, use_relu=False), lambda x, p: _spaatac(x, p, relu=False)),
    (lambda: SeqATAC(6), _seqatac),
    (lambda: SeqATAC(6, reduction=3, kernel_size=5, dilation=2),
     lambda x, p: _seqatac(x, p, dilation=2)),
    (lambda: SeqATAC(6, use_relu=False), lambda x, p: _seqatac(x, p, relu=False)),
    (lambda: xUnit(6), lambda x, p: _xunit(x, p, "gaussian")),
    (lambda: xUnit(6, kernel_size=3, gate="sigmoid"), lambda x, p: _xunit(x, p, "sigmoid")),
    (lambda: xUnitS(6), _xunits),
], ids=["SpaATAC", "SpaATAC-k5d2", "SpaATAC-linear", "SeqATAC", "SeqATAC-r3k5d2",
        "SeqATAC-linear", "xUnit", "xUnit-sigmoid", "xUnitS"])
def test_equals_its_formula(build, formula):
    unit = units.initialized(build())
    x = units.image((2, 6, 7, 5))
    weights = {name: p.data().asnumpy().astype(np.float64)
               for name, p in unit._collect_params_with_prefix().items()}
    expected = formula(x.asnumpy().astype(np.float64), weights)
    np.testing.assert_allclose(unit(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, formula", [
    ("relu", _relu),
    ("prelu", lambda x: np.where(x > 0, x, 0.25 * x)),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
    ("swish", lambda x: x * _sigmoid(x)),
    ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
])
def test_plain_activations(name, formula):
    unit = model.get_activation(name, 4)
    unit.initialize()
    x = units.image((2, 4, 5, 3))
    np.testing.assert_allclose(unit(x).asnumpy(), formula(x.asnumpy().astype(np.float64)),
                               rtol=1e-4, atol=1e-5)


# ---- options and errors ---------------------------------------------------------------------

def test_the_gate_is_local_unless_global():
    """Changing one position changes the output there only, but everywhere with the global gate."""
    x = units.image((1, 8, 5, 5))
    changed = x.copy()
    changed[0, :, 2, 2] += 1
    for use_global, elsewhere_changes in ((False, False), (True, True)):
        unit = units.initialized(ChaATAC(8, use_global=use_global))
        difference = (unit(x) - unit(changed)).abs().asnumpy()
        assert difference[0, :, 2, 2].max() > 0
        assert (difference[0, :, 0, 0].max() > 0) == elsewhere_changes


def test_options_reach_the_unit():
    unit = model.get_activation("chaatac", 8, reduction=4, use_relu=False)
    assert unit.module[0].weight.shape == (2, 8, 1, 1)
    assert not any(isinstance(child, mx.gluon.nn.Activation) for child in unit.module)


@pytest.mark.parametrize("channels, reduction, expected", [(16, 2, 8), (3, 2, 1), (4, 16, 1)])
def test_hidden_channels_have_a_floor(channels, reduction, expected):
    assert hidden_channels(channels, reduction) == expected


def test_norm_layer_reaches_every_normalisation():
    unit = ChaATAC(8, norm_kwargs={"epsilon": 0.5})
    assert [unit.module[i]._kwargs["eps"] for i in (1, 4)] == [0.5, 0.5]


def test_a_factory_passes_through():
    unit = model.get_activation(lambda channels: ChaATAC(channels, reduction=4), 8)
    assert unit.module[0].weight.shape[0] == 2


@pytest.mark.parametrize("call, message", [
    (lambda: model.get_activation("ChaATOC", 8), "Did you mean 'ChaATAC'"),
    (lambda: model.get_activation("nothing like it", 8), "Known: ChaATAC, elu"),
    (lambda: ChaATAC(0), "channels must be a positive integer, not 0"),
    (lambda: ChaATAC(8, reduction=-1), "reduction must be a positive integer"),
    (lambda: SpaATAC(8, kernel_size=4), "kernel_size must be odd"),
    (lambda: SeqATAC(8, dilation=0), "dilation must be a positive integer"),
    (lambda: xUnit(8, gate="tanh"), "gate must be one of gaussian, sigmoid"),
    (lambda: model.get_activation("mish", 0), "channels must be a positive integer"),
])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
