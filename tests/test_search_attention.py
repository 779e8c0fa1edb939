"""search_attention.py, and train_cifar.py --structure, run as a user runs them."""
import csv
import json
import shlex

import pytest

import search_attention
import train_cifar
from common.errors import UserError
from data import DataError
from model.structure import OPERATIONS, SEARCHED, Structure, derive
from model.zoo import build
from runs.describe import describe, load_structure
from tests import scripts

_OPERATIONS = ("CA(+)SA", "identity", "SA(+)CA", "CA", "SA", "CA||SA", "CA(+)SA", "identity")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scripts.drawn_cifar(tmp_path_factory.mktemp("cifar-files"), train=128, test=32)


def _options(files, *more):
    return ("--dataset", "cifar10", "--data-dir", files, "--width", 0.03, "--batch-size", 16,
            "--warmup-epochs", 1, "--search-epochs", 2, "--num-gpus", 0, "--lr", 0.02, *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("finished")
    result = scripts.run("search_attention.py", *_options(files, "--name", "found"), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def _alphas(folder):
    with open(folder / "alphas.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def _structure_file(folder, **changes):
    content = Structure("resnet18", "CBAM", _OPERATIONS, {"kernel_size": 5}).content()
    path = folder / "structure.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_a_search_leaves_alphas_structure_metrics_and_figure(finished):
    folder, result = finished
    logs = folder / "logs/found"
    assert {p.name for p in logs.iterdir()} - {".lock"} == {
        "config.json", "train.log", "metrics.csv", "curves.png", "alphas.csv", "structure.json",
        "structure.png"}
    rows = _alphas(logs)
    assert [(row["epoch"], row["block"]) for row in rows] == [
        (str(epoch), str(block)) for epoch in range(3) for block in range(8)]
    structure = load_structure(logs / "structure.json")
    assert structure.operations == tuple(
        derive([float(row[name]) for name in SEARCHED]) for row in rows[-8:])
    assert (structure.network, structure.kind) == ("resnet18", "CBAM")
    assert structure.search["warmup_epochs"] == 1 and len(structure.search["weights"]) == 8
    assert result.stdout.count("[Epoch") == 3
    # Known to be good: what the tests below compare a search with is this one.
    assert [float(row["train_loss"]) for row in scripts.metrics(logs)] == pytest.approx(
        [2.707, 2.532, 2.401], rel=5e-3)
    assert "block     identity     CA(+)SA     SA(+)CA          CA          SA  derived" in (
        result.stdout)


def test_what_it_found_can_be_trained_and_evaluated(finished, files):
    """By the command that the search prints."""
    folder, result = finished
    line = next(line for line in result.stdout.splitlines() if line.startswith("train it:"))
    script, *arguments = line.split("python ")[1].split()
    trained = scripts.run(script, *arguments, "--num-epochs", 1, "--batch-size", 16, "--name",
                          "derived", "--num-gpus", 0, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    beside = json.loads((folder / "params/derived/last.json").read_text())
    assert beside["options"]["structure"]["operations"] == list(
        load_structure(folder / "logs/found/structure.json").operations)
    assert beside["options"]["width"] == 0.03
    (folder / "logs/found/structure.json").rename(folder / "moved.json")    # no longer needed
    scored = scripts.run("evaluate.py", "--params", "params/derived/last.params", "--data-dir",
                         files, "--num-gpus", 0, cwd=folder)
    (folder / "moved.json").rename(folder / "logs/found/structure.json")
    assert scored.returncode == 0, scored.stderr
    assert "32 images" in scored.stdout


@pytest.mark.parametrize("given", [
    ["--reduction", "8"], ["--stem", "conv7", "--no-use-relu", "--act-type", "ChaATAC"],
    ["--spatial-kernel", "5", "--attention", "MVAM"],
    ["--act-type", "SeqATAC", "--reduction", "4", "--attn-reduction", "2", "--act-layers", "2"],
], ids=" ".join)
def test_the_printed_command_trains_the_network_that_was_searched(given, tmp_path, monkeypatch,
                                                                  capsys):
    monkeypatch.chdir(tmp_path)
    assert search_attention.main(["--random", "--width", "0.03", "--log-dir", "my logs",
                                  "--name", "a", *given]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "train it:" in line)
    script, *arguments = shlex.split(line.split("python ")[1])
    trained = _describe(*arguments)["options"]
    searched = _describe("--model", "resnet18", "--attention", "CBAM", "--width", 0.03,
                         *given)["options"]
    structure = trained.pop("structure")
    assert script == "train_cifar.py"
    assert structure["unit_options"] == searched.pop("attn_options", {})
    assert structure["kind"] == searched.pop("attention") and trained == searched


def test_killed_and_resumed_it_ends_with_the_same_bits(finished, files, tmp_path):
    folder, _ = finished
    process = scripts.start("search_attention.py", *_options(
        files, "--name", "found", "--checkpoint-every", 3), cwd=tmp_path, log=tmp_path / "out")
    target = tmp_path / "params/found/checkpoints/step-000000014"    # epoch 1, step 6 of 8
    scripts.wait_for(target.exists, process, tmp_path / "out")
    process.kill()
    process.wait()
    assert target.exists(), (tmp_path / "out").read_text()
    resumed = scripts.run("search_attention.py", "--resume", "logs/found", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stdout
    assert ((tmp_path / "logs/found/alphas.csv").read_bytes()
            == (folder / "logs/found/alphas.csv").read_bytes())
    first, second = (json.loads((where / "logs/found/structure.json").read_text())
                     for where in (folder, tmp_path))
    assert first["operations"] == second["operations"]
    assert first["search"]["weights"] == second["search"]["weights"]


def test_a_held_out_part(files, tmp_path):
    result = scripts.run(
        "search_attention.py", "--dataset", "cifar10", "--data-dir", files, "--batch-size", 16,
        "--warmup-epochs", 0, "--search-epochs", 1, "--num-gpus", 0, "--alpha-split", 0.5,
        "--attention", "MVAM", "--model", "resnet_v2_cifar", "--blocks", 1, "--penalty-weight", 0,
        "--spatial-kernel", 5, "--name", "held", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    structure = load_structure(tmp_path / "logs/held/structure.json")
    assert (structure.network, structure.kind) == ("resnet_v2_cifar", "MVAM")
    assert structure.unit_options == {"kernel_size": 5} and len(structure.operations) == 3


def test_a_random_structure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert search_attention.main(["--random", "--seed", str(seed), "--name", name]) == 0
        found.append(load_structure(f"logs/{name}/structure.json"))
    assert found[0].operations == found[1].operations != found[2].operations
    assert len(found[0].operations) == 8 and set(found[0].operations) <= set(OPERATIONS)
    assert found[0].search["random"] is True


# ---- the derived network -------------------------------------------------------------------------

def _describe(*arguments):
    return describe(train_cifar.make_parser().parse_args(list(map(str, arguments))))


def test_only_the_chosen_operations_exist(tmp_path):
    description = _describe("--model", "resnet18", "--width", 0.1, "--structure",
                            _structure_file(tmp_path))
    net = build(json.loads(json.dumps(description)), 10)
    stages = [block for stage in list(net.features)[3:7] for block in stage]
    units = [type(block.attn).__name__ for block in stages]
    assert units == ["CBAM", "NoneType", "CBAM", "ChannelAttention", "SpatialAttention",
                     "ParallelAttention", "CBAM", "NoneType"]
    assert stages[0].attn.spatial.conv.weight.shape[2:] == (5, 5)


_STRUCTURE_ERRORS = [
    ({"network": "resnet34"}, [], "the structure is for resnet34, not for resnet18"),
    ({"operations": ["CA"] * 7}, [], "the structure has 7 rows, but resnet18 has 8 blocks"),
    ({"operations": ["CA"] * 7 + ["CB"]}, [], "unknown operation 'CB'"),
    ({"kind": "ZAM"}, [], "kind must be one of CBAM, MVAM"),
    ({"format": "other"}, [], "not a structure file"),
    ({}, ["--attention", "SE"], "give it or --attention"),
    ({}, ["--attention-at", "identity"], "goes to the slot 'block' only"),
    ({"network": "resnet18_v1b"}, ["--model", "resnet18_v1b"],
     "--structure has no meaning for resnet18_v1b"),
]


@pytest.mark.parametrize("changes, arguments, message", _STRUCTURE_ERRORS)
def test_a_structure_that_does_not_fit(changes, arguments, message, tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _structure_file(tmp_path, **changes)
    with pytest.raises((UserError, DataError)) as caught:
        train_cifar.main(["--data-dir", str(files), "--model", "resnet18", "--structure",
                          str(path), "--num-gpus", "0", *arguments])
    assert message in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_structure_errors_are_one_line(tmp_path):
    result = scripts.run("train_cifar.py", "--model", "resnet18", "--structure", "none.json",
                         cwd=tmp_path)
    scripts.assert_user_error(result, "none.json", "No such file")


def test_another_order_is_another_network(tmp_path, files):
    """CA(+)SA and SA(+)CA have the same parameters: a resumed run must still tell them apart."""
    path = _structure_file(tmp_path)
    options = ("--model", "resnet18", "--width", 0.03, "--data-dir", files, "--batch-size", 64,
               "--num-epochs", 1, "--num-gpus", 0, "--structure", path, "--name", "run")
    result = scripts.run("train_cifar.py", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    _structure_file(tmp_path, operations=["SA(+)CA", *_OPERATIONS[1:]])
    result = scripts.run("train_cifar.py", "--resume", "logs/run", cwd=tmp_path)
    scripts.assert_user_error(result, "trains another network")


# ---- errors of the search ------------------------------------------------------------------------

_ERRORS = [
    (["--attention", "SE"], "a structure is made of CBAM or MVAM, not of SE"),
    (["--attention", "CBUM"], "unknown attention 'CBUM'"),
    (["--model", "resnet18_v1b"], "--width has no meaning for resnet18_v1b"),
    (["--model", "resnet_v3"], "unknown network 'resnet_v3'"),
    (["--attention-at", "classifier"], "for the slots 'block' only"),
    (["--penalty-ratio", "1,2"], "takes 5 numbers, not 2"),
    (["--penalty-ratio", "1,2,x,4,5"], "--penalty-ratio"),
    (["--alpha-split", "1"], "--alpha-split: must be a number from 0 to less than 1"),
    (["--alpha-split", "0.99"], "do not fill one batch"),
    (["--alpha-split", "0.001"], "of 128 training images is none of them"),
    (["--batch-size", "128"], "every second one is the structure's"),
    (["--resume", "--overwrite"], "choose one"),
    (["--random", "--spatial-kernel", "4"], "kernel_size must be odd"),
    (["--search-epochs", "0"], "--search-epochs: must be a whole number from 1"),
    (["--dtype", "float16"], "a search is made in float32"),
    (["--config", "none.json"], "none.json"),
    (["--resume", "logs/none"], "no run is there"),
    (["--save-period", "1"], "unrecognized arguments"),
]


@pytest.mark.parametrize("arguments, message", _ERRORS, ids=lambda v: " ".join(v)[:30]
                         if isinstance(v, list) else "")
def test_bad_input_is_one_line_before_anything_is_written(arguments, message, files, tmp_path,
                                                          monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset", "cifar10", "--data-dir", str(files), "--num-gpus", "0",
            "--batch-size", "16", "--width", "0.03", *arguments]
    with pytest.raises((UserError, DataError)) as caught:
        search_attention.main(argv)
    assert message in str(caught.value)
    assert not any((tmp_path / folder).exists() for folder in ("params", "logs"))


def test_help_imports_nothing_heavy(tmp_path):
    result = scripts.run("search_attention.py", "--help", cwd=tmp_path,
                         PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0 and "usage: search_attention.py" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"mxnet", "numpy", "matplotlib", "gluoncv"}
