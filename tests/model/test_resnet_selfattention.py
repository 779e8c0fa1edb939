"""Self-attention layers against their formulas in NumPy, and the networks made of them."""
import inspect

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import SymbolBlock

from graph.cost import count
from graph.graph import trace
from model.resnet_selfattention import (
    AugmentedConv,
    LocalSelfAttention,
    RelativeSelfAttention,
    aa_resnet50,
    fa_resnet50,
)
from model.resnet_v1b import GroupNorm
from tests.model.formulas import windows

SMALL = (1, 1, 1, 1)


def initialised(layer, seed=0):
    mx.random.seed(seed)
    layer.initialize(mx.init.Normal(0.5))
    return layer


def arrays(layer):
    return {key: parameter.data().asnumpy().astype("float64")
            for key, parameter in layer._collect_params_with_prefix().items()}


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def pointwise(weight, x):
    return np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x)


def local_attention(x, p, heads, k, dilation):
    """The formula of `LocalSelfAttention`, one position after the other."""
    q, key, v = (pointwise(p[f"{name}.weight"], x) for name in ("query", "key", "value"))
    out, (n, c, height, width) = np.zeros_like(x), x.shape
    d = c // heads
    for b, h, i, j in np.ndindex(n, heads, height, width):
        mine = slice(h * d, (h + 1) * d)
        scores, values = [], []
        for a, e in np.ndindex(k, k):
            y, z = i + dilation * (a - k // 2), j + dilation * (e - k // 2)
            if 0 <= y < height and 0 <= z < width:
                r = np.concatenate([p["row_embedding"][h, :, a], p["column_embedding"][h, :, e]])
                scores.append(q[b, mine, i, j] @ (key[b, mine, y, z] + r))
                values.append(v[b, mine, y, z])
        out[b, mine, i, j] = softmax(np.array(scores)) @ np.array(values)
    return out


@pytest.mark.parametrize("heads, k, dilation, size", [
    (2, 3, 1, (4, 5)), (1, 5, 1, (3, 7)), (2, 3, 2, (5, 4)), (4, 7, 1, (2, 1))])
def test_local_attention_formula(heads, k, dilation, size):
    layer = initialised(LocalSelfAttention(8, heads, k, dilation=dilation))
    x = np.random.RandomState(1).normal(size=(2, 8, *size)).astype("float32")
    expected = local_attention(x.astype("float64"), arrays(layer), heads, k, dilation)
    np.testing.assert_allclose(layer(nd.array(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)


def test_local_attention_pools_by_its_stride():
    layer, strided = LocalSelfAttention(16), LocalSelfAttention(16, stride=2)
    initialised(layer)
    initialised(strided)
    x = nd.random.normal(shape=(2, 16, 5, 6))
    whole = layer(x).asnumpy()
    pooled = strided(x).asnumpy()
    assert pooled.shape == (2, 16, 3, 3)
    np.testing.assert_allclose(pooled[:, :, 0, 0], whole[:, :, :2, :2].mean((2, 3)), rtol=1e-4,
                               atol=1e-6)
    np.testing.assert_allclose(pooled[:, :, 2, 2], whole[:, :, 4:, 4:].mean((2, 3)), rtol=1e-4,
                               atol=1e-6)


def relative_attention(x, p, key_channels, heads, size):
    """The formula of `RelativeSelfAttention`."""
    n, _, height, width = x.shape
    qkv = pointwise(p["qkv.weight"], x)
    q, key, v = np.split(qkv, [key_channels, 2 * key_channels], axis=1)
    d, dv = q.shape[1] // heads, v.shape[1] // heads
    out = np.zeros_like(v)
    for b, h, i, j in np.ndindex(n, heads, height, width):
        query = q[b, h * d:(h + 1) * d, i, j] / np.sqrt(d)
        scores = np.zeros((height, width))
        for y, z in np.ndindex(height, width):
            row = p["row_embedding"][np.clip(y - i + size - 1, 0, 2 * size - 2)]
            column = p["column_embedding"][np.clip(z - j + size - 1, 0, 2 * size - 2)]
            scores[y, z] = query @ (key[b, h * d:(h + 1) * d, y, z] + row + column)
        out[b, h * dv:(h + 1) * dv, i, j] = np.einsum(
            "yz,cyz->c", softmax(scores), v[b, h * dv:(h + 1) * dv])
    return pointwise(p["project.weight"], out)


@pytest.mark.parametrize("size, shape", [(5, (5, 3)), (3, (4, 6)), (4, (1, 1))])
def test_relative_attention_formula(size, shape):
    layer = initialised(RelativeSelfAttention(6, 8, 4, heads=2, size=size))
    x = np.random.RandomState(1).normal(size=(2, 6, *shape)).astype("float32")
    expected = relative_attention(x.astype("float64"), arrays(layer), 8, 2, size)
    np.testing.assert_allclose(layer(nd.array(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"pool": True},
                                     {"stride": 2, "pool": True}, {"dilation": 2}])
def test_augmented_convolution_joins_both(options):
    layer = initialised(AugmentedConv(128, size=7, **options))
    x = nd.random.normal(shape=(2, 128, 9, 7))
    out = layer(x)
    assert out.shape == ((2, 128, 5, 4) if "stride" in options else (2, 128, 9, 7))
    np.testing.assert_array_equal(out[:, :112].asnumpy(), layer.conv(x).asnumpy())
    if not options:
        np.testing.assert_array_equal(out[:, 112:].asnumpy(), layer.attention(x).asnumpy())


@pytest.mark.parametrize("channels, convolved, keys", [(128, 112, 160), (256, 232, 160),
                                                       (512, 464, 160), (1024, 920, 208)])
def test_shares_of_the_attention(channels, convolved, keys):
    layer = AugmentedConv(channels)
    assert layer.conv.weight.shape[0] == convolved
    assert layer.attention.qkv.weight.shape[0] == 2 * keys + channels - convolved


def _pooled(x, stride):
    """Mean over 3x3 positions of the map, those beyond its edge left out."""
    return np.nanmean(windows(x, 3, stride, 1, value=np.nan), axis=(4, 5))


def _enlarged(x, height, width):
    """Bilinear, corner to corner."""
    for axis, size in ((2, height), (3, width)):
        old = np.arange(x.shape[axis])
        new = np.linspace(0, x.shape[axis] - 1, size)
        x = np.apply_along_axis(lambda line, new=new, old=old: np.interp(new, old, line), axis, x)
    return x


@pytest.mark.parametrize("stride, pool", [(1, True), (2, False), (2, True)])
def test_augmentation_attends_on_pooled_maps(stride, pool):
    layer = initialised(AugmentedConv(128, size=7, stride=stride, pool=pool))
    x = np.random.RandomState(1).normal(size=(2, 128, 9, 7))
    seen = x if stride == 1 else _pooled(x, stride)
    context = layer.attention(nd.array(_pooled(seen, 2) if pool else seen)).asnumpy()
    if pool:
        context = _enlarged(context, *seen.shape[2:])
    np.testing.assert_allclose(layer(nd.array(x))[:, 112:].asnumpy(), context, rtol=1e-3,
                               atol=1e-3)


def test_defaults_of_the_layers():
    for plain, explicit in (
            (LocalSelfAttention(16), LocalSelfAttention(16, 8, 7, 1, 1)),
            (RelativeSelfAttention(16, 16, 8), RelativeSelfAttention(16, 16, 8, 8, 14)),
            (AugmentedConv(128), AugmentedConv(128, 0.2, 0.1, 20, 8, 14, 1, 1, False))):
        plain, explicit = ([(key, parameter.shape) for key, parameter
                            in layer._collect_params_with_prefix().items()]
                           for layer in (plain, explicit))
        assert plain == explicit


# ---------------------------------------------------------------- networks

def _assert_layers(net, size, layers):
    """Each conv2 of the last three stages does what one of `layers` does with its parameters."""
    seen = []
    for stage in net.stages()[1:]:
        for block in stage:
            block.conv2.register_forward_hook(
                lambda layer, inputs, out: seen.append((layer, inputs[0], out)))
    net(nd.random.normal(shape=(1, 3, size, size)))
    assert len(seen) == len(layers)
    for (layer, x, out), expected in zip(seen, layers):
        expected.initialize()
        for key, parameter in layer._collect_params_with_prefix().items():
            expected._collect_params_with_prefix()[key].set_data(parameter.data())
        np.testing.assert_array_equal(expected(x).asnumpy(), out.asnumpy())


# Of the last three stages' blocks (1, 2, 1): stride, dilation, distance of the attended points.
@pytest.mark.parametrize("dilated, places", [
    (False, [(2, 1, 16), (2, 1, 16), (1, 1, 16), (2, 1, 32)]),
    (True, [(2, 1, 16), (1, 1, 8), (1, 2, 8), (1, 2, 8)])])
def test_where_the_networks_attend(dilated, places):
    widths = (128, 256, 256, 512)
    net = initialised(aa_resnet50(layers=(1, 1, 2, 1), input_size=96, dilated=dilated))
    _assert_layers(net, 96, [
        AugmentedConv(width, size=96 // distance, stride=stride, dilation=dilation, pool=i == 0)
        for i, (width, (stride, dilation, distance)) in enumerate(zip(widths, places))])
    net = initialised(fa_resnet50(layers=(1, 1, 2, 1), heads=4, kernel_size=3, dilated=dilated))
    _assert_layers(net, 32, [LocalSelfAttention(width, 4, 3, stride, dilation)
                             for width, (stride, dilation, _) in zip(widths, places)])

@pytest.mark.parametrize("build", [fa_resnet50, aa_resnet50])
@pytest.mark.parametrize("options", [
    {}, {"dilated": True, "activation": "ChaATAC", "attention": "SE"}], ids=["plain", "slots"])
@pytest.mark.parametrize("size", [(33, 47), (64, 64)])
def test_networks_train_at_any_size(build, options, size):
    mx.random.seed(0)
    net = build(layers=SMALL, classes=5, **options)
    net.initialize(mx.init.Xavier())
    x = nd.random.normal(shape=(2, 3, *size))
    with autograd.record():
        loss = nd.softmax_cross_entropy(net(x), nd.array([1, 3]))
    loss.backward()
    for key, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            assert np.isfinite(parameter.grad().asnumpy()).all(), key
    # Gradients reach the queries and embeddings too, which a dead softmax would cut off.
    attention = net.layer4[0].conv2
    attention = getattr(attention, "attention", attention)
    assert np.abs(attention.row_embedding.grad().asnumpy()).max() > 0

    imperative = net(x).asnumpy()
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(net(x).asnumpy(), imperative, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning")
@pytest.mark.parametrize("build", [fa_resnet50, aa_resnet50])
def test_networks_are_saved_and_exported(build, tmp_path):
    net = initialised(build(layers=SMALL, classes=5))
    net.hybridize()
    x = nd.random.normal(shape=(1, 3, 32, 48))
    expected = net(x).asnumpy()
    net.save_parameters(str(tmp_path / "net.params"))
    again = build(layers=SMALL, classes=5)
    again.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_allclose(again(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    net.export(str(tmp_path / "net"))
    back = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"],
                               str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(back(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build, millions", [(fa_resnet50, 18.0), (aa_resnet50, 25.8)])
def test_parameters_are_the_papers(build, millions):
    total = count(trace(build(), (3, 224, 224)))
    assert total.num_params == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("build, layer, stages", [(fa_resnet50, LocalSelfAttention, "1234"),
                                                  (aa_resnet50, AugmentedConv, "234")])
def test_every_3x3_convolution_of_the_stages_is_replaced(build, layer, stages):
    net = build(norm_layer="GroupNorm")
    for name, stage in zip("1234", net.stages()):
        for block in stage:
            assert isinstance(block.conv2, layer) == (name in stages)
            assert isinstance(block.bn2, GroupNorm)


@pytest.mark.parametrize("build", [fa_resnet50, aa_resnet50])
def test_signatures_list_the_hosts_options(build):
    options = inspect.signature(build).parameters
    assert {"classes", "activation", "attention", "dilated", "norm_layer"} <= options.keys()
    assert options["classes"].default == 1000 and not {"kwargs", "depth"} & options.keys()


@pytest.mark.parametrize("build, message", [
    (lambda: LocalSelfAttention(12, heads=8), r"channels must be a multiple of heads"),
    (lambda: LocalSelfAttention(16, kernel_size=4), "kernel_size must be odd"),
    (lambda: LocalSelfAttention(16, stride=0), "stride must be a positive integer"),
    (lambda: RelativeSelfAttention(8, 12, 8), "key_channels must be a multiple of heads"),
    (lambda: RelativeSelfAttention(8, 8, 8, size=0), "size must be a positive integer"),
    (lambda: AugmentedConv(8), "leave none of 8 to the convolution"),
    (lambda: aa_resnet50(input_size=0), "input_size must be a positive integer"),
    (lambda: fa_resnet50(activation="rleu"), "Did you mean 'relu'")])
def test_errors_name_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
