"""GluonCV's ResNet-v1b with slots: the authors' network, and GluonCV's where slots are empty."""
import subprocess
import sys
import zlib
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import resnetv1b as gluoncv_v1b
from mxnet import autograd, nd
from mxnet.gluon import SymbolBlock, contrib, nn

from model.activation import ChaATAC
from model.resnet_v1b import (
    LAYERS,
    GroupNorm,
    ResNetV1b,
    resnet18_v1b,
    resnet50_v1b,
    resnet50_v1b_atac,
)
from tests.golden_cases import assert_close, cases, load, table

ROOT = Path(__file__).resolve().parents[2]
SMALL = (1, 1, 1, 1)


def structure(net):
    """[structural key, shape, trainable] of every parameter, as saved; shapes inferred."""
    net.infer_shape(nd.zeros((1, 3, 32, 32)))
    return [[key, list(parameter.shape), parameter.grad_req != "null"]
            for key, parameter in net._collect_params_with_prefix().items()]


def reference_network(constructor):
    return resnet50_v1b(activation=constructor["act_type"], classes=constructor["classes"],
                        layers=constructor["layers"], last_gamma=constructor["last_gamma"],
                        act_options={"reduction": constructor["r"]},
                        act_layers=constructor["act_layers"])


def fill_by_formula(net):
    """The index's formula: every value follows from its key."""
    for key, parameter in net._collect_params_with_prefix().items():
        rng = np.random.RandomState(zlib.crc32(key.encode()) & 0xffffffff)
        kind, shape = key.rpartition(".")[2], parameter.shape
        if kind in ("gamma", "running_var"):
            values = rng.uniform(0.8, 1.2, shape)
        else:
            scale = {"weight": np.sqrt(1 / np.prod(shape[1:])), "bias": 0.01}.get(kind, 0.05)
            values = rng.normal(size=shape) * scale
        parameter.set_data(nd.array(values.astype("float32")))


def small(depth=50, seed=0, **options):
    """A small initialised network with running statistics that are not trivial."""
    mx.random.seed(seed)
    net = ResNetV1b(depth, layers=SMALL, classes=5, **options)
    net.initialize(mx.init.Xavier())
    for _ in range(2):
        with autograd.record():                  # on a CPU the backward pass updates them
            out = net(nd.random.normal(1, 2, shape=(2, 3, 33, 33)))
        out.backward()
    return net


def image(height=33, width=47, seed=1):
    mx.random.seed(seed)
    return nd.random.normal(shape=(2, 3, height, width))


# ---------------------------------------------------------------- the authors' network

@pytest.mark.parametrize("row", table("resnet50_v1b_atac"), ids=lambda row: "r{r}_l{act_layers}"
                         .format(**row["constructor"]))
def test_parameters_are_the_authors(row):
    assert structure(reference_network(row["constructor"])) == row["parameters"]


@pytest.mark.parametrize("case", cases("resnet50_v1b_atac"), ids=lambda case: case["name"])
def test_logits_are_the_authors(case):
    net = reference_network(case["constructor"])
    structure(net)
    net.initialize()
    fill_by_formula(net)
    formula = case["formula"]
    x = np.random.RandomState(formula["input_seed"]).uniform(-1, 1, formula["input_shape"])
    net.hybridize(static_alloc=True, static_shape=True)
    assert_close(net(nd.array(x.astype("float32"))), load(case)["out_predict"],
                 case["tolerance"])


def test_the_papers_network_has_a_name():
    row = next(row for row in table("resnet50_v1b_atac")
               if row["constructor"]["r"] == 2 and row["constructor"]["act_layers"] == 2)
    net = resnet50_v1b_atac()
    assert structure(net) == row["parameters"]
    assert net.layer1[0].bn3.gamma.init == "zeros"


# ---------------------------------------------------------------- GluonCV's network

@pytest.mark.parametrize("depth", sorted(LAYERS))
def test_without_units_it_is_gluoncvs(depth):
    theirs = getattr(gluoncv_v1b, f"resnet{depth}_v1b")()
    assert structure(ResNetV1b(depth)) == structure(theirs)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("options", [
    {}, {"dilated": True}, {"avg_down": True}, {"avg_down": True, "dilated": True},
    {"deep_stem": True, "stem_width": 24}, {"final_drop": 0.5}, {"use_global_stats": True}],
    ids=lambda options: "-".join(options) or "plain")
