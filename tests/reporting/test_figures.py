import matplotlib.image
import numpy as np
import pytest

from reporting import figures
from reporting.means import mean
from reporting.runs import configurations, load_runs
from tests.reporting.run_folders import write_run


def _pixels(path):
    image = matplotlib.image.imread(path)
    assert image.ndim == 3 and image[..., :3].std() > 0.01
    return image


def test_curves_of_seeds_of_different_length(tmp_path):
    folders = [write_run(tmp_path, f"a{seed}", seed, epochs=3 + seed, num_epochs=9)
               for seed in range(3)]
    compared = configurations(load_runs(folders, print))
    epochs, low, middle, high = figures._band(compared[0], lambda row: row["val_loss"])
    curves = [[row["val_loss"] for row in run.rows] for run in compared[0].runs]
    assert epochs == [1, 2, 3, 4, 5]
    assert middle[0] == pytest.approx(np.mean([curve[0] for curve in curves]))
    assert middle[4] == low[4] == high[4] == curves[2][4]
    figures.draw_curves(compared, tmp_path / "one.png", "test")
    figures.draw_curves(compared, tmp_path / "two.png", "test")
    _pixels(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_names_are_never_read_as_formulas(tmp_path):
    folders = [write_run(tmp_path, name) for name in ("a", "b")]
    compared = configurations(load_runs(folders, print), [(r"$\frac{$", "a"), ("_hidden", "b")])
    figures.draw_curves(compared, tmp_path / "curves.png", "test")
    _pixels(tmp_path / "curves.png")


def test_depths(tmp_path):
    series = {"relu": [(1, mean([0.7, 0.72])), (2, mean([0.8]))], "$x": [(1, mean([0.75]))]}
    figures.draw_depths(series, tmp_path / "depths.png", "test")
    _pixels(tmp_path / "depths.png")


@pytest.mark.parametrize("classes", [10, 100])
def test_confusion(tmp_path, classes):
    matrix = np.eye(classes, dtype=np.int64) * 7
    matrix[0] = 0
    figures.draw_confusion(matrix, [f"$class_{index}" for index in range(classes)],
                           tmp_path / "confusion.png")
    _pixels(tmp_path / "confusion.png")
