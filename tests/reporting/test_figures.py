import matplotlib.image
import numpy as np
import pytest

from reporting import figures
from reporting.means import mean
from reporting.runs import configurations, load_runs
from tests.reporting.run_folders import write_run


def _assert_drawn(path):
    image = matplotlib.image.imread(path)
    assert image.ndim == 3 and image[..., :3].std() > 0.01


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
    _assert_drawn(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_names_are_never_read_as_formulas(tmp_path):
    folders = [write_run(tmp_path, name) for name in ("a", "b")]
    compared = configurations(load_runs(folders, print), [(r"$\frac{$", "a"), ("_hidden", "b")])
    figures.draw_curves(compared, tmp_path / "curves.png", "test")
    _assert_drawn(tmp_path / "curves.png")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in place of their files."""
    figures_drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: figures_drawn.append(figure))
    return figures_drawn


def test_depths(tmp_path):
    series = {"relu": [(1, mean([0.7, 0.72])), (2, mean([0.8]))], "$x": [(1, mean([0.75]))]}
    figures.draw_depths(series, tmp_path / "depths.png", "test")
    _assert_drawn(tmp_path / "depths.png")


def test_points_and_bars_of_depths(drawn):
    figures.draw_depths({"relu": [(1, mean([0.7, 0.72])), (3, mean([0.8]))],
                         "swish": [(1, mean([0.75]))]}, None, "test")
    relu, swish = drawn[0].axes[0].containers
    assert relu[0].get_ydata() == pytest.approx([71, 80])
    assert relu[0].get_xdata() == pytest.approx([1, 3], abs=0.1)
    assert swish[0].get_ydata() == pytest.approx([75])
    bar = relu[2][0].get_segments()[0]
    assert bar[:, 1] == pytest.approx([71 - 2 ** 0.5, 71 + 2 ** 0.5])


@pytest.mark.parametrize("classes", [10, 100])
def test_confusion(tmp_path, classes):
    matrix = np.eye(classes, dtype=np.int64) * 7
    matrix[0] = 0
    figures.draw_confusion(matrix, [f"$class_{index}" for index in range(classes)],
                           tmp_path / "confusion.png")
    _assert_drawn(tmp_path / "confusion.png")


def test_shares_of_a_confusion(drawn):
    figures.draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], None)
    axes = drawn[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "75"), ((1, 0), "25")}
