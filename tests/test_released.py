"""Released parameters, the logs behind them, and the tables of results made from both."""
import csv
import dataclasses
import re
import shutil
import statistics

import pytest

import evaluate
from common.errors import UserError
from common.files import read_json, sha256
from common.params import check_params
from reporting.means import paired_difference
from runs import evaluation
from runs import released as listed
from tests.scripts import ROOT, assert_user_error, run
from tools import release

_RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
_LOGS = sorted(each.parent for each in (ROOT / "logs").glob("*-seed*/result.json"))
_ABLATIONS = [each.name for each in _LOGS if each.name.startswith("ablations-")
              ] + ["cifar10-ChaATAC-b1-seed0", "cifar10-relu-b1-seed0"]
_LOG_FILES = ("config.json", "metrics.csv", "train.log", "curves.png", "result.json")


def _released(name):
    return next(each for each in listed.RELEASED if each.name == name)


# ---- what is released ---------------------------------------------------------------------------

def test_the_claim_s_networks_are_released():
    names = {released.name for released in listed.RELEASED}
    assert {"cifar10-relu-b1", "cifar10-ChaATAC-b1"} <= names


@pytest.mark.parametrize("released", listed.RELEASED, ids=lambda released: released.name)
def test_a_release_is_small_whole_described_and_has_its_logs(released):
    assert released.size < 2_000_000
    released.verify()
    check_params(released.path)
    description = read_json(released.path.with_suffix(".json"))
    assert (description["model"], description["options"]) == (released.model, released.options)
    assert description["sha256"] == released.sha256
    logs = ROOT / "logs" / released.run
    assert all((logs / name).is_file() for name in _LOG_FILES)
    with open(logs / "metrics.csv", newline="") as stream:
        *_, last = csv.DictReader(stream)
    assert float(last["val_accuracy"]) == released.figures["val_accuracy"]
    assert int(last["epoch"]) == released.figures["epoch"]


def test_a_released_network_scores_exactly_what_is_listed(real_cifar10, tmp_path):
    table = tmp_path / "scores.csv"
    result = run("evaluate.py", "--model", "cifar10-ChaATAC-b1", "--pretrained", "--dataset",
                 "cifar10", "--data-dir", real_cifar10, "--csv", table, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    listed = _released("cifar10-ChaATAC-b1").figures
    assert f"top-1 accuracy {100 * listed['val_accuracy']:.2f} %" in result.stdout
    with open(table, newline="") as stream:
        row, = csv.DictReader(stream)
    assert row["images"] == "10000"
    assert round(10000 * float(row["top1_error"])) == 10000 - round(10000 * listed["val_accuracy"])


def test_all_released_files_are_scored_beside_their_listed_figures(real_cifar10, monkeypatch,
                                                                   capsys):
    released = _released("cifar10-relu-b1")
    monkeypatch.setattr(listed, "RELEASED", [released])
    argv = ["--all-released", "--data-dir", str(real_cifar10)]
    assert evaluate.main(argv) == 0
    figure = f"{100 * released.figures['val_accuracy']:.2f}"
    assert re.search(rf"\| cifar10-relu-b1 .*\| +{figure} \| +{figure} \| 10,000 \|",
                     capsys.readouterr().out)
    monkeypatch.setitem(released.figures, "val_accuracy", 0.9)
    assert evaluate.main(argv) == 1


@pytest.mark.parametrize("data", [[], ["--dataset", "CIFAR10"]])
def test_a_network_s_options_find_its_released_parameters(data):
    options = evaluate.make_parser().parse_args(
        ["--model", "resnet_v2_cifar", "--act-type", "chaatac", "--blocks", "1", "--pretrained",
         *data])
    assert evaluation.find_released(options).name == "cifar10-ChaATAC-b1"


def test_a_released_network_loads_in_one_call():
    from mxnet import nd

    net = listed.load_released("cifar10-relu-b1")
    assert net(nd.zeros((2, 3, 32, 32))).shape == (2, 10)


def test_a_released_network_is_exported_by_name(tmp_path):
    result = run("export.py", "--pretrained", "cifar10-relu-b1", "--format", "mxnet", "--output",
                 tmp_path / "net", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "net-0000.params").is_file()


@pytest.mark.parametrize("argv, words", [
    (["--pretrained"], ["needs a name"]),
    (["--model", "resnet18", "--pretrained"], ["no parameters of this resnet18 on cifar10",
                                               "cifar10-ChaATAC-b1"]),
    (["--all-released", "--model", "resnet18"], ["drop --model"]),
    (["--all-released", "--dataset", "imagenet"], ["nothing that was trained on imagenet"])])
def test_what_is_not_released_is_refused_in_one_line(argv, words, tmp_path):
    assert_user_error(run("evaluate.py", *argv, cwd=tmp_path), *words)


def test_a_folder_of_data_is_of_one_data_set():
    cifar10 = _released("cifar10-relu-b1")
    both = [cifar10, dataclasses.replace(cifar10, dataset="cifar100")]

    def choose(*argv):
        options = evaluate.make_parser().parse_args(["--all-released", *argv])
        return evaluate.choose_released(options, both)

    assert choose() == both
    assert choose("--dataset", "CIFAR10", "--data-dir", "folder") == [cifar10]
    with pytest.raises(UserError, match="cifar10 and cifar100: choose with --dataset"):
        choose("--data-dir", "folder")


# ---- releasing ------------------------------------------------------------------------------

@pytest.fixture
def run_folder(tmp_path):
    """A run's folder below params/ whose last parameters are the released ones."""
    source, folder = _released("cifar10-relu-b1").path, tmp_path / "net-seed3"
    folder.mkdir()
    shutil.copy(source, folder / "last.params")
    shutil.copy(source.with_suffix(".json"), folder / "last.json")
    return folder


def test_a_release_is_listed_with_its_digest_and_figures(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    entry = release.release("net-seed3", *release.check(run_folder))
    released = listed.Released(**entry)
    path = tmp_path / "params" / "net.params"
    assert released.name == "net" and released.run == "net-seed3"
    assert released.sha256 == sha256(path) and released.size == path.stat().st_size
    assert path.with_suffix(".json").is_file()
    assert released.figures == _released("cifar10-relu-b1").figures


def test_the_page_lists_what_is_released():
    """Its links are followed by test_docs.py."""
    entries = [dataclasses.asdict(each) for each in listed.RELEASED]
    assert (ROOT / "docs/released.md").read_text(encoding="utf-8") == release.page(entries)


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: (folder / "last.json").unlink(), "cannot read"),
    (lambda folder: (folder / "last.json").write_text("{"), "is not a JSON file"),
    (lambda folder: (folder / "last.json").write_text("{}"), "does not describe a network"),
    (lambda folder: (folder / "last.json").write_text(
        (folder / "last.json").read_text().replace('"sha256"', '"md5"')), "lacks the SHA-256"),
    (lambda folder: (folder / "last.params").unlink(), "is the run finished"),
    (lambda folder: (folder / "last.params").write_bytes(b"x"), "is damaged"),
    (lambda folder: (folder / "last.json").write_text(
        (folder / "last.json").read_text().replace('"test"', '"validation"')), "not on the test")])