def test_options_do_what_gluoncvs_do(depth, options, tmp_path):
    ours = small(depth, **options)
    block = gluoncv_v1b.BottleneckV1b if depth == 50 else gluoncv_v1b.BasicBlockV1b
    theirs = gluoncv_v1b.ResNetV1b(block, SMALL, classes=5, **options)
    ours.save_parameters(str(tmp_path / "net.params"))
    theirs.load_parameters(str(tmp_path / "net.params"))
    x = image()
    np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())


# ---------------------------------------------------------------- slots

@pytest.mark.parametrize("layers, order, stages", [
    (0, "bac", ""), (2, "bac", "34"), (3, "pre", "123"), (4, "bac", "1234")])
def test_stages_counted_from_the_end_or_the_start(layers, order, stages):
    net = ResNetV1b(50, activation="ChaATAC", act_layers=layers, act_order=order,
                    replace_act="prelu", layers=SMALL)
    for name, stage in zip("1234", net.stages()):
        for block in stage:
            expected = ChaATAC if name in stages else nn.PReLU
            assert isinstance(block.relu1, expected) and isinstance(block.relu2, expected)
            assert isinstance(block.relu3, nn.Activation)


def test_a_basic_block_has_one_slot():
    net = ResNetV1b(18, activation="ChaATAC", act_layers=4, layers=SMALL)
    for stage in net.stages():
        assert isinstance(stage[0].relu1, ChaATAC)
        assert isinstance(stage[0].relu2, nn.Activation)


def test_every_slot_has_its_own_unit():
    net = ResNetV1b(50, activation="ChaATAC", act_layers=4)
    names = [parameter.name for parameter in net.collect_params().values()]
    assert len(names) == len(set(names)) == len(structure(net))


