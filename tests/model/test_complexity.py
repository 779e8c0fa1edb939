"""Counting by shape inference: exact figures of the paper's code, formulas, the command line."""
import subprocess
import sys
from pathlib import Path

import pytest
from mxnet import nd
from mxnet.gluon import nn

from model import complexity
from model.attention import get_attention
from model.complexity import count, main, num_params
from model.resnet_selfattention import LocalSelfAttention, RelativeSelfAttention, aa_resnet50
from model.resnet_v1b import resnet18_v1b, resnet50_v1b
from model.resnet_v2_cifar import ResNetV2CIFAR
from tests.golden_cases import table

FILE = Path(complexity.__file__)


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
    total = count(net, (1, 3, 32, 32))
    assert (total.num_params, total.num_params_with_statistics) == (row["trainable"],
                                                                    row["total"])
    assert num_params(net) == row["trainable"]


# ---------------------------------------------------------------- rules, one layer at a time

@pytest.mark.parametrize("layer, params, multiply_adds, reference", [
    (nn.Conv2D(4, 3, padding=1, in_channels=8), 292, 288 * 35, 292 * 35),
    (nn.Conv2D(4, 3, strides=2, use_bias=False), 288, 288 * 6, 288 * 6),
    (nn.Conv2D(8, 3, padding=1, groups=8, use_bias=False), 72, 72 * 35, 72 * 35),
    (nn.Conv2DTranspose(4, 2, strides=2, use_bias=False, in_channels=8), 128, 128 * 35, 0),
    (nn.Dense(10), 2810, 2800, 2 * 2800 - 280 + 10),
    (nn.Dense(10, use_bias=False), 2800, 2800, 2 * 2800 - 280),
    (nn.Dense(3, flatten=False, use_bias=False), 21, 21 * 40, 2 * 21 - 7),
    (nn.BatchNorm(), 16, 0, 0),
    (nn.Activation("relu"), 0, 0, 0)], ids=lambda value: getattr(value, "name", None))
def test_rule_of_a_layer(layer, params, multiply_adds, reference):
    total = count(layer, (1, 8, 5, 7))
    assert (total.num_params, total.multiply_adds, total.reference_flops) == (
        params, multiply_adds, reference)


def test_products_of_local_attention():
    total = count(LocalSelfAttention(16, heads=4, kernel_size=3), (1, 16, 5, 7))
    # Three point-wise convolutions; scores and weighted sum: 9 neighbours of 16 channels each.
    assert total.multiply_adds == 3 * 16 * 16 * 35 + 2 * 9 * 16 * 35
    assert total.reference_flops == 3 * 16 * 16 * 35
    assert total.num_params == 3 * 16 * 16 + 2 * 3 * 8


def test_products_of_relative_attention():
    total = count(RelativeSelfAttention(16, 8, 4, heads=2, size=7), (1, 16, 5, 7))
    convolutions = (16 * (2 * 8 + 4) + 4 * 4) * 35
    assert total.multiply_adds == convolutions + 35 * 35 * (8 + 4) + 35 * 8 * (5 + 7)
    assert total.num_params == 16 * 20 + 16 + 2 * 13 * 4


def test_shared_parameters_count_once():
    net = nn.HybridSequential()
    first = nn.Dense(6, in_units=6)
    net.add(first, nn.Dense(6, in_units=6, params=first.params))
    total = count(net, (1, 6))
    assert total.num_params == num_params(net) == 42
    assert total.multiply_adds == 72


def test_batch_multiplies_the_work():
    one, two = (count(resnet18_v1b(), (n, 3, 64, 64)) for n in (1, 2))
    assert two.multiply_adds == 2 * one.multiply_adds and two.num_params == one.num_params


def test_rows_add_up_and_bear_structural_names():
    net = resnet18_v1b(activation="ChaATAC", attention="SE")
    total = count(net, (1, 3, 65, 97))
    for column in ("multiply_adds", "reference_flops"):
        assert sum(getattr(row, column) for row in total.layers) == getattr(total, column)
    assert sum(row.num_params for row in total.layers) == total.num_params_with_statistics
    rows = {row.name: row for row in total.layers}
    assert rows["conv1"].output_shape == (1, 64, 33, 49)
    assert rows["layer4.1.relu1.module.0"].num_params == 512 * 256
    assert rows["fc"].op == "FullyConnected"


def test_network_is_left_as_it_is():
    net = resnet18_v1b(classes=7)
    before = count(net, (1, 3, 40, 33))
    assert any(0 in parameter.shape for parameter in net.collect_params().values())
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    assert net(nd.zeros((1, 3, 40, 33))).shape == (1, 7)
    assert count(net, (1, 3, 40, 33)) == before
    assert num_params(net) == num_params(resnet18_v1b(classes=7)) == before.num_params


