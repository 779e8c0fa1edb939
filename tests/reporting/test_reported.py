"""What compare.py writes of known runs: every figure, in tables, CSV files and drawn lines.

Of each run, the best epoch is neither the last nor the one of highest training accuracy, speeds
have a median that is not their mean, and seeds differ: whichever figure stands in another's place
shows.
"""
import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import compare
from tests.reporting.run_folders import write_run
from training import history

EPOCHS, BEST = 5, 2


def _rows(accuracy):
    """Five epochs: the third is the best one, the last has the highest training accuracy."""
    reached = [accuracy - 0.3, accuracy - 0.1, accuracy, accuracy - 0.05, accuracy - 0.02]
    return [{"train_loss": 2 - 0.3 * epoch + accuracy, "train_accuracy": 0.5 + 0.1 * epoch,
             "val_loss": 3 - 0.4 * epoch - accuracy, "val_accuracy": value,
             "images_per_s": speed, "seconds": 60.0 * (epoch + 1)}
            for epoch, (value, speed) in enumerate(zip(reached, (50, 1000, 900, 1100, 9000)))]


# Accuracy of each seed at the best epoch; with two blocks ReLU has the higher ones.
RUNS = {("relu", 1): (0.60, 0.61, 0.65), ("relu", 2): (0.70, 0.74, 0.71),
        ("ChaATAC", 1): (0.63, 0.66, 0.66), ("ChaATAC", 2): (0.66, 0.71, 0.70)}


