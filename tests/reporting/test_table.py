import csv
import io
import json

import numpy as np
import pytest

from common.errors import UserError
from reporting import table
from reporting.runs import configurations, load_runs
from tests.reporting.run_folders import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return load_runs([write_run(root, f"{unit}-b{blocks}-{seed}", seed, accuracy, 4, unit, blocks)
                      for unit, accuracy in (("relu", 0.7), ("ChaATAC", 0.75))
                      for blocks in (1, 2) for seed in range(3)], print)


@pytest.fixture(scope="module")
def compared(runs):
    return configurations(runs)


def _column(made, name):
    names = [header.lstrip("<") for header in made.header]
    return [row[names.index(name)] for row in made.rows]


def _read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_cost_is_counted(runs):
    size = table.cost(runs[0])
    assert size == (77850, 12501632)


def test_a_row_a_run(runs, compared):
    made = table.run_table(runs, compared)
    assert _column(made, "run") == [run.name for run in runs]
    assert _column(made, "seed") == ["0", "1", "2"] * 4
    assert _column(made, "best epoch") == [str(run.best["epoch"] + 1) for run in runs]
    assert _column(made, "last: accuracy % train / test") == [
        f"{100 * run.last['train_accuracy']:.2f} / {100 * run.last['val_accuracy']:.2f}"
        for run in runs]
    assert _column(made, "best: loss train / test") == [
        f"{run.best['train_loss']:.4f} / {run.best['val_loss']:.4f}" for run in runs]
    assert _column(made, "parameters")[:3] == ["77,850"] * 3


def test_means_equal_numpy(runs, compared):
    made = table.configuration_table(compared)
    for each, shown in zip(compared, _column(made, "last: test accuracy %")):
        values = [100 * run.last["val_accuracy"] for run in each.runs]
        assert shown == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert _column(made, "n") == ["3"] * 4
    for row, each in zip(_read(table.configuration_csv(compared)), compared):
        for which in ("last", "best"):
            values = [getattr(run, which)["val_loss"] for run in each.runs]
            assert float(row[f"{which}_val_loss_mean"]) == pytest.approx(np.mean(values), 1e-12)
            assert float(row[f"{which}_val_loss_deviation"]) == pytest.approx(
                np.std(values, ddof=1), 1e-12)


def test_csv_of_runs_keeps_every_bit(runs, compared):
    for row, run in zip(_read(table.run_csv(runs, compared)), runs):
        assert float(row["last_val_accuracy"]) == run.last["val_accuracy"]
        assert float(row["best_train_loss"]) == run.best["train_loss"]
        assert int(row["num_params"]) == table.cost(run).num_params


def test_units_are_compared_with_their_like(compared):
    made = table.difference_table(compared, "RELU")
    assert _column(made, "network") == ["resnet_v2_cifar b=1", "resnet_v2_cifar b=2"]
    assert _column(made, "units") == ["ChaATAC"] * 2
    for row, (ours, theirs) in zip(_read(table.difference_csv(compared, "relu")),
                                   zip(compared[2:], compared[:2])):
        differences = [a.last["val_accuracy"] - b.last["val_accuracy"]
                       for a, b in zip(ours.runs, theirs.runs)]
        assert float(row["last_difference"]) == pytest.approx(np.mean(differences), 1e-12)
        assert float(row["last_half_width_95"]) == pytest.approx(
            4.302652729911275 * np.std(differences, ddof=1) / np.sqrt(3), 1e-9)


def test_a_run_as_baseline_is_that_of_all(compared):
    made = table.difference_table(compared, "relu-b1-2")
    assert len(made.rows) == 3
    assert _column(made, "against")[0] == "resnet_v2_cifar b=1 relu"


def test_unknown_baseline(compared):
    with pytest.raises(UserError, match="units are relu, ChaATAC"):
        table.difference_table(compared, "gelu")


def test_runs_of_one_seed_are_one_pair(tmp_path):
    made = [write_run(tmp_path, "base", 0),
            *(write_run(tmp_path, f"random-{r}", 0, 0.7 + r / 50, activation="ChaATAC",
                        reduction=r, params=False) for r in (1, 2))]
    runs = load_runs(made, print)
    row, = _read(table.difference_csv(configurations(runs, [("random", "random-*")]), "relu"))
    a, b, c = (run.last["val_accuracy"] for run in runs)
    assert row["pairs"] == "1"
    assert float(row["last_difference"]) == pytest.approx((b + c) / 2 - a, 1e-12)


