"""export.py --format pytorch: files that predict and train as the network in MXNet does."""
import json
import resource
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed "
                                            "(make env EXTRAS=pytorch)")

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import mxnet as mx  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

import export  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.params import read_params  # noqa: E402
from exporting import comparison, pytorch_file  # noqa: E402
from exporting.pytorch_file import check_training, writers  # noqa: E402
from graph.graph import read_arrays, save, trace  # noqa: E402
from model.zoo import build  # noqa: E402
from tests.random_networks import CIFAR, random_network, randomise  # noqa: E402
from tests.scripts import ROOT, drawn_cifar  # noqa: E402

_DATA = {**CIFAR, "image_size": 64}
NETWORKS = [    # the first one normalises its input
    {"model": "resnet_v2_cifar", "options": {"blocks": 1, "activation": "ChaATAC"},
     "dataset": _DATA},
    {"model": "resnet18_v1b", "options": {"layers": [1, 1, 1, 1], "attention": "CBAM"},
     "dataset": _DATA}]
_ENDINGS = (".safetensors", ".pt2", ".README.txt")
_RELEASED = str(ROOT / "params/cifar10-relu-b1.params")

# What a user does who has PyTorch and nothing of this project; and, with the project, not MXNet.
_PREDICT = """
import sys, numpy, torch
for folder in sys.argv[2:]:
    module = torch.export.load(folder + "/net.pt2").module()
    for count in (1, 5, 2):
        images = torch.from_numpy(numpy.load(f"{folder}/images{count}.npy"))
        numpy.save(f"{folder}/logits{count}.npy", module(images).detach())
assert "graph" not in sys.modules
"""
_TRAIN = """
import sys
sys.modules["mxnet"] = None
sys.path.insert(0, sys.argv[1])
import numpy, torch
from graph.graph import load
from graph.pytorch import to_pytorch
for folder in sys.argv[2:]:
    graph, arrays = load(folder + "/net.safetensors")
    module = to_pytorch(graph, arrays=arrays).eval()
    for count in (1, 5, 2):
        images = torch.from_numpy(numpy.load(f"{folder}/images{count}.npy"))
        numpy.save(f"{folder}/logits{count}.npy", module(images).detach())
    module.train()(images).sum().backward()
    assert all(each.grad is not None for each in module.parameters())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder, network) for each: its .params, and what is exported from them."""
    found = []
    for description in NETWORKS:
        folder = tmp_path_factory.mktemp("exported")
        net = random_network(description)
        net.save_parameters(str(folder / "net.params"))
        (folder / "net.json").write_text(json.dumps(description))
        assert export.main(["--params", str(folder / "net.params"), "--format", "pytorch"]) == 0
        for shape in ((1, 64, 64), (5, 64, 64), (2, 70, 77)):
            x = np.random.default_rng(1).normal(size=(shape[0], 3, *shape[1:])).astype(np.float32)
            np.save(folder / f"images{shape[0]}.npy", x)
        found.append((folder, net))
    return found


@pytest.mark.parametrize("code", [_PREDICT, _TRAIN], ids=["pt2", "safetensors"])
def test_both_files_give_mxnet_s_logits_without_mxnet(exported, code, tmp_path):
    subprocess.run([sys.executable, "-c", code, str(ROOT) if code is _TRAIN else "",
                    *(folder for folder, _ in exported)], cwd=tmp_path, check=True, timeout=120)
    for folder, net in exported:
        for count in (1, 5, 2):
            expected = net(mx.nd.array(np.load(folder / f"images{count}.npy"))).asnumpy()
            found = np.load(folder / f"logits{count}.npy")
            assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_weights_are_those_of_the_params_file(exported):
    for folder, _ in exported:
        content = (folder / "net.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8:8 + length])
        arrays = read_params(folder / "net.params")
        assert header.keys() - {"__metadata__"} == arrays.keys()
        for name, array in arrays.items():
            start, end = header[name]["data_offsets"]
            assert content[8 + length + start:8 + length + end] == array.tobytes()


def test_five_lines_say_what_the_files_are(exported):
    lines = (exported[0][0] / "net.README.txt").read_text().splitlines()
    assert len(lines) == 5
    for line, words in zip(lines, (["torch.export.load('net.pt2')"], ["load('net.safetensors')"],
                                   ["(N, 3, 64, 64)", "(N, 10)", "of this and other sizes"],
                                   CIFAR["mean"] + CIFAR["std"], CIFAR["class_names"])):
        assert all(str(word) in line for word in words), line


def test_the_size_of_images_is_named_where_it_is_fixed(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, in_channels=3), nn.Dense(7, in_units=4 * 6 * 5))
    net.initialize()
    paths = [tmp_path / f"net{ending}" for ending in _ENDINGS]
    for write in writers(trace(net, (3, 8, 7)), read_arrays(net), {"dataset": {"outputs": 7}},
                         paths):
        write()
    lines = paths[2].read_text().splitlines()
    assert "(N, 3, 8, 7) float32, RGB, of this size only; logits: (N, 7)" in lines[2]
    assert "not known" in lines[3] and "not known" in lines[4]
    program = torch.export.load(paths[1]).module()
    assert program(torch.zeros(5, 3, 8, 7)).shape == (5, 7)
    with pytest.raises(AssertionError, match="== 8"):
        program(torch.zeros(5, 3, 9, 7))