@pytest.fixture(scope="module")
def drawn():
    """The figures that are drawn, by the name of their file."""
    figures, savefig = {}, Figure.savefig

    def save(self, path, *arguments, **options):
        name = next(name for name in ("curves", "depths", "own") if name in Path(path).name)
        figures[name] = self
        return savefig(self, path, *arguments, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield figures


@pytest.fixture(scope="module")
def report(tmp_path_factory, drawn):
    """The folder that compare.py writes about all runs, with ReLU as the baseline; the figures."""
    root = tmp_path_factory.mktemp("runs")
    folders = [write_run(root, f"{unit}-b{blocks}-{seed}", seed, activation=unit, blocks=blocks,
                         rows=_rows(accuracy))
               for (unit, blocks), values in RUNS.items() for seed, accuracy in enumerate(values)]
    assert compare.main(["--runs", *map(str, folders), "--baseline", "relu", "--out",
                         str(root / "out")]) == 0
    return root / "out", dict(drawn)


def _csv(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def _markdown(path, title):
    """The rows of one of the tables, text by column."""
    part = path.read_text().split(f"## {title}")[1].split("\n## ")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                        for line in part.splitlines() if line.startswith("|")]
    return [dict(zip(header, row)) for row in rows]


def test_the_csv_of_runs(report):
    rows = _csv(report[0] / "runs.csv")
    expected = [(unit, blocks, seed, _rows(accuracy)) for (unit, blocks), values in RUNS.items()
                for seed, accuracy in enumerate(values)]
    assert len(rows) == len(expected)
    for row, (unit, blocks, seed, epochs) in zip(rows, expected):
        assert (row["run"], row["units"], row["seed"]) == (f"{unit}-b{blocks}-{seed}", unit,
                                                          str(seed))
        assert (row["epochs"], row["val_name"], row["last_epoch"], row["best_epoch"]) == (
            "5", "test", "4", "2")
        assert float(row["images_per_s"]) == 1000 and float(row["minutes"]) == 15
        for which, epoch in (("last", 4), ("best", BEST)):
            for figure in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
                assert float(row[f"{which}_{figure}"]) == epochs[epoch][figure], (which, figure)


def test_the_table_of_runs(report):
    rows = _markdown(report[0] / "table.md", "Runs")
    row, epochs = rows[4], _rows(0.74)
    assert row["run"] == "relu-b2-1" and row["network"] == "resnet_v2_cifar b=2"
    assert (row["best epoch"], row["images/s"], row["epochs"], row["seed"]) == (
        "3", "1,000", "5", "1")
    for which, epoch in (("last", epochs[4]), ("best", epochs[BEST])):
        assert row[f"{which}: loss train / test"] == (
            f"{epoch['train_loss']:.4f} / {epoch['val_loss']:.4f}")
        assert row[f"{which}: accuracy % train / test"] == (
            f"{100 * epoch['train_accuracy']:.2f} / {100 * epoch['val_accuracy']:.2f}")


def test_means_over_seeds(report):
    shown = _markdown(report[0] / "table.md", "Configurations")
    rows = _csv(report[0] / "configurations.csv")
    for (unit, _), values, row, cells in zip(RUNS, RUNS.values(), rows, shown):
        assert (row["units"], row["n"], row["seeds"]) == (unit, "3", "0 1 2")
        runs = [_rows(value) for value in values]
        for which, epoch in (("last", 4), ("best", BEST)):
            for figure in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
                found = [run[epoch][figure] for run in runs]
                assert float(row[f"{which}_{figure}_mean"]) == pytest.approx(np.mean(found))
                assert float(row[f"{which}_{figure}_deviation"]) == pytest.approx(
                    np.std(found, ddof=1), abs=1e-12)
            percents = [100 * run[epoch]["val_accuracy"] for run in runs]
            assert cells[f"{which}: test accuracy %"] == (
                f"{np.mean(percents):.2f} ± {np.std(percents, ddof=1):.2f}")
        lasts = [100 * run[4]["val_accuracy"] for run in runs]
        losses = [run[4]["val_loss"] for run in runs]
        assert cells["by seed"] == ", ".join(
            f"{seed}: {value:.2f}" for seed, value in enumerate(lasts))
        assert cells["highest"] == f"{max(lasts):.2f}"
        assert cells["last: test loss"] == (
            f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}")
        assert (cells["minutes"], cells["epochs"]) == ("15.0 ± 0.0", "5")


def test_differences_are_ours_less_the_baseline_s(report):
    """An accuracy that is lower has a negative difference; pairs have the same seed."""
    rows, shown = (_csv(report[0] / "differences.csv"),
                   _markdown(report[0] / "table.md", "Differences to relu"))
    assert [row["network"] for row in rows] == ["resnet_v2_cifar b=1", "resnet_v2_cifar b=2"]
    for blocks, row, cells in zip((1, 2), rows, shown):
        pairs = np.subtract(RUNS["ChaATAC", blocks], RUNS["relu", blocks])
        value, half = pairs.mean(), 4.302652729911275 * pairs.std(ddof=1) / 3 ** 0.5
        assert (row["units"], row["against"], row["pairs"]) == ("ChaATAC", "relu", "3")
        for which in ("last", "best"):    # the same offset in each run
            assert float(row[f"{which}_difference"]) == pytest.approx(value, abs=1e-12)
            assert float(row[f"{which}_half_width_95"]) == pytest.approx(half, rel=1e-9)
            assert cells[f"{which}: difference"] == f"{100 * value:+.2f}"
            assert cells[f"{which}: 95 % interval"] == (
                f"{100 * (value - half):+.2f} to {100 * (value + half):+.2f}")


def test_a_lower_accuracy_is_a_negative_difference(tmp_path):
    worse = [{**row, "val_accuracy": row["val_accuracy"] - 0.04 * (epoch == 4)
              - 0.01 * (epoch == BEST)} for epoch, row in enumerate(_rows(0.6))]
    folders = [write_run(tmp_path, unit, activation=unit, rows=rows)
               for unit, rows in (("relu", _rows(0.6)), ("swish", worse))]
    compare.main(["--runs", *map(str, folders), "--baseline", "relu", "--out",
                  str(tmp_path / "out")])
    row, = _csv(tmp_path / "out/differences.csv")
    assert float(row["last_difference"]) == pytest.approx(-0.04)
    assert float(row["best_difference"]) == pytest.approx(-0.01)
    shown, = _markdown(tmp_path / "out/table.md", "Differences to relu")
    assert (shown["last: difference"], shown["best: difference"]) == ("-4.00", "-1.00")


def test_lines_of_the_curves(report):
    """Error in percent and loss of each epoch, counted from 1: means, and bands to the extremes."""
    error, loss = report[1]["curves"].axes
    assert (error.get_ylabel(), loss.get_ylabel()) == ("test error (%)", "test cross-entropy")
    panels = ((error, lambda row: 100 * (1 - row["val_accuracy"])),
              (loss, lambda row: row["val_loss"]))
    for axes, figure in panels:
        assert len(axes.lines) == len(axes.collections) == len(RUNS)
        for line, band, values in zip(axes.lines, axes.collections, RUNS.values()):
            curves = np.array([[figure(row) for row in _rows(value)] for value in values])
            assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
            np.testing.assert_allclose(line.get_ydata(), curves.mean(axis=0))
            corners = band.get_paths()[0].vertices
            for epoch in range(EPOCHS):
                at = corners[corners[:, 0] == epoch + 1, 1]
                assert (at.min(), at.max()) == pytest.approx(
                    (curves[:, epoch].min(), curves[:, epoch].max()))
    names = [text.get_text() for text in report[1]["curves"].legends[0].get_texts()]
    assert names == [f"resnet_v2_cifar b={blocks} {unit}, 3 seeds" for unit, blocks in RUNS]


def test_points_of_the_depths(report):
    """Accuracy at the last epoch, its mean and deviation, against the blocks."""
    axes, = report[1]["depths"].axes
    assert axes.get_ylabel() == "test accuracy, last epoch (%)"
    assert list(axes.get_xticks()) == [1, 2]
    names = [text.get_text() for text in report[1]["depths"].legends[0].get_texts()]
    assert names == ["relu", "ChaATAC"]
    for unit, (line, _, bars) in zip(names, axes.containers):
        lasts = 100 * np.array([[_rows(value)[4]["val_accuracy"] for value in RUNS[unit, blocks]]
                                for blocks in (1, 2)])
        assert list(line.get_xdata()) == pytest.approx([1, 2], abs=0.1)
        assert list(line.get_ydata()) == pytest.approx(lasts.mean(axis=1))
        for segment, values in zip(bars[0].get_segments(), lasts):
            half = values.std(ddof=1)
            assert list(segment[:, 1]) == pytest.approx([values.mean() - half,
                                                         values.mean() + half])


def test_a_run_s_own_curves_and_summary(tmp_path, drawn, capsys):
    folder, rows = write_run(tmp_path, "one", rows=_rows(0.7)), _rows(0.7)
    assert history.main([str(folder), "--out", str(tmp_path / "own.png")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5 epochs", "best: epoch 3, validation error 30.00 %",
        "last: epoch 5, validation error 32.00 %"]
    error, loss = drawn["own"].axes
    assert (error.get_ylabel(), loss.get_ylabel()) == ("error (%)", "cross-entropy")
    for axes, column, function in ((error, "accuracy", lambda value: 100 * (1 - value)),
                                   (loss, "loss", lambda value: value)):
        lines = {line.get_label(): line for line in axes.lines}
        for label, part in (("training", "train"), ("validation", "val")):
            assert list(lines[label].get_xdata()) == [1, 2, 3, 4, 5]
            np.testing.assert_allclose(lines[label].get_ydata(),
                                       [function(row[f"{part}_{column}"]) for row in rows])
