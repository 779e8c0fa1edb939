"""Counting on a graph: exact figures of the paper's code, and formulas."""
import pytest
from mxnet import nd
from mxnet.gluon import nn

from graph import cost
from graph.graph import trace
from model.attention import get_attention
from model.resnet_selfattention import LocalSelfAttention, RelativeSelfAttention, aa_resnet50
from model.resnet_v1b import resnet18_v1b, resnet50_v1b
from model.resnet_v2_cifar import ResNetV2CIFAR
from tests.golden_cases import table


def count(net, image_shape=(3, 224, 224)):
    return cost.count(trace(net, image_shape))


# ---------------------------------------------------------------- the paper's code

@pytest.mark.parametrize("row", table("resnet50_v1b_atac"), ids=lambda row: "r{r}_l{act_layers}"
                         .format(**row["constructor"]))
def test_imagenet_figures_are_the_authors(row):
    options = row["constructor"]
    net = resnet50_v1b(activation="ChaATAC", act_layers=options["act_layers"],
                       act_options={"reduction": options["r"]})
    total = count(net)
    assert total.reference_flops == row["flops_224"]
    assert total.num_params == row["trainable"]
    assert total.num_params_with_statistics == row["total"]
    # The two rules differ by the dense layer alone: 2 * 1000 * 2048 - 2048 + 1000.
    assert total.reference_flops - total.multiply_adds == 1000 * 2048 - 2048 + 1000


CIFAR_ROWS = [row for row in table("resnet20v2_param_counts") if row["b"] in (1, 3)]


@pytest.mark.parametrize("row", CIFAR_ROWS, ids=lambda row: "{act}_b{b}_{classes}".format(**row))
def test_cifar_parameters_are_the_authors(row):
    name, _, use_global = row["act"].partition("-")
    options = {}
    if name == "ChaATAC":
        options = {"reduction": row["r"], "use_global": bool(use_global)}
    net = ResNetV2CIFAR(row["b"], row["classes"], name, options)
    total = count(net, (3, 32, 32))
    assert (total.num_params, total.num_params_with_statistics) == (row["trainable"],
                                                                    row["total"])


# ---------------------------------------------------------------- rules, one layer at a time

@pytest.mark.parametrize("layer, params, multiply_adds, reference", [
    (nn.Conv2D(4, 3, padding=1, in_channels=8), 292, 288 * 35, 292 * 35),
    (nn.Conv2D(4, 3, strides=2, use_bias=False), 288, 288 * 6, 288 * 6),
    (nn.Conv2D(8, 3, padding=1, groups=8, use_bias=False), 72, 72 * 35, 72 * 35),
    (nn.Dense(10), 2810, 2800, 2 * 2800 - 280 + 10),
    (nn.Dense(10, use_bias=False), 2800, 2800, 2 * 2800 - 280),
    (nn.Dense(3, flatten=False, use_bias=False), 21, 21 * 40, 2 * 21 - 7),
    (nn.BatchNorm(), 16, 0, 0),
    (nn.Activation("relu"), 0, 0, 0)], ids=lambda value: getattr(value, "name", None))
def test_rule_of_a_layer(layer, params, multiply_adds, reference):
    total = count(layer, (8, 5, 7))
    assert (total.num_params, total.multiply_adds, total.reference_flops) == (
        params, multiply_adds, reference)


def test_products_of_local_attention():
    total = count(LocalSelfAttention(16, heads=4, kernel_size=3), (16, 5, 7))
    # Three point-wise convolutions; scores and weighted sum: 9 neighbours of 16 channels each.
    assert total.multiply_adds == 3 * 16 * 16 * 35 + 2 * 9 * 16 * 35
    assert total.reference_flops == 3 * 16 * 16 * 35
    assert total.num_params == 3 * 16 * 16 + 2 * 3 * 8


def test_products_of_relative_attention():
    total = count(RelativeSelfAttention(16, 8, 4, heads=2, size=7), (16, 5, 7))
    convolutions = (16 * (2 * 8 + 4) + 4 * 4) * 35
    assert total.multiply_adds == convolutions + 35 * 35 * (8 + 4) + 35 * 8 * (5 + 7)
    assert total.num_params == 16 * 20 + 16 + 2 * 13 * 4


def test_shared_parameters_count_once():
    net = nn.HybridSequential()
    first = nn.Dense(6, in_units=6)
    net.add(first, nn.Dense(6, in_units=6, params=first.params))
    total = count(net, (6,))
    assert total.num_params == sum(row.num_params for row in total.layers) == 42
    assert total.multiply_adds == 72


def test_rows_add_up_and_bear_structural_names():
    net = resnet18_v1b(activation="ChaATAC", attention="SE")
    total = count(net, (3, 65, 97))
    for column in ("multiply_adds", "reference_flops"):
        assert sum(getattr(row, column) for row in total.layers) == getattr(total, column)
    assert sum(row.num_params for row in total.layers) == total.num_params_with_statistics
    rows = {row.name: row for row in total.layers}
    assert rows["conv1"].output_shape == (1, 64, 33, 49)
    assert rows["layer4.1.relu1.module.0"].num_params == 512 * 256
    assert rows["fc"].op == "FullyConnected"


def test_network_is_left_as_it_is():
    net = resnet18_v1b(classes=7)
    before = count(net, (3, 40, 33))
    assert any(0 in parameter.shape for parameter in net.collect_params().values())
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    assert net(nd.zeros((1, 3, 40, 33))).shape == (1, 7)
    assert count(net, (3, 40, 33)) == before


def test_input_that_does_not_fit():
    net = nn.HybridSequential()
    net.add(get_attention("GE", 3, variant="theta+", size=9))
    with pytest.raises(ValueError, match=r"does not fit images of shape \(3, 5, 5\): [^\n]+$"):
        count(net, (3, 5, 5))


def test_reduced_maps_explain_the_published_flops_of_augmented_convolutions():
    net = aa_resnet50()
    assert [len(stage[1].conv2.pools) for stage in net.stages()[1:]] == [1, 0, 0]
