"""Units put into existing Gluon networks: what changes, and that nothing else does."""
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from model.activation import ChaATAC
from model.attention import CBAM, SE
from model.resnet_v2_cifar import ResNetV2CIFAR
from model.surgery import insert_attention, replace_activations
from tests.random_networks import randomise


def _image(*shape, seed=0):
    return nd.array(np.random.default_rng(seed).standard_normal(shape), dtype="float32")


def _values(net):
    """Copies of all parameters by Gluon name."""
    return {name: p.data().asnumpy() for name, p in net.collect_params().items()}


def _assert_trained(net, x):
    """A training step's gradients reach every parameter of the changed network."""
    with autograd.record():
        net(x).sum().backward()
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != "null":
            assert np.isfinite(parameter.grad().asnumpy()).all(), name


class _Small(nn.HybridBlock):
    """One ReLU used at two widths, one at one width twice, a functional one, one unused."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv1 = nn.Conv2D(4, 3, padding=1, in_channels=3)
            self.conv2 = nn.Conv2D(6, 3, padding=1, in_channels=4)
            self.conv3 = nn.Conv2D(6, 3, padding=1, in_channels=6)
            self.relu = nn.Activation("relu")
            self.twice = nn.Activation("relu")
            self.unused = nn.Activation("relu")
            self.leaky = nn.LeakyReLU(0.1)
            self.dense = nn.Dense(5, activation="relu", in_units=6)

    def hybrid_forward(self, F, x):
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.twice(self.conv3(self.twice(self.leaky(x))))
        x = F.relu(x - 1) + F.Activation(x, act_type="relu")
        return self.dense(F.mean(x, axis=(2, 3)))


# ---- model zoos ----

# Network, input size, ReLUs replaced, and the last line of the report.
_ZOO = [
    ("resnet18_v1", 32, 9, "BasicBlockV1 calls ReLU as a function in its code"),
    ("resnet18_v2", 32, 2, "BasicBlockV2 calls ReLU as a function in its code, 2 times"),
    ("vgg11_bn", 32, 8, "Activation(relu) is at a vector of shape (1, 4096), not at a map"),
    ("densenet121", 224, 121, "0 left as they were"),
    ("mobilenet0_25", 32, 27, "0 left as they were"),
    ("mobilenet_v2_0_25", 32, 36, "0 left as they were"),
]


@pytest.mark.parametrize("name, size, count, last_line", _ZOO)
def test_replacing_in_the_model_zoo(name, size, count, last_line):
    net, x = getattr(vision, name)(classes=5), _image(1, 3, size, size)
    net.initialize()
    net.hybridize(static_alloc=True)
    net(x)
    before, names = _values(net), set(net._collect_params_with_prefix())
    report = replace_activations(net, "ChaATAC", reduction=4, input_shape=x.shape)
    assert len(report.changed) == count
    assert str(report).splitlines()[-1].endswith(last_line)
    assert names <= set(net._collect_params_with_prefix())
    after = _values(net)
    assert len(after) > len(before)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    assert net(x).shape == (1, 5)
    for path, text in report.changed:
        block = net
        for part in path.split("."):
            block = block._children[part]
        assert isinstance(block, ChaATAC) and f"ChaATAC({block.module[0]._in_channels})" in text


@pytest.mark.parametrize("name, count", [("resnet18_v1", 8), ("resnet50_v1", 16),
                                         ("resnet18_v2", 8), ("mobilenet_v2_0_25", 10)])
def test_inserting_at_the_end_of_residual_branches(name, count):
    net, x = getattr(vision, name)(classes=5), _image(1, 3, 32, 32)
    net.initialize()
    net.hybridize()
    output, before = net(x).asnumpy(), _values(net)
    report = insert_attention(net, "CBAM", reduction=4, kernel_size=3)
    assert len(report.changed) == count and not report.left
    assert (net(x).asnumpy() != output).any()
    after = _values(net)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    _assert_trained(net, x)


class _Nothing(nn.HybridBlock):
    """Attention that lets nothing through."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)

    def hybrid_forward(self, F, x):
        return 0 * x


def _residual_blocks(net):
    """Blocks of a network whose shortcut is their input itself."""
    for child in net._children.values():
        name = type(child).__name__
        if name.startswith(("BasicBlock", "Bottleneck", "CIFARBasicBlock", "LinearBottleneck")):
            if getattr(child, "downsample", None) is None and getattr(child, "use_shortcut", True):
                yield child
        else:
            yield from _residual_blocks(child)


def _of_mxnet(version, block):
    """A narrow ResNet of MXNet's zoo, two blocks in its last stage."""
    return getattr(vision, f"ResNet{version}")(block, [1, 2], [8, 8, 16], classes=5)