def test_input_that_does_not_fit():
    net = nn.HybridSequential()
    net.add(get_attention("GE", 3, variant="theta+", size=9))
    with pytest.raises(ValueError, match=r"an input of \(1, 3, 5, 5\) does not fit: [^\n]+$"):
        count(net, (1, 3, 5, 5))


# ---------------------------------------------------------------- the table

@pytest.fixture(scope="module")
def measured():
    return complexity.measure_table()


def test_table_meets_the_published_parameters(measured):
    names = [row.name for row, _ in measured]
    assert names == ["ResNet-50 v1", "ResNet-50 v1b", "SE-ResNet-50", "AA-ResNet-50",
                     "FA-ResNet-50", "GE-theta+-ResNet-50", "ATAC-ResNet-50"]
    for row, total in measured:
        params = total.num_params_with_statistics if row.statistics else total.num_params
        assert params / 1e6 == pytest.approx(row.params, rel=0.01), row.name


def test_table_meets_the_published_flops_or_says_why(measured):
    flops = {row.name: (total, row.gflops) for row, total in measured}
    for name in ("ResNet-50 v1", "ATAC-ResNet-50"):
        total, published = flops[name]
        assert total.multiply_adds / 1e9 == pytest.approx(published, rel=0.002)
    total, published = flops["AA-ResNet-50"]
    assert 2 * total.multiply_adds / 1e9 == pytest.approx(published, rel=0.01)
    text = complexity.format_table(measured)
    for row, total in measured:
        differs = abs(total.multiply_adds / 1e9 / row.gflops - 1) > 0.02
        assert (f"{row.name}: " in text) == differs
    assert "4.091" in text and "4.400" in text and "parameters:" not in text


def test_a_missed_row_says_by_how_much_and_why(measured):
    row, total = measured[0]
    text = complexity.format_table([(row._replace(params=20.0, note="of another width"), total)])
    assert "ResNet-50 v1: +27.88 % parameters: of another width." in text


def test_reduced_maps_explain_the_published_flops_of_augmented_convolutions():
    net = aa_resnet50()
    assert [len(stage[1].conv2.pools) for stage in net.stages()[1:]] == [1, 0, 0]


# ---------------------------------------------------------------- command line

def test_layer_table_of_a_network(capsys):
    assert main(["--model", "resnet_v2_cifar", "--set", "blocks=1", "--act-type", "chaatac",
                 "--r", "4", "--act-layers", "1", "--classes", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    net = ResNetV2CIFAR(1, 100, "ChaATAC", {"reduction": 4}, act_layers=1)
    total = count(net, (1, 3, 32, 32))
    assert lines[0].split() == ["layer", "operator", "output", "parameters", "multiply-adds",
                                "paper's", "rule"]
    assert len(lines) == len(total.layers) + 5
    assert f"{total.num_params:,} trained" in lines[-2]
    assert f"{total.multiply_adds / 1e9:.3f}" in lines[-1]


def test_markdown_rows_have_as_many_cells_as_the_head(capsys):
    assert main(["--model", "resnet_v2_cifar", "--attention", "SE", "--set-attn",
                 "reduction=4", "--input-size", "40", "--format", "markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {7}
    assert set(lines[1]) <= set("|-: ")
    assert "1x16x40x40" in lines[3]


@pytest.mark.parametrize("argv, message", [
    (["--model", "resnet_v2_cfar"], "Did you mean 'resnet_v2_cifar'"),
    (["--model", "resnet_v2_cifar", "--activation", "nothing"], "unknown activation"),
    (["--model", "resnet_v2_cifar", "--act-layers", "9"], "act_layers must lie in"),
    (["--model", "resnet_v2_cifar", "--set", "depth=3"], "depth"),
    (["--model", "resnet_v2_cifar", "--set-act", "reductio=3"], "reductio")])
def test_bad_networks_end_in_one_line(argv, message, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err


@pytest.mark.parametrize("argv, message", [
    ([], "either --model NAME or --table"),
    (["--table", "--model", "resnet_v2_cifar"], "either --model NAME or --table"),
    (["--table", "--act-layers", "2"], "takes --format only"),
    (["--model", "x", "--input-size", "0"], "must be a whole number of at least 1, not '0'"),
    (["--model", "x", "--set", "blocks"], "must be NAME=VALUE, not 'blocks'")])
def test_bad_options_end_in_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_does_not_wait_for_mxnet():
    code = ("import runpy, sys\n"
            f"parse = runpy.run_path({str(FILE)!r}, run_name='complexity')['parse_args']\n"
            "try: parse(['--help'])\n"
            "except SystemExit: sys.exit('mxnet' in sys.modules or 'numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--input-size" in done.stdout