class Halve(nn.HybridBlock):
    """An attention unit whose place in the block shows in the output."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def hybrid_forward(self, F, x):
        return 0.5 * x


@pytest.mark.parametrize("depth, channels", [(18, [64, 128, 256, 512]),
                                             (50, [256, 512, 1024, 2048])])
def test_attention_is_between_the_last_norm_and_the_addition(depth, channels):
    net = small(depth, attention=Halve)
    assert [stage[0].attn.channels for stage in net.stages()] == channels
    block = net.layer2[0]
    x = nd.random.normal(shape=(2, net.layer1[0].attn.channels, 9, 7))
    branch = block.bn2 if depth == 18 else block.bn3
    outputs = []
    handle = branch.register_forward_hook(lambda _block, _inputs, output: outputs.append(output))
    actual = block(x)
    handle.detach()
    expected = nd.relu(0.5 * outputs[0] + block.downsample(x))
    np.testing.assert_allclose(actual.asnumpy(), expected.asnumpy(), rtol=1e-6)


@pytest.mark.parametrize("options", [
    {"activation": "ChaATAC", "act_layers": 4, "attention": "SE"},
    {"activation": "SpaATAC", "attention": "CBAM", "dilated": True, "avg_down": True},
    {"activation": "ChaATAC", "norm_layer": "GroupNorm", "deep_stem": True}])
@pytest.mark.parametrize("depth", [18, 50])
def test_hybridized_is_imperative(depth, options):
    net = small(depth, **options)
    for x in (image(33, 47), image(8, 5)):
        imperative = net(x).asnumpy()
        net.hybridize(static_alloc=True, static_shape=True)
        np.testing.assert_allclose(net(x).asnumpy(), imperative, rtol=1e-5, atol=1e-6)
        net.hybridize(False)
        assert imperative.shape == (2, 5)


@pytest.mark.parametrize("depth", [18, 50])
def test_gradients_reach_every_parameter(depth):
    net = small(depth, activation="ChaATAC", act_layers=4, attention="SE")
    with autograd.record():
        loss = nd.softmax_cross_entropy(net(image()), nd.array([1, 3]))
    loss.backward()
    for key, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            gradient = parameter.grad().asnumpy()
            assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, key


@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning")
def test_exported_network_is_the_same(tmp_path):
    net = small(activation="ChaATAC", attention="SE")
    net.hybridize()
    x = image()
    expected = net(x).asnumpy()
    net.export(str(tmp_path / "net"))
    back = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"],
                               str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(back(x).asnumpy(), expected, rtol=1e-6)


# ---------------------------------------------------------------- normalisation, start, dropout

@pytest.mark.parametrize("channels, groups", [(64, 32), (12, 8), (7, 32)])
def test_group_norm_formula(channels, groups):
    layer = GroupNorm(channels, num_groups=groups)
    layer.initialize()
    rng = np.random.RandomState(0)
    gamma, beta = rng.normal(size=(2, channels)).astype("float32")
    layer.gamma.set_data(nd.array(gamma))
    layer.beta.set_data(nd.array(beta))
    x = rng.normal(2, 3, (2, channels, 3, 5)).astype("float32")
    groups = np.gcd(channels, groups)
    grouped = x.reshape(2, groups, -1)
    expected = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(
        grouped.var(2, keepdims=True) + 1e-5)
    expected = expected.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(layer(nd.array(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, kind, norm_kwargs", [
    ("BatchNorm", nn.BatchNorm, {"epsilon": 1e-3}),
    ("syncbatchnorm", contrib.nn.SyncBatchNorm, {"num_devices": 1}),
    ("GroupNorm", GroupNorm, {"num_groups": 4}),
    (GroupNorm, GroupNorm, None)])
def test_normalisation_reaches_the_units(name, kind, norm_kwargs):
    given = dict(norm_kwargs) if norm_kwargs else None
    net = small(activation="ChaATAC", norm_layer=name, norm_kwargs=given)
    assert given == norm_kwargs                                 # the caller's dict is left alone
    layers = [net.bn1, net.layer1[0].downsample[1], net.layer4[0].bn3,
              net.layer4[0].relu1.module[1], net.layer4[0].relu2.module[4]]
    assert {type(layer) for layer in layers} == {kind}
    if name == "BatchNorm":
        assert {layer._kwargs["eps"] for layer in layers} == {1e-3}
    assert np.isfinite(net(image()).asnumpy()).all()


def test_global_statistics_leave_the_callers_options_alone():
    norm_kwargs = {"momentum": 0.8}
    net = ResNetV1b(18, use_global_stats=True, norm_kwargs=norm_kwargs, activation="ChaATAC")
    assert norm_kwargs == {"momentum": 0.8}
    for layer in (net.bn1, net.layer4[0].relu1.module[1]):
        assert layer._kwargs["use_global_stats"] and layer._kwargs["momentum"] == 0.8


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("norm_layer", ["BatchNorm", "GroupNorm"])
def test_last_gamma_makes_a_block_its_shortcut(depth, norm_layer):
    net = ResNetV1b(depth, layers=(2, 1, 1, 1), last_gamma=True, norm_layer=norm_layer)
    net.initialize()
    x = nd.random.normal(shape=(2, 64 if depth == 18 else 256, 5, 7))
    np.testing.assert_array_equal(net.layer1[1](x).asnumpy(), nd.relu(x).asnumpy())


def test_dropout_acts_in_training_only():
    net = small(18, final_drop=0.5, use_global_stats=True)
    x = image()
    np.testing.assert_array_equal(net(x).asnumpy(), net(x).asnumpy())
    with autograd.train_mode():
        assert (net(x).asnumpy() != net(x).asnumpy()).any()


# ---------------------------------------------------------------- errors, imports

@pytest.mark.parametrize("options, message", [
    ({"depth": 20}, "depth must be one of 18, 34, 50, 101, 152, not 20"),
    ({"classes": 0}, "classes must be a positive integer"),
    ({"activation": "ChaATCA"}, "Did you mean 'ChaATAC'"),
    ({"replace_act": "rleu"}, "Did you mean 'relu'"),
    ({"attention": "CBMA"}, "unknown attention"),
    ({"norm_layer": "BatchNrm"}, "Did you mean 'BatchNorm'"),
    ({"act_layers": 5}, r"act_layers must lie in 0 \.\.\. 4, not 5"),
    ({"act_order": "last"}, "act_order must be one of"),
    ({"final_drop": 1}, r"final_drop must lie in \[0, 1\)"),
    ({"stem_width": 0, "deep_stem": True}, "stem_width must be a positive integer"),
    ({"layers": (1, 1)}, "4 stages, not 2"),
    ({"layers": (1, 1, 0, 1)}, "layers must be a positive integer"),
    ({"activation": "ChaATAC", "act_options": {"reduction": 0}}, "reduction must be")])
def test_errors_name_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        ResNetV1b(**options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="pretrained"):
        resnet18_v1b(pretrained=True)


def test_the_package_imports_without_gluoncv():
    code = "import model, sys; sys.exit('gluoncv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