def _of_gluoncv(name, block=None):
    zoo = pytest.importorskip("gluoncv.model_zoo")
    if block is None:
        return zoo.get_model(name, classes=5)
    module = getattr(zoo, name)
    return module.ResNetV1b(getattr(module, block), [1, 2, 1, 1], classes=5)


@pytest.mark.parametrize("build, after", [
    (lambda: _of_mxnet("V1", vision.BasicBlockV1), nd.relu),
    (lambda: _of_mxnet("V1", vision.BottleneckV1), nd.relu),
    (lambda: _of_mxnet("V2", vision.BasicBlockV2), nd.identity),
    (lambda: _of_mxnet("V2", vision.BottleneckV2), nd.identity),
    (lambda: vision.mobilenet_v2_0_25(classes=5), nd.identity),
    (lambda: _of_gluoncv("resnetv1b", "BasicBlockV1b"), nd.relu),
    (lambda: _of_gluoncv("resnetv1b", "BottleneckV1b"), nd.relu),
    (lambda: _of_gluoncv("cifar_resnet20_v1"), nd.relu),
    (lambda: _of_gluoncv("cifar_resnet20_v2"), nd.identity),
], ids=["BasicBlockV1", "BottleneckV1", "BasicBlockV2", "BottleneckV2", "LinearBottleneck",
        "BasicBlockV1b", "BottleneckV1b", "CIFARBasicBlockV1", "CIFARBasicBlockV2"])
def test_a_branch_that_attention_closes_leaves_the_shortcut(build, after):
    """So the unit is behind everything in the branch, and before the addition."""
    net = build()
    insert_attention(net, _Nothing, input_shape=(1, 3, 64, 64))
    net.initialize()
    net(_image(1, 3, 64, 64))
    randomise(net)
    seen = []
    for block in _residual_blocks(net):
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    net(_image(1, 3, 64, 64))
    assert seen
    for x, out in seen:
        np.testing.assert_array_equal(out.asnumpy(), after(x).asnumpy())


@pytest.mark.parametrize("change, unit", [(replace_activations, "ChaATAC"),
                                          (insert_attention, "SE")])
def test_the_initializer_is_for_the_new_parameters(change, unit):
    net = vision.resnet18_v1(classes=5)
    net.initialize()
    net(_image(1, 3, 32, 32))
    before = _values(net)
    change(net, unit, initializer=mx.init.Constant(0.25))
    new = {name: value for name, value in _values(net).items() if name not in before}
    weights = [value for name, value in new.items() if name.endswith("weight")]
    assert weights and all((value == 0.25).all() for value in weights)


def test_the_initializer_is_msra_s_by_default():
    """MSRAPrelu: variance 2 / (1 + 0.25 ** 2) over the mean of a weight's fan-in and fan-out."""
    net = vision.resnet18_v1(classes=5)
    net.initialize()
    insert_attention(net, "SE", reduction=1, where="features.8", input_shape=(1, 3, 32, 32))
    weight = net.features[8][-1].fc1.weight.data().asnumpy()
    assert weight.shape == (512, 512)
    assert weight.var() == pytest.approx(2 / (1 + 0.25 ** 2) / 512, rel=0.02)


def test_gluoncv_networks():
    zoo = pytest.importorskip("gluoncv.model_zoo")
    x = _image(1, 3, 32, 32)
    for name, relus, ends in (("resnet18_v1b", 17, 8), ("cifar_resnet20_v1", 9, 9),
                              ("cifar_resnet20_v2", 1, 9)):
        net = zoo.get_model(name, classes=5)
        net.initialize()
        net.hybridize()
        net(x)
        before = _values(net)
        assert len(replace_activations(net, "SeqATAC").changed) == relus, name
        assert len(insert_attention(net, "ECA").changed) == ends, name
        after = _values(net)
        assert all((after[key] == value).all() for key, value in before.items()), name
        _assert_trained(net, x)


def test_attribute_and_child_are_both_swapped():
    net = pytest.importorskip("gluoncv.model_zoo").get_model("resnet18_v1b", classes=5)
    replace_activations(net, "ChaATAC", where="layer4.*")
    block = net.layer4[0]
    assert isinstance(block.relu1, ChaATAC) and block.relu1 is block._children["relu1"]
    assert isinstance(net.relu, nn.Activation)


# ---- before and after initialization ----

def test_without_initialization_nothing_is_initialized():
    net = vision.resnet18_v1(classes=5)
    replace_activations(net, "ChaATAC")
    assert all(p._data is None for p in net.collect_params().values())
    net.initialize()
    assert net(_image(1, 3, 32, 32)).shape == (1, 5)


