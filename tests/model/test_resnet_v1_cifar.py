"""The hosts of the attention studies: counts, slots, and agreement however they are run."""
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import SymbolBlock, nn

from model.activation import ChaATAC, list_activations
from model.attention import CBAM, SE, ChannelAttention, list_attentions
from model.resnet_v1_cifar import (
    BasicBlock,
    Bottleneck,
    ResNetV1CIFAR,
    resnet18,
    resnet50,
)
from tests.golden_cases import table

NARROW = {"width": 1 / 16}
_PLACES = {"none": (), "use_cbam_block": "block", "use_cbam_class": ("classifier",)}


def _image(*shape, seed=0):
    return nd.array(np.random.default_rng(seed).standard_normal(shape), dtype="float32")


def _blocks(net, kinds=(BasicBlock, Bottleneck)):
    if isinstance(net, kinds):
        return [net]
    return [block for child in net._children.values() for block in _blocks(child, kinds)]


def _trainable(net):
    """Number of trainable parameters, from shapes alone: the network is not initialized."""
    return sum(int(np.prod(p.shape)) for p in net.collect_params().values()
               if p.grad_req != "null")


@pytest.mark.parametrize("row", table("resnetk_cbam_param_counts"),
                         ids=lambda row: f"{row['depth']}-{row['variant']}-{row['kernel_cbam']}")
def test_parameter_counts_of_the_cifar_study(row):
    net = ResNetV1CIFAR(row["depth"], attention="CBAM", attention_at=_PLACES[row["variant"]],
                        attn_options={"reduction": row["reduction_ratio"],
                                      "kernel_size": row["kernel_cbam"]})
    assert _trainable(net) == row["trainable"]


@pytest.mark.parametrize("options, size", [
    ({}, 32), ({"depth": 50}, 32), ({}, 17), ({"depth": 50, "stem": "conv7"}, 33),
    ({"attention": "CBAM", "attention_at": ("block", "classifier")}, 9),
    ({"attention": "SE", "attention_at": ("identity", "classifier"), "drop_rate": 0.5}, 1),
])
def test_logits_for_any_size(options, size):
    net = ResNetV1CIFAR(classes=7, **NARROW, **options)
    net.initialize()
    assert net(_image(2, 3, size, size + 1)).shape == (2, 7)


def test_feature_maps_shrink_in_three_stages():
    net = ResNetV1CIFAR(50, **NARROW)
    net.initialize()
    x, shapes = _image(1, 3, 32, 32), []
    for layer in net.features:
        x = layer(x)
        shapes.append(x.shape)
    assert shapes[:3] == [(1, 4, 32, 32)] * 3
    assert shapes[3:] == [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4),
                          (1, 128)]


def test_the_other_stem_halves_the_map():
    net = resnet50(stem="conv7", **NARROW)
    net.initialize()
    assert net.features[0].weight.shape == (4, 3, 7, 7)
    assert net.features[:4](_image(1, 3, 32, 32)).shape == (1, 4, 16, 16)


# ---- slots ----

@pytest.mark.parametrize("depth, projections", [(18, [2, 4, 6]), (50, [0, 3, 7, 13])])
def test_identity_slots_are_blocks_without_a_projection(depth, projections):
    net = ResNetV1CIFAR(depth, attention="SE", attention_at="identity", **NARROW)
    blocks = _blocks(net)
    assert len(blocks) == net.num_blocks
    for i, block in enumerate(blocks):
        assert (block.downsample is not None) == (i in projections)
        assert (block.attn is None) == (i in projections)


def test_no_attention_no_child():
    net = resnet18(**NARROW)
    assert all(block.attn is None for block in _blocks(net))
    assert not any("attn" in name for name in net._collect_params_with_prefix())


def test_an_attention_unit_for_each_block():
    units = ["SE", None, CBAM, None, None, lambda channels, **options: SE(channels), "CBAM", "SE"]
    net = resnet18(attention=units, **NARROW)
    kinds = [type(block.attn) for block in _blocks(net)]
    nothing = type(None)
    assert kinds == [SE, nothing, CBAM, nothing, nothing, SE, CBAM, SE]


