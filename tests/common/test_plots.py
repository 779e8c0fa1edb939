"""Names of any kind in every figure: no formula, no TeX, no character that cannot be drawn."""
import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from common.errors import UserError
from common.plots import make_figure, save_figure
from explain.figures import Caption, Column, draw_gallery, draw_gates
from explain.gates import BINS, GateLayer
from explain.images import Picture
from reporting.figures import draw_confusion
from training.history import COLUMNS, draw_curves
from training.search import draw_weights

NAME = "$\\nosuch{_^ \x1b[31m\udcff$"    # as a formula an error; the last is half a character


def _picture():
    pixels = np.zeros((3, 8, 8), np.uint8)
    return Picture(pixels, pixels.transpose(1, 2, 0), NAME, NAME)


def _gallery(path):
    columns = [Column(NAME, np.ones((1, 8, 8)), [Caption(NAME, True)]) for _ in range(2)]
    draw_gallery(path, [_picture()], columns, NAME)


def _gates(path):
    layer = GateLayer(NAME, NAME, np.ones((1, 1, 1)), np.ones(BINS) / BINS, 0.5, 0.1, 0, 0, 0.5,
                      0.5, 0.5, np.full(3, 1 / 3))
    draw_gates(path, [_picture()], [layer], NAME)


def _curves(path):
    draw_curves([dict.fromkeys(COLUMNS, 0.5) | {"epoch": 0}], path, NAME, NAME)


def _weights(path):
    rows = [{"epoch": 0, "block": 0, NAME: 0.5}]
    draw_weights(rows, [NAME], path, NAME, 0, lambda weights: NAME)


def _confusion(path):
    draw_confusion(np.eye(2), [NAME, "b"], path)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("draw", [_gallery, _gates, _curves, _weights, _confusion])
def test_names_are_drawn_as_they_are(draw, tmp_path):
    """Also where the user's own settings ask for TeX."""
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        draw(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_no_text_of_a_figure_is_a_formula(tmp_path):
    figure = make_figure(2, 2, 50)
    figure.suptitle("$x$")
    axes = figure.subplots()
    axes.set(xlabel="$x$", title="a\x1bb")
    save_figure(figure, tmp_path / "figure.png")
    texts = figure.findobj(Text)
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    assert {"$x$", r"a\x1bb"} <= {text.get_text() for text in texts}


def test_too_many_pixels_are_an_error_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"a.png cannot be drawn: .*70000x100"):
        save_figure(make_figure(700, 1, 100), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
