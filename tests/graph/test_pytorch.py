"""A network in PyTorch computes and trains as it does in MXNet."""
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import autograd, gluon, nd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

from common.errors import FileError, UserError  # noqa: E402
from engines.input_statistics import keep_input_statistics  # noqa: E402
from graph.graph import save, trace  # noqa: E402
from graph.pytorch import Untranslatable, load_params, to_pytorch, weights  # noqa: E402
from model.activation import list_activations  # noqa: E402
from model.attention import list_attentions  # noqa: E402
from model.structure import OPERATIONS  # noqa: E402
from model.zoo import build, list_models  # noqa: E402
from tests.random_networks import random_network, randomise  # noqa: E402
from tests.scripts import ROOT  # noqa: E402


def _images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _arrays(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def _close(found, expected, tolerance, what, least=1e-3):
    """Differences beside the largest of the expected values, or beside `least`."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    limit = tolerance * max(np.abs(expected).max(), least)
    assert np.abs(found - expected).max() <= limit, what


def _filled(net, x):
    """Layers learn their sizes from the first images."""
    net.initialize()
    net(nd.array(x))
    return randomise(net)


def _translated(net, x):
    net(nd.array(x[:1]))
    return to_pytorch(net, x.shape[1:])


def assert_same(net, x, dtype="float64"):
    """Prediction, training, gradients, and statistics after a step are MXNet's.

    What training computes is compared in float64, if MXNet can: where a normalisation has few
    values, float32 says little of whether two programs compute the same. Some of MXNet's
    constants, such as momenta and slopes, are float32 even then.
    """
    module = _translated(net, x)
    own = net._collect_params_with_prefix()
    assert module.state_dict().keys() == own.keys()
    assert dict(module.named_parameters()).keys() == {
        name for name, p in own.items() if p.grad_req != "null"}
    module.eval()
    with torch.no_grad():
        _close(module(torch.tensor(x)), net(nd.array(x)).asnumpy(), 1e-5, "prediction")

    tolerance = {"float64": 1e-6, "float32": 1e-4}[dtype]
    module.train().to(getattr(torch, dtype))
    net.cast(dtype)
    data, given = nd.array(x, dtype=dtype), torch.tensor(x.astype(dtype))
    data.attach_grad()
    given.requires_grad = True
    with autograd.record():
        expected = net(data)
    found = module(given)
    _close(found.detach(), expected.asnumpy(), tolerance, "training")
    head = _images(expected.shape, 1).astype(dtype)
    expected.backward(nd.array(head, dtype=dtype))
    found.backward(torch.tensor(head))
    nd.waitall()    # the running statistics are written behind the engine's back
    _close(given.grad, data.grad.asnumpy(), tolerance, "gradient of the input")
    for name, parameter in module.named_parameters():
        _close(parameter.grad, own[name].grad().asnumpy(), tolerance, name)
    for name, buffer in module.named_buffers():
        _close(buffer, own[name].data().asnumpy(), tolerance, name, least=1.0)


# ---- every unit and network --------------------------------------------------------------------

_ACTIVATION_CASES = [
    *({"activation": name} for name in list_activations()),
    {"activation": "ChaATAC", "act_options": {"use_global": True}},
    {"activation": "ChaATAC", "act_options": {"use_relu": False, "reduction": 4}},
    {"activation": "SeqATAC", "act_options": {"dilation": 2}},
    {"activation": "xUnit", "act_options": {"gate": "sigmoid"}},
    {"activation": "prelu", "act_options": {"in_channels": 1}}]


@pytest.mark.parametrize("options", _ACTIVATION_CASES, ids=str)
def test_every_activation(options):
    net = random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1, **options}})
    assert_same(net, _images((3, 3, 17, 14)))


_OPTIONS = {
    "CBAM": [{"spatial_norm": True, "order": "spatial-channel"}],
    "ChannelAttention": [{"statistics": ["var", "max"]}],
    "SpatialAttention": [{"statistics": ["mean", "max", "var"]}],
    "GE": [{"variant": variant, "extent": extent} for variant in ("theta-", "theta", "theta+")
           for extent in ("global", 2, 4)],
}


@pytest.mark.parametrize("name, options", [
    pytest.param(name, options, id=f"{name}-{options}") for name in list_attentions()
    for options in [{}, *_OPTIONS.get(name, [])]])
def test_every_attention(name, options):
    net = random_network({"model": "resnet18", "options": {
        "width": 0.0625, "attention": name, "attn_options": options,
        "attention_at": ["block", "classifier"]}})
    shape = (3, 3, 32, 32) if options.get("variant") == "theta+" else (3, 3, 33, 30)
    assert_same(net, _images(shape))


@pytest.mark.parametrize("kind", ("CBAM", "MVAM"))
def test_every_operation_of_a_searched_structure(kind):
    operations = [*OPERATIONS, *OPERATIONS[:2]]
    net = random_network({"model": "resnet18", "options": {"width": 0.0625, "structure": {
        "kind": kind, "operations": operations, "unit_options": {"reduction": 4}}}})
    assert_same(net, _images((3, 3, 32, 32)))


_SMALL = {"resnet_v2_cifar": {"blocks": 1}, "aa_resnet50": {"layers": [1, 1, 1, 1],
                                                           "input_size": 64},
          "fa_resnet50": {"layers": [1, 1, 1, 1]}}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network(name):
    options = _SMALL.get(name, {} if "v1b" in name else {"width": 0.0625})
    shape = (2, 3, 64, 64) if name == "aa_resnet50" else (4, 3, 33, 39)
    assert_same(random_network({"model": name, "options": options}), _images(shape))


def test_slots_of_the_imagenet_networks():
    assert_same(random_network({"model": "resnet18_v1b", "options": {
        "activation": "ChaATAC", "attention": "CBAM", "deep_stem": True, "avg_down": True,
        "norm_layer": "SyncBatchNorm"}}), _images((4, 3, 67, 62)), "float32")


# ---- one operator at a time --------------------------------------------------------------------

_POOLINGS = [
    nn.MaxPool2D(3, 2, 1), nn.MaxPool2D(3, 2, ceil_mode=True), nn.AvgPool2D(3, 2, 1),
    nn.MaxPool2D((2, 3), (2, 1), ceil_mode=True), nn.AvgPool2D(3, 2, 1, ceil_mode=True),
    nn.AvgPool2D(3, 2, 1, count_include_pad=False), nn.GlobalMaxPool2D(), nn.GlobalAvgPool2D(),
    nn.AvgPool2D(3, 2, 1, ceil_mode=True, count_include_pad=False)]
_LAYERS = [
    nn.Conv2D(4, (3, 2), (2, 1), (1, 0), (2, 1)), nn.Conv2D(6, 3, groups=3, use_bias=False),
    nn.Conv2DTranspose(4, 3, 2, 1, 1), nn.Conv2DTranspose(6, 2, groups=3),
    nn.Dense(4), nn.Dense(4, flatten=False, use_bias=False), nn.BatchNorm(),
    nn.BatchNorm(axis=3, epsilon=1e-3, momentum=0.7), nn.BatchNorm(scale=False),
    nn.BatchNorm(center=False), nn.BatchNorm(use_global_stats=True), nn.LayerNorm(),
    nn.LayerNorm(axis=1), nn.GroupNorm(3), nn.LeakyReLU(0.2), nn.PReLU(),
    nn.PReLU(in_channels=6), nn.ELU(0.7), nn.SELU(), nn.GELU(), nn.Swish(2.0),
    *(nn.Activation(name) for name in ("relu", "sigmoid", "tanh", "softrelu", "softsign")),
    *_POOLINGS]


@pytest.mark.parametrize("layer", _LAYERS, ids=str)
def test_layers(layer):
    # Few values, so that maxima are often equal.
    x = np.round(2 * _images((3, 6, 7, 8))) / 2
    assert_same(_filled(layer, x), x)


def test_a_gamma_that_is_not_used_counts_as_ones():
    x = _images((3, 6, 7, 8))
    net = _filled(nn.BatchNorm(scale=False), x)
    module = _translated(net, x).eval()
    module.load_state_dict({**module.state_dict(), "gamma": torch.full((6,), 3.0)})
    _close(module(torch.tensor(x)).detach(), net(nd.array(x)).asnumpy(), 1e-5, "prediction")


def test_instance_norm():
    x = _images((3, 6, 7, 8))
    assert_same(_filled(nn.InstanceNorm(), x), x, "float32")


@pytest.mark.parametrize("layer", [
    nn.Conv1D(4, 3, 2, 1), nn.Conv1DTranspose(4, 3, 2, 1), nn.MaxPool1D(3, 2, ceil_mode=True),
    nn.AvgPool1D(2), nn.GlobalMaxPool1D(), nn.BatchNorm()], ids=str)
def test_layers_of_rows(layer):
    x = np.round(2 * _images((3, 6, 9))) / 2
    assert_same(_filled(layer, x), x)


_FUNCTIONS = {
    "reshape 0 -1": lambda F, x: F.reshape(x, shape=(0, -1)),
    "reshape -2": lambda F, x: F.reshape(x, shape=(0, 2, -1, -2)),
    "reshape -3": lambda F, x: F.reshape(x, shape=(0, -3, 0)),
    "reshape -4": lambda F, x: F.reshape(x, shape=(0, -4, 2, -1, -2)),
    "reshape -4 second": lambda F, x: F.reshape(x, shape=(0, -4, -1, 3, -3)),
    "reshape all": lambda F, x: F.reshape(x, shape=(-1,)),
    "reshape_like": lambda F, x: F.reshape_like(F.reshape(x, shape=(0, 0, -1)), x, lhs_begin=2,
                                                lhs_end=3, rhs_begin=-2, rhs_end=4),
    "slice": lambda F, x: F.slice(x, begin=(None, 1, 0), end=(None, -1, 6), step=(1, 2, 1)),
    "slice of the first axis": lambda F, x: F.slice(F.swapaxes(x, 0, 1), begin=1, end=3),
    "slice_axis": lambda F, x: F.slice_axis(x, axis=-1, begin=-5, end=None),
    "slice_like": lambda F, x: F.slice_like(x, F.slice_axis(x, axis=2, begin=0, end=3),
                                            axes=(2,)),
    "split": lambda F, x: F.split(x, num_outputs=3, axis=1)[1],
    "split and squeeze": lambda F, x: F.split(x, num_outputs=7, axis=2, squeeze_axis=True)[4],
    "stack": lambda F, x: F.stack(x, F.negative(x), axis=2),
    "transpose": lambda F, x: F.transpose(x),
    "swapaxes": lambda F, x: F.swapaxes(x, 1, 3),
    "broadcast_axis": lambda F, x: F.broadcast_axis(F.sum(x, axis=(1, 3), keepdims=True),
                                                    axis=(1, 3), size=(2, 5)),
    "broadcast_like": lambda F, x: F.broadcast_like(F.mean(x, axis=1, keepdims=True), x),
    "batch_dot": lambda F, x: F.batch_dot(F.reshape(x, shape=(-3, 0, 0)),
                                          F.reshape(x, shape=(-3, 0, 0)), transpose_a=True),
    "im2col": lambda F, x: F.im2col(x, kernel=(3, 2), dilate=(2, 1), pad=(2, 0), stride=(1, 2)),
    "pick": lambda F, x: F.pick(x, F.argmax(x, axis=-2), axis=2),
    "pick and keep": lambda F, x: F.pick(x, F.argmax(x, axis=1, keepdims=True), keepdims=True,
                                         axis=1),
    "take": lambda F, x: F.take(x, F.contrib.arange_like(x, axis=3) - 3, mode="clip"),
    "max": lambda F, x: F.max(x, axis=(1, 3)),
    "max of all": lambda F, x: F.max(x, axis=(0, 1), exclude=True, keepdims=True),
    "sum of all": lambda F, x: F.sum(x),
    "mean of all but none": lambda F, x: F.mean(x, axis=(), exclude=True),
    "max of none": lambda F, x: F.max(x, axis=(0, 1, 2, -1), exclude=True),
    "argmax of all": lambda F, x: F.broadcast_mul(x, F.reshape(F.argmax(x), shape=(1, 1, 1, 1))),
    "norm": lambda F, x: F.norm(x, axis=(1, 2)),
    "softmax": lambda F, x: F.softmax(x, axis=1, temperature=3.0),
    "log_softmax": lambda F, x: F.log_softmax(x, axis=2),
    "L2 of instances": lambda F, x: F.L2Normalization(x),
    "L2 of channels": lambda F, x: F.L2Normalization(x, mode="channel"),
    "L2 of positions": lambda F, x: F.L2Normalization(x, mode="spatial"),
    "maximum": lambda F, x: F.broadcast_maximum(x, F.slice_axis(x, axis=1, begin=0, end=1)),
    "minimum": lambda F, x: F.broadcast_minimum(x, F.slice_axis(x, axis=1, begin=0, end=1)),
    "limits": lambda F, x: F.maximum(F.minimum(F.clip(x, -1, 1.5), 1), -0.5),
    "scalars": lambda F, x: (2 - (x + 3) * 0.5) / 4 + 5 / (x * x + 1) + (x * x + 1) ** 1.5,
    "binary": lambda F, x: (F.broadcast_div(x, F.exp(x)) - x) * x / (x * x + 2),
    "unary": lambda F, x: (F.log(F.square(x) + 1) + F.sqrt(F.exp(x)) + F.rsqrt(F.exp(x))
                           + F.abs(x) + F.tanh(x) + F.erf(x) + F.relu(x) + F.sigmoid(x)
                           + F.softsign(x) + F.log1p(F.exp(x)) + F.expm1(-x)),
    "hard_sigmoid": lambda F, x: F.hard_sigmoid(x, alpha=0.3),
    "hard_sigmoid at its ends": lambda F, x: F.hard_sigmoid(x, alpha=0.25),
    "add_n": lambda F, x: F.add_n(x, x, F.zeros_like(x), F.ones_like(x)),
    "BlockGrad": lambda F, x: F.BlockGrad(x) * x,
    "sum pooling": lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type="sum"),
    "enlarged": lambda F, x: F.UpSampling(x, scale=2, sample_type="nearest"),
    "resized": lambda F, x: F.contrib.BilinearResize2D(x, height=5, width=11),
    "averages": lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=(3, 2)),
    "square of averages": lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=(3,)),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions(name):
    net = nn.HybridLambda(_FUNCTIONS[name])
    assert_same(net, np.round(2 * _images((3, 6, 7, 8))) / 2)


# ---- training ----------------------------------------------------------------------------------

_TRAINED = {
    "ChaATAC": {"model": "resnet_v2_cifar", "options": {"blocks": 1, "activation": "ChaATAC"}},
    "CBAM": {"model": "resnet18", "options": {"width": 0.0625, "attention": "CBAM"}}}
_STEPS, _RATE = 20, {"learning_rate": 0.01, "momentum": 0.9, "wd": 1e-4}


def _trained_by_mxnet(net, images, labels):
    keep_input_statistics(net)
    trainer = gluon.Trainer(net.collect_params(), "sgd", _RATE)
    criterion, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for x, y in zip(images, labels):
        with autograd.record():
            loss = criterion(net(nd.array(x, dtype=x.dtype)), nd.array(y, dtype=x.dtype))
        loss.backward()
        trainer.step(len(x))
        losses.append(loss.mean().asscalar())
    nd.waitall()
    return losses


def _trained_by_pytorch(module, images, labels):
    optimizer = torch.optim.SGD(module.parameters(), _RATE["learning_rate"], _RATE["momentum"],
                                weight_decay=_RATE["wd"])
    losses = []
    for x, y in zip(images, labels):
        loss = torch.nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _trained_by_both(name, dtype):
    """Losses and arrays of MXNet, then of PyTorch, from the same weights and batches."""
    net = build(_TRAINED[name], 10)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    images = _images((_STEPS, 16, 3, 32, 32)) * np.float32(1.7) + np.float32(0.3)
    labels = np.random.default_rng(1).integers(10, size=(_STEPS, 16))
    module = _translated(net, images[0]).to(getattr(torch, dtype))
    net.cast(dtype)
    images = images.astype(dtype)
    losses = _trained_by_mxnet(net, images, labels), _trained_by_pytorch(module, images, labels)
    return (losses[0], _arrays(net)), (losses[1], weights(module))


# In float32, MXNet's rounding alone takes CBAM's arrays 6e-3 from those of float64 (PyTorch's:
# 6e-7), so that they are compared in float64 only.
@pytest.mark.parametrize("name, dtype, tolerance", [
    ("ChaATAC", "float32", 1e-3), ("ChaATAC", "float64", 1e-6), ("CBAM", "float64", 1e-6)])
def test_twenty_steps_from_the_same_weights_lead_to_the_same_network(name, dtype, tolerance):
    (losses, arrays), (found, found_arrays) = _trained_by_both(name, dtype)
    _close(found, losses, tolerance, "losses")
    assert found_arrays.keys() == arrays.keys()
    for key, expected in arrays.items():
        _close(found_arrays[key], expected, tolerance, key, least=0.1)


def test_twenty_steps_of_cbam_in_float32_have_the_same_losses():
    (losses, _), (found, _) = _trained_by_both("CBAM", "float32")
    _close(found, losses, 1e-3, "losses")


def test_the_input_s_statistics_move_although_nothing_before_them_learns():
    net = random_network({"model": "resnet_v2_cifar", "options": {"blocks": 1}})
    x = _images((4, 3, 8, 8))
    module = _translated(net, x)
    before = weights(module)
    module(torch.tensor(x))
    after = weights(module)
    momentum = 0.9
    for name, now in (("running_mean", x.mean((0, 2, 3))), ("running_var", x.var((0, 2, 3)))):
        name = f"features.0.{name}"
        _close(after[name], momentum * before[name] + (1 - momentum) * now, 1e-6, name, 1.0)
    module.eval()(torch.tensor(x))
    assert all(np.array_equal(after[name], value) for name, value in weights(module).items())


@pytest.mark.parametrize("axes", [(), (2, 3)])
def test_dropout(axes):
    layer = nn.Dropout(0.25, axes=axes)
    module = _translated(layer, np.ones((40, 50, 4, 5), np.float32))
    ones = torch.ones(40, 50, 4, 5)
    torch.manual_seed(0)
    dropped = module(ones)
    assert set(np.unique(dropped.numpy())) == {np.float32(0), np.float32(4 / 3)}
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.03
    same = (dropped == dropped[:, :, :1, :1]).all().item()
    assert same is bool(axes)
    assert torch.equal(module.eval()(ones), ones)


# ---- PyTorch's own ways ------------------------------------------------------------------------

_WHOLE = {**_TRAINED, "GE": {"model": "resnet18", "options": {
    "width": 0.0625, "attention": "GE", "attention_at": ["block", "classifier"]}}}


@pytest.mark.parametrize("name", _WHOLE)
def test_it_compiles_without_a_break(name):
    x = torch.tensor(_images((3, 3, 32, 32)))
    module = _translated(random_network(_WHOLE[name]), x.numpy())
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    states = []
    for each in (module, compiled):
        module.load_state_dict(states[0][1] if states else module.state_dict())
        before = {key: value.clone() for key, value in module.state_dict().items()}
        module.zero_grad()
        y = each(x)
        y.square().sum().backward()
        states.append((y.detach(), before, {key: value.clone()
                                            for key, value in module.state_dict().items()},
                       {key: value.grad.clone() for key, value in module.named_parameters()}))
    (y, _, after, gradients), (y2, _, after2, gradients2) = states
    _close(y2, y, 1e-4, "outputs")
    for key, value in after.items():
        _close(after2[key], value, 1e-4, key)
    for key, value in gradients.items():
        _close(gradients2[key], value, 1e-3, key, least=1.0)


def test_channels_last_stays_channels_last():
    x = torch.tensor(_images((3, 3, 32, 32)))
    module = _translated(random_network(_TRAINED["ChaATAC"]), x.numpy())
    module.eval()
    expected = module(x).detach()
    module.to(memory_format=torch.channels_last)
    found = module(x.to(memory_format=torch.channels_last))
    _close(found.detach(), expected, 1e-5, "channels_last")


# ---- names and files ---------------------------------------------------------------------------

def test_its_state_is_that_of_params_files(tmp_path):
    path = str(tmp_path / "net.params")
    net, other = (random_network(_TRAINED["CBAM"]) for _ in range(2))
    randomise(other, seed=1)
    x = _images((2, 3, 32, 32))
    other.save_parameters(path)
    module = _translated(net, x)
    load_params(module, path)
    for name, expected in nd.load(path).items():
        assert np.array_equal(weights(module)[name], expected.asnumpy()), name
    module.eval()
    _close(module(torch.tensor(x)).detach(), other(nd.array(x)).asnumpy(), 1e-5, "prediction")


def test_a_file_of_another_network_changes_nothing(tmp_path):
    path = str(tmp_path / "net.params")
    random_network(_TRAINED["ChaATAC"]).save_parameters(path)
    module = _translated(random_network(_TRAINED["CBAM"]), _images((1, 3, 32, 32)))
    before = weights(module)
    with pytest.raises(FileError, match="another network: the network has no features.0.beta"):
        load_params(module, path)
    assert all(np.array_equal(before[name], value) for name, value in weights(module).items())


def test_what_two_layers_share_stays_one_parameter():
    net = nn.HybridSequential()
    net.add(nn.Dense(6, in_units=6))
    net.add(nn.Dense(6, in_units=6, params=net[0].params))
    net.initialize(mx.init.Normal(0.5))
    x = _images((3, 6))
    net(nd.array(x))
    module = to_pytorch(net, (6,))
    assert module.state_dict().keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert len(list(module.parameters())) == 2
    with torch.no_grad():
        dict(module.named_parameters())["0.weight"].mul_(2)
    assert torch.equal(module.state_dict()["1.weight"], module.state_dict()["0.weight"])


@pytest.mark.parametrize("function, reason", [
    (lambda F, x: F.sin(x), "sin .* has no translation"),
    (lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type="lp", p_value=2), "Pooling .*p_value=2"),
    (lambda F, x: F.reshape(x, shape=(-1, 0), reverse=True), "reverse=True"),
    (lambda F, x: F.Pooling(x, kernel=(2, 2), pad=(0, 2), pool_type="max"), r"pad=\(0, 2\)"),
    (lambda F, x: F.contrib.BilinearResize2D(x, height=1, width=5, align_corners=False),
     "align_corners=False, height=1"),
    (lambda F, x: F.norm(x, ord=1, axis=1), "ord=1"),
    (lambda F, x: F.slice(x, begin=(None, 3), end=(None, 0), step=(1, -1)), r"step=\(1, -1\)"),
    (lambda F, x: F.softmax(x, dtype="float64"), "dtype='float64'")])
def test_what_has_no_translation_is_refused_by_name(function, reason):
    net = nn.HybridLambda(function)
    with pytest.raises(Untranslatable, match=reason):
        to_pytorch(net, (3, 4, 4))
    assert issubclass(Untranslatable, UserError)


def test_a_saved_graph_computes_where_mxnet_is_missing(tmp_path):
    net = random_network(_TRAINED["ChaATAC"])
    x = _images((3, 3, 32, 32))
    expected = net(nd.array(x)).asnumpy()
    save(tmp_path / "net.safetensors", trace(net, x.shape[1:]), _arrays(net))
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
sys.modules["mxnet"] = None
import numpy, torch
from graph.graph import load
from graph.pytorch import to_pytorch
graph, arrays = load(sys.argv[1] + "/net.safetensors")
module = to_pytorch(graph, arrays=arrays)
module(torch.zeros(2, 3, 32, 32)).sum().backward()
module = to_pytorch(graph, arrays=arrays).eval()
x = torch.tensor(numpy.load(sys.argv[1] + "/x.npy"))
numpy.save(sys.argv[1] + "/y.npy", module(x).detach())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    _close(np.load(tmp_path / "y.npy"), expected, 1e-5, "prediction")
