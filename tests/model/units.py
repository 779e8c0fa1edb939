"""Checks that every unit passes, whatever slot it is for."""
import mxnet as mx
import numpy as np
from mxnet import autograd, nd

SHAPES = ((2, 8, 7, 5), (1, 8, 1, 1), (3, 8, 12, 9))


def initialized(unit, seed=0):
    """The unit with reproducible weights and non-trivial statistics."""
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    unit.initialize(mx.init.MSRAPrelu())
    for name, parameter in unit.collect_params().items():
        if name.endswith("running_var") or name.endswith("gamma"):
            parameter.set_data(nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif name.endswith(("running_mean", "beta", "bias")):
            parameter.set_data(nd.array(rng.normal(size=parameter.shape) * 0.2))
    return unit


def image(shape, seed=1):
    return nd.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def forward_and_gradients(unit, x, train):
    """Output, gradient to the input, and gradients to the parameters of sum(output * g)."""
    x = x.copy()
    x.attach_grad()
    g = image(x.shape, seed=2)
    with autograd.record(train_mode=train):
        out = unit(x)
        loss = (out * g).sum()
    loss.backward(train_mode=train)
    grads = {name: p.grad().asnumpy() for name, p in unit._collect_params_with_prefix().items()
             if p.grad_req != "null"}
    return out.asnumpy(), x.grad.asnumpy(), grads


def check_keeps_shape(unit, shape):
    out = unit(image(shape))
    assert out.shape == shape
    assert np.isfinite(out.asnumpy()).all()


def check_gradients(unit, shape):
    _, grad_x, grads = forward_and_gradients(unit, image(shape), train=True)
    assert np.isfinite(grad_x).all() and np.abs(grad_x).max() > 0
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), name


def check_hybridized(build, shape):
    """Imperative and statically hybridized units agree, in output and gradients."""
    for train in (False, True):
        unit = initialized(build())
        plain = forward_and_gradients(unit, image(shape), train)
        unit = initialized(build())
        unit.hybridize(static_alloc=True, static_shape=True)
        compiled = forward_and_gradients(unit, image(shape), train)
        np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(compiled[1], plain[1], rtol=1e-3, atol=1e-4)
        for name, grad in plain[2].items():
            np.testing.assert_allclose(compiled[2][name], grad, rtol=1e-3, atol=1e-3,
                                       err_msg=name)


def check_exported(unit, shape, folder):
    """The exported symbol and params, read back by Gluon, give the same output."""
    x = image(shape)
    unit.hybridize()
    expected = unit(x).asnumpy()
    unit.export(str(folder / "unit"), epoch=0)
    params = folder / "unit-0000.params"
    block = mx.gluon.SymbolBlock.imports(str(folder / "unit-symbol.json"), ["data"],
                                         str(params) if params.exists() else None)
    np.testing.assert_allclose(block(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)