def test_what_must_not_be_released_is_refused(spoil, message, run_folder):
    spoil(run_folder)
    with pytest.raises(UserError, match=message):
        release.check(run_folder)


# ---- the tables of results ------------------------------------------------------------------

@pytest.mark.parametrize("name, argv, tables, of, pictures", [
    ("cifar10", ["--grid", ROOT / "studies/cifar10.json", "--finished"], 2,
     "cifar10-relu-b1-seed0", ["depths.png"]),
    ("cifar100", ["--grid", ROOT / "studies/cifar100.json", "--finished"], 2,
     "cifar100-relu-b1-seed0", []),
    ("ablations", ["--runs", *(f"logs/{name}" for name in _ABLATIONS)], 1,
     "ablations-SeqATAC-seed0", [])])
def test_the_tables_of_results_come_from_the_committed_logs(name, argv, tables, of, pictures,
                                                            tmp_path):
    """From the logs alone, without parameters beside them; byte for byte."""
    for folder in _LOGS:
        shutil.copytree(folder, tmp_path / "logs" / folder.name)
    result = run("compare.py", *argv, "--out", f"reports/{name}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "reports" / name / "table.md").read_text(encoding="utf-8")
    *sections, of_runs = re.split(r"^## .*\n\n", text, flags=re.M)[1:]
    assert len(sections) == tables and of in of_runs
    for section in sections:
        assert section.strip() in _RESULTS
    for picture in pictures:
        assert (tmp_path / "reports" / name / picture).stat().st_size > 10_000


def test_the_published_accuracies_in_docs_are_the_study_s():
    units = {"relu": "ReLU", "ChaATAC": "ATAC, r = 2", "selu": "SELU", "swish": "Swish",
             "xUnitS": "xUnit"}
    for entry in read_json(ROOT / "studies" / "paper.json")["published"]["best"]:
        cells = " | ".join(map(str, entry["accuracy"])) + " |" * (6 - len(entry["blocks"]))
        assert f"| {units[entry['act_type']]} | {cells}\n" in _RESULTS


def test_the_readme_s_table_of_the_paper_s_grid_is_that_of_its_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = {entry["act_type"]: entry["accuracy"][0] for entry
                 in read_json(ROOT / "studies" / "paper.json")["published"]["best"]}
    by_seed = {}
    for unit, title in (("relu", "ReLU"), ("ChaATAC", "ChaATAC")):
        runs = {read_json(path.with_name("config.json"))["seed"]: read_json(path) for path in
                (ROOT / "logs").glob(f"paper-{unit}-b1-num-epochs100-seed*/result.json")}
        by_seed[unit] = [{seed: 100 * run[which]["val_accuracy"] for seed, run in runs.items()}
                         for which in ("last", "best")]
        last, best = (statistics.mean(each.values()) for each in by_seed[unit])
        figures = f"{len(runs)} | {last:.2f} | {best:.2f} | {published[unit]} |"
        assert re.search(rf"\| {title} \| [\d,]+ \| {re.escape(figures)}", readme)
    last, best = map(paired_difference, by_seed["ChaATAC"], by_seed["relu"])
    assert f"| difference | | | {last.value:+.2f} | {best.value:+.2f} |" in readme
    bounds = [f"{each.value - each.half_width:+.2f} to {each.value + each.half_width:+.2f}"
              for each in (last, best)]
    assert f"| its 95 % interval | | | {bounds[0]} | {bounds[1]} | |" in readme