def test_deferred_initialization_is_left_to_the_first_pass():
    net = vision.resnet18_v1(classes=5)
    net.initialize()
    insert_attention(net, "SE")
    assert net.features[4][0].body[-1].fc1.weight.data().shape == (4, 64)
    assert net(_image(1, 3, 32, 32)).shape == (1, 5)


def test_new_units_have_the_type_of_the_network():
    net = vision.resnet18_v1(classes=5)
    net.cast("float16")
    replace_activations(net, "ChaATAC")
    assert np.dtype(net.features[2].module[0].weight.dtype) == np.float16


def test_saved_and_loaded(tmp_path):
    def changed():
        net = vision.resnet18_v1(classes=5)
        net.initialize()
        replace_activations(net, "ChaATAC")
        insert_attention(net, "CBAM")
        return net
    net, twin, x = changed(), changed(), _image(1, 3, 32, 32)
    expected = net(x).asnumpy()
    net.save_parameters(str(tmp_path / "net.params"))
    twin.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_array_equal(twin(x).asnumpy(), expected)
    names = list(net.collect_params())
    assert len(names) == len(set(names)) == len(net._collect_params_with_prefix())


# ---- choosing places ----

@pytest.mark.parametrize("where, count", [
    ("features.7.*", 2),
    (re.compile(r"features\.[67]\.1"), 2),
    (re.compile(r"_activation0$|_relu0$"), 2),
    (lambda path, block: path.startswith("features.4") and path.endswith("body.2"), 2),
    (None, 9),
])
def test_where(where, count):
    net = vision.resnet18_v1(classes=5)
    names = [block.name for block in (net.features[2], net.features[4][0].body[2])]
    if isinstance(where, re.Pattern) and "relu0" in where.pattern:
        where = re.compile("|".join(f"^{name}$" for name in names))
    assert len(replace_activations(net, "swish", where=where).changed) == count


def test_predicate_may_choose_other_blocks():
    net = _Small()
    report = replace_activations(net, "mish", lambda path, block: isinstance(block, nn.LeakyReLU))
    assert report.changed == [("leaky", "LeakyReLU -> Mish(6)")]


def test_attention_after_chosen_blocks():
    net = vision.vgg11_bn(classes=5)
    net.initialize()
    report = insert_attention(net, SE, where=re.compile(r"batchnorm[0-2]$"), use_bias=False)
    assert [path for path, _ in report.changed] == ["features.1", "features.5", "features.9"]
    assert net.features[5][1].fc1.weight.shape == (8, 128) and net.features[5][1].fc1.bias is None
    assert isinstance(net.features[5][0], nn.BatchNorm)
    assert net(_image(1, 3, 224, 224)).shape == (1, 5)


def test_own_units_are_not_looked_into():
    net = ResNetV2CIFAR(1, activation="ChaATAC", act_layers=2)
    report = replace_activations(net, "xUnit", input_shape=(1, 3, 32, 32))
    assert [path.split(".")[1] for path, _ in report.changed] == ["2", "2", "3", "3"]
    insert_attention(net, "CBAM", input_shape=(1, 3, 32, 32))
    net.initialize()
    assert net(_image(1, 3, 8, 8)).shape == (1, 10)
    assert isinstance(net.features[2][0].conv2[1], CBAM)


# ---- what cannot be changed ----

def test_report_says_what_was_left_and_why():
    net = _Small()
    net.initialize()
    report = replace_activations(net, "ChaATAC")
    assert str(report) == "\n".join([
        "1 changed:",
        "  twice  Activation(relu) -> ChaATAC(6)",
        "4 left as they were:",
        "  relu           Activation(relu) is used at maps of different channel counts: 4, 6",
        "  unused         Activation(relu) is not used in the forward pass",
        "  dense.act      Activation(relu) is at a vector of shape (1, 5), not at a map",
        "  (the network)  _Small calls ReLU as a function in its code, 2 times",
    ])
    _assert_trained(net, _image(2, 3, 7, 7))


@pytest.mark.parametrize("call, error, message", [
    (lambda net: replace_activations(net, "ChaATAK"), ValueError, "Did you mean 'ChaATAC'"),
    (lambda net: replace_activations(net, "ChaATAC", ratio=2), ValueError, "no option 'ratio'"),
    (lambda net: replace_activations(net, "ChaATAC", where="layer9.*"), ValueError,
     "no ReLU matches 'layer9"),
    (lambda net: insert_attention(net, "SE"), ValueError, "no residual blocks of a known class"),
    (lambda net: replace_activations(net, "ChaATAC", input_shape=(1, 5, 8, 8)), ValueError,
     "does not fit input_shape"),
    (lambda net: replace_activations(nn.Sequential(), "ChaATAC"), TypeError,
     "not a HybridBlock"),
    (lambda net: replace_activations(net, lambda channels: nn.Sequential()), TypeError,
     "not a HybridBlock"),
])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(_Small())