@pytest.mark.parametrize("fails, sizes", [("any size", "of this size only"), ("all", None)])
def test_what_pytorch_cannot_export_is_one_line(fails, sizes, tmp_path, monkeypatch):
    export_program = torch.export.export

    def fail(module, images, dynamic_shapes):
        if fails == "all" or 2 in dynamic_shapes[0]:
            raise RuntimeError("aten.sort has no rule\nand much more")
        return export_program(module, images, dynamic_shapes=dynamic_shapes)

    monkeypatch.setattr(torch.export, "export", fail)
    argv = ["--params", _RELEASED, "--format", "pytorch", "--output", str(tmp_path / "net")]
    if sizes:
        assert export.main(argv) == 0
        assert sizes in (tmp_path / "net.README.txt").read_text()
        return
    with pytest.raises(UserError, match=r"cannot write this network: aten.sort has no rule$"):
        export.main(argv)
    assert not list(tmp_path.iterdir())


def test_the_check_compares_and_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0.02)
    argv = ["--pretrained", "cifar10-chaatac-b1", "--format", "pytorch", "--check",
            "--data-dir", str(drawn_cifar(tmp_path / "images", train=64, test=150)),
            "--output", str(tmp_path / "net.pt2"), "--limit-test", "64"]
    assert export.main(argv) == 0
    out = capsys.readouterr().out
    assert "64 test images" in out and "PyTorch .pt2 " in out and "PyTorch .safetensors " in out
    losses = [float(word) for word in out.splitlines()[-1].rpartition("losses ")[2].split(", ")]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert {path.name for path in tmp_path.iterdir()} == {"images", *(
        f"net{ending}" for ending in _ENDINGS)}


@pytest.mark.parametrize("weight, rate, losses", [(np.nan, 0.01, ".nan"), (0.1, 0.0, ".[0-9]")])
def test_what_does_not_train_is_named(weight, rate, losses, tmp_path, monkeypatch):
    monkeypatch.setattr(pytorch_file, "_RATE", rate)
    net = randomise(build(NETWORKS[0], 10))
    net.output.weight.set_data(mx.nd.full(net.output.weight.shape, weight))
    save(tmp_path / "net", trace(net, (3, 32, 32)), read_arrays(net))
    with pytest.raises(UserError, match=f"net does not train: its losses are {losses}"):
        check_training(tmp_path / "net", np.ones((2, 3, 32, 32), np.float32), np.array([0, 1]))


def test_nothing_is_replaced_unasked(tmp_path):
    argv = ["--params", _RELEASED, "--format", "pytorch", "--output",
            str(tmp_path / "net")]
    (tmp_path / "net.pt2").write_text("mine")
    with pytest.raises(UserError, match="net.pt2 exists; give --overwrite"):
        export.main(argv)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    assert export.main([*argv, "--overwrite"]) == 0
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("largest, full", [(20_000, "safetensors"), (400_000, "pt2")])
def test_a_full_disk_is_one_line_and_leaves_whole_files(tmp_path, largest, full):
    """A limit on the size of files stands for it: of the weights, then of the program."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write .*net.{full}: File too large"):
            export.main(["--params", _RELEASED, "--format", "pytorch", "--output",
                         str(tmp_path / "net")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in tmp_path.iterdir()} == (
        set() if largest == 20_000 else {"net.safetensors"})