def test_no_common_seed_and_one_pair(tmp_path):
    made = [write_run(tmp_path, "relu", 0), write_run(tmp_path, "swish", 5, activation="swish"),
            write_run(tmp_path, "mish", 0, activation="mish")]
    shown = table.difference_table(configurations(load_runs(made, print)), "relu")
    assert _column(shown, "last: difference")[0] == "no common seed"
    assert _column(shown, "pairs") == ["0", "1"]
    assert not any("interval" in name for name in shown.header)


def test_validation_runs_show_test_accuracies_too(tmp_path):
    folder = write_run(tmp_path, "one")
    result = json.loads((folder / "result.json").read_text())
    result.update(val_name="validation",
                  test={"last": {"accuracy": 0.5}, "best": {"accuracy": 0.625}})
    (folder / "result.json").write_text(json.dumps(result))
    runs = load_runs([folder], print)
    made = table.run_table(runs, configurations(runs))
    assert _column(made, "last: test accuracy %") == ["50.00"]
    assert _column(made, "best: test accuracy %") == ["62.50"]
    assert "last: accuracy % train / validation" in made.header
    assert "chosen by the images" not in made.notes[0]


def test_a_network_that_cannot_be_built_is_shown_without_figures(tmp_path):
    runs = load_runs([write_run(tmp_path, "one"), write_run(tmp_path, "two")], print)
    path = tmp_path / "params/two/last.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "nothing"}))
    runs = load_runs([run.folder for run in runs], print)
    assert table.cost(runs[1]) == (None, None)
    assert _column(table.run_table(runs, configurations(runs)), "parameters")[1] == "–"


def test_markdown_is_aligned_and_escaped():
    made = table.Table("T|1", ["<name", "value"], [["a|b<i>", "1"], ["c", "22.5"]], ["note"])
    assert table.to_markdown(made) == (
        "## T\\|1\n\n"
        "| name     | value |\n"
        "| -------- | ----: |\n"
        "| a\\|b\\<i> |     1 |\n"
        "| c        |  22.5 |\n\n- note\n")


def test_a_run_s_name_is_no_formula_and_no_link(tmp_path):
    folder = write_run(tmp_path, "=1+1 [x](https:evil) \x1b[31m")
    runs = load_runs([folder], print)
    made = configurations(runs)
    row, = _read(table.run_csv(runs, made))
    assert row["run"] == r"'=1+1 [x](https:evil) \x1b[31m"
    assert r"=1+1 [x]\(https:evil) \\x1b[31m" in table.to_markdown(table.run_table(runs, made))
    row, = _read(table.configuration_csv(configurations(runs, [("@SUM(A1)", "*")])))
    assert row["network"] == "'@SUM(A1)" or row["units"] == "'@SUM(A1)"


def _chosen_by_validation(folder, accuracy):
    result = json.loads((folder / "result.json").read_text())
    result.update(val_name="validation")
    if accuracy:
        result.update(test={which: {"accuracy": accuracy} for which in ("last", "best")})
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_differences_are_of_the_test_images_where_they_are_known(tmp_path):
    made = [write_run(tmp_path, "relu"), _chosen_by_validation(
        write_run(tmp_path, "swish", activation="swish"), 0.5)]
    runs = load_runs(made, print)
    row, = _read(table.difference_csv(configurations(runs), "relu"))
    assert float(row["last_difference"]) == pytest.approx(0.5 - runs[0].last["val_accuracy"])


def test_accuracies_on_other_images_are_no_difference(tmp_path):
    made = [write_run(tmp_path, "relu"), _chosen_by_validation(
        write_run(tmp_path, "swish", activation="swish"), None)]
    compared = configurations(load_runs(made, print))
    assert _read(table.difference_csv(compared, "relu")) == []
    shown = table.difference_table(compared, "relu")
    assert shown.rows == [] and "test or validation images" in shown.notes[-1]
