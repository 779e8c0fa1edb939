"""Published accuracies beside those of finished runs: table and figure, and the studies' files."""
import json

import matplotlib.colors
import matplotlib.image
import pytest

import compare
from common.errors import UserError
from reporting import figures
from reporting.grid import make_cells, prepare, read_grid
from reporting.means import mean
from reporting.published import Published, read_published
from tests import scripts
from tests.reporting.run_folders import write_run

_PAPER = scripts.ROOT / "studies" / "paper.json"
_AUTHORS = {"dataset": "cifar100-authors", "weight_decay": 1e-4, "lr_mode": "step"}


def _write_cell(root, unit, seed, accuracy, blocks=1, num_epochs=100):
    return write_run(root, f"paper-{unit}-b{blocks}-num-epochs{num_epochs}-seed{seed}", seed,
                     accuracy, activation=unit, blocks=blocks, params=False, padding="black",
                     **{**_AUTHORS, "num_epochs": num_epochs})


# ---- what the file holds --------------------------------------------------------------------

def test_the_paper_s_figure_is_at_the_sizes_of_our_networks():
    options, _, published = read_grid(_PAPER)
    found = read_published(published, options, _PAPER)
    assert "YimianDai/open-atac" in found.source
    assert found.points["relu"] == {83_700: 73.7, 180_916: 78.5, 278_132: 79.9, 375_348: 80.6,
                                    472_564: 81.4}
    assert found.points["ChaATAC"][95_428] == 76.4 and len(found.points["ChaATAC"]) == 4
    # 12 a channel, of which the slots of b = 1 have 240.
    assert min(found.points["xUnitS"]) - min(found.points["relu"]) == 12 * 240


@pytest.mark.parametrize("content", [
    [], {"source": "x"}, {"source": "x", "best": [{"act_type": "relu", "blocks": [1]}]},
    {"source": "x", "best": [{"act_type": "relu", "blocks": [1], "accuracy": [70, 71]}]},
    {"source": "x", "best": [{"act_type": "rolu", "blocks": [1], "accuracy": [70]}]},
    {"source": "x", "best": [{"act_type": "relu", "blocks": ["1"], "accuracy": [70]}]},
    {"source": "x", "best": [{"act_type": "relu", "blocks": [1], "accuracy": ["high"]}]}])
def test_what_is_nothing_published_is_refused(content):
    with pytest.raises(UserError, match='^grid.json: "published" must be {"source"'):
        read_published(content, {}, "grid.json")


@pytest.mark.parametrize("study, count", [("paper", 97), ("gluoncv", 1), ("cifar100", 4)])
def test_the_studies_can_be_trained(study, count, tmp_path):
    options, grids, published = read_grid(scripts.ROOT / "studies" / f"{study}.json")
    cells = make_cells(study, options, grids)
    prepare(cells, ["--log-dir", str(tmp_path / "logs")], tmp_path / "cells")
    assert len(cells) == count
    assert (published is None) == (study == "cifar100")
    if study == "paper":
        assert [cell.name for cell in cells[:6]] == [
            f"paper-{unit}-b1-num-epochs100-seed{seed}" for seed in range(3)
            for unit in ("relu", "ChaATAC")]


# ---- beside finished runs -------------------------------------------------------------------

def test_a_study_is_shown_as_far_as_it_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--grid", str(_PAPER), "--finished"]
    with pytest.raises(UserError, match="no run of the grid is finished"):
        compare.main(argv)
    _write_cell(tmp_path, "relu", 0, 0.7)
    assert compare.main(argv) == 0
    for seed, unit in enumerate(("ChaATAC", "relu", "ChaATAC"), 1):
        _write_cell(tmp_path, unit, seed // 2, 0.7 + 0.01 * seed)
    _write_cell(tmp_path, "SeqATAC", 0, 0.75)
    capsys.readouterr()
    assert compare.main(argv) == 0
    text = (tmp_path / "reports/paper/table.md").read_text()
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
            for line in text.split("## ")[1].splitlines() if line.startswith("| ")}
    assert rows["units"] == ["network", "parameters", "n", "last: test accuracy %",
                             "best: test accuracy %", "published: best"]
    assert rows["relu"][1:3] == ["83,700", "2"] and rows["relu"][-1] == "73.7"
    assert rows["ChaATAC"][1:3] == ["95,428", "2"] and rows["ChaATAC"][-1] == "76.4"
    assert " ± " in rows["relu"][3] and rows["SeqATAC"][-1] == "–"
    assert "## Differences to relu" in text and "best epoch of 400" in text
    page = (tmp_path / "reports/paper/index.html").read_text()
    assert "Accuracy and size" in page and "Beside the published accuracies" in page
    image = matplotlib.image.imread(tmp_path / "reports/paper/sizes.png")
    assert image[..., :3].std() > 0.01


def test_a_grid_without_published_figures_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps({"grids": [{"act_type": "relu", "blocks": 1}]}))
    write_run(tmp_path, "mine-relu-b1", params=False, num_epochs=400, padding="black",
              lr_mode="step")
    assert compare.main(["--grid", "mine.json", "--finished"]) == 0
    out = tmp_path / "reports/mine"
    assert not (out / "sizes.png").exists() and "published" not in (out / "table.md").read_text()


def test_points_bars_and_hollow_markers(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    series = {("relu", "num_epochs=100"): [(80_000, mean([0.7, 0.72]), mean([0.72, 0.74])),
                                           (180_000, mean([0.8]), mean([0.81]))],
              ("relu", "num_epochs=400"): [(80_000, mean([0.75]), mean([0.76]))]}
    figures.draw_sizes(series, Published("", {"swish": {180_000: 79.0, 80_000: 74.0}}), None,
                       "test")
    last, best = drawn[0].axes
    for axes, accuracies in ((last, [71, 80]), (best, [73, 81])):
        line, _, (bars,) = axes.containers[0]
        assert line.get_xdata() == pytest.approx([80, 180])
        assert line.get_ydata() == pytest.approx(accuracies)
        (_, low), (_, high) = bars.get_segments()[0]
        assert high - low == pytest.approx(2 * 100 * mean([0.7, 0.72]).deviation)
    ours, other = (container[0] for container in best.containers)
    assert ours.get_color() == other.get_color() and ours.get_linestyle() != other.get_linestyle()
    published = best.lines[-1]
    assert (list(published.get_xdata()), list(published.get_ydata())) == ([80, 180], [74.0, 79.0])
    assert published.get_markerfacecolor() == "none"
    assert not matplotlib.colors.same_color(published.get_color(), ours.get_color())
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["swish", "relu", "num_epochs=100", "num_epochs=400", "hollow: published"]