def test_classifier_slot_adds_attention_to_the_last_map():
    net = resnet18(attention="ChannelAttention", attention_at="classifier", **NARROW)
    net.initialize()
    slot, x = net.features[7], _image(2, 32, 4, 4)
    assert isinstance(slot.attn, ChannelAttention)
    np.testing.assert_allclose(slot(x).asnumpy(), (x + slot.attn(x)).asnumpy())


@pytest.mark.parametrize("act_last", [False, True])
def test_activation_slots_follow_stages(act_last):
    net = resnet50(activation="ChaATAC", act_layers=1, replace_act="prelu", act_last=act_last,
                   act_options={"reduction": 4}, **NARROW)
    assert isinstance(net.features[2], nn.PReLU)
    for i, block in enumerate(_blocks(net)):
        chosen = ChaATAC if i >= 13 else nn.PReLU
        assert type(block.act1) is type(block.act2) is chosen
        assert type(block.act3) is (chosen if act_last else nn.PReLU)
    assert _blocks(net)[-1].act1.module[0].weight.shape == (8, 32, 1, 1)


def test_plain_basic_block_formula():
    block = BasicBlock(3, 3, 1, lambda c: nn.Activation("relu"), lambda c: nn.Activation("relu"),
                       SE)
    block.initialize()
    x = _image(2, 3, 5, 5)
    branch = block.bn2(block.conv2(nd.relu(block.bn1(block.conv1(x)))))
    np.testing.assert_allclose(block(x).asnumpy(), nd.relu(block.attn(branch) + x).asnumpy(),
                               rtol=1e-5, atol=1e-6)


def test_full_width_bottleneck_puts_its_stride_in_the_middle():
    block = Bottleneck(16, 32, 2, lambda c: nn.Activation("relu"), lambda c: nn.Activation("relu"))
    strides = [conv._kwargs["stride"] for conv in (block.conv1, block.conv2, block.conv3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]


# ---- however it is run ----

@pytest.mark.parametrize("attention", list_attentions())
def test_every_attention_unit_in_every_slot(attention, tmp_path):
    net = resnet18(classes=3, attention=attention, attention_at=("block", "classifier"), **NARROW)
    net.initialize()
    x = _image(2, 3, 9, 7)
    expected = net(x).asnumpy()
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-3, atol=1e-5)
    with autograd.record():
        net(x).sum().backward()
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != "null":
            assert np.isfinite(parameter.grad().asnumpy()).all(), name
    net.save_parameters(str(tmp_path / "net.params"))
    net.export(str(tmp_path / "net"), epoch=0)
    imported = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"],
                                   str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(imported(x).asnumpy(), net(x).asnumpy(), rtol=1e-3, atol=1e-5)
    twin = resnet18(classes=3, attention=attention, attention_at=("block", "classifier"),
                    **NARROW)
    twin.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_allclose(twin(x).asnumpy(), net(x).asnumpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", list_activations())
def test_every_activation_unit(activation):
    net = resnet18(activation=activation, act_last=True, **NARROW)
    net.initialize()
    net.hybridize()
    assert np.isfinite(net(_image(2, 3, 9, 7)).asnumpy()).all()


# ---- errors ----

@pytest.mark.parametrize("options, message", [
    ({"depth": 20}, "depth must be one of 18, 34, 50, 101, 152, not 20"),
    ({"attention": "CBAM", "attention_at": "head"}, "attention_at must name some of block"),
    ({"attention": "CBAM", "attn_options": {"ratio": 8}}, "'CBAM' has no option 'ratio'"),
    ({"attention": ["SE"] * 3}, "3 attention units were given for 8 blocks"),
    ({"attention": ["SE"] * 8, "attention_at": "classifier"}, "goes to the slot 'block' only"),
    ({"attention": "CBAN"}, "Did you mean 'CBAM'"),
    ({"activation": "ChaATAK"}, "Did you mean 'ChaATAC'"),
    ({"act_layers": 5}, "act_layers must lie in 0 ... 4"),
    ({"stem": "conv5"}, "stem must be one of conv3, conv7"),
    ({"width": 0}, "width must be positive"),
    ({"classes": 0}, "classes must be a positive integer"),
])
def test_errors_name_the_valid_choices(options, message):
    with pytest.raises(ValueError, match=message):
        ResNetV1CIFAR(**options)
