"""The paper's table and the command line of tools.complexity."""
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from graph.cost import count
from graph.graph import trace
from model.resnet_v2_cifar import ResNetV2CIFAR
from tools import complexity
from tools.complexity import main

FILE = Path(complexity.__file__)


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


# ---------------------------------------------------------------- command line

def test_layer_table_of_a_network(capsys):
    assert main(["--model", "resnet_v2_cifar", "--set", "blocks=1", "--act-type", "chaatac",
                 "--r", "4", "--act-layers", "1", "--classes", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    net = ResNetV2CIFAR(1, 100, "ChaATAC", {"reduction": 4}, act_layers=1)
    total = count(trace(net, (3, 32, 32)))
    assert lines[0].split() == ["layer", "operator", "output", "parameters", "multiply-adds",
                                "paper's", "rule"]
    assert len(lines) == len(total.layers) + 5
    assert f"{total.num_params:,} trained" in lines[-2]
    assert f"{total.multiply_adds / 1e9:.3f}" in lines[-1]


@pytest.mark.parametrize("model, size", [("resnet18", 32), ("resnet18_v1b", 112)])
def test_images_are_as_large_as_the_network_s(model, size, capsys):
    assert main(["--model", model]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[2] == f"1x64x{size}x{size}"


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
    (["--model", "resnet_v2_cifar", "--set", "channels=3"], "another kind"),
    (["--model", "resnet_v2_cifar", "--set-act", "reductio=3"], "reductio")])
def test_bad_networks_end_in_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        main(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argv, message", [
    ([], "either --model NAME or --table"),
    (["--table", "--model", "resnet_v2_cifar"], "either --model NAME or --table"),
    (["--table", "--act-layers", "2"], "takes --format only"),
    (["--model", "x", "--input-size", "0"], "must be a whole number of at least 1, not '0'"),
    (["--model", "x", "--set", "blocks"], "must be NAME=VALUE, not 'blocks'")])
def test_bad_options_end_in_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        main(argv)
    assert "\n" not in str(caught.value)


def test_help_does_not_wait_for_mxnet():
    code = ("import runpy, sys\n"
            f"parse = runpy.run_path({str(FILE)!r}, run_name='complexity')['parse_args']\n"
            "try: parse(['--help'])\n"
            "except SystemExit: sys.exit('mxnet' in sys.modules or 'numpy' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--input-size" in done.stdout
