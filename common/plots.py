"""Figures: made without a display, their text never read as formulas, written atomically."""
import atexit
import os
import shutil
import tempfile
from pathlib import Path

from .errors import UserError
from .files import replacing
from .screen import LINES, printable

__all__ = ["make_figure", "save_figure"]


def _do_without_home():
    """Where a user has no home folder, Matplotlib's import fails unless it is given another."""
    try:
        Path.home()
    except RuntimeError:
        if "MPLCONFIGDIR" not in os.environ:
            folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)


_do_without_home()


def make_figure(width, height, dpi, **kwargs):
    """An empty Matplotlib figure.

    Names of classes, runs and files are drawn as they are: without this a $ in one begins a
    formula, or under a user's own settings TeX, and one that cannot be parsed is an error.

    Parameters
    ----------
    width, height : float
        Inches.
    dpi : int
    **kwargs
        Of `matplotlib.figure.Figure`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"text.parse_math": False, "text.usetex": False})
    figure = Figure(figsize=(width, height), dpi=dpi, **kwargs)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path, **kwargs):
    """Write a PNG file, atomically; further arguments are those of `Figure.savefig`.

    Raises
    ------
    UserError
        If it would have more pixels than Matplotlib draws.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text(), LINES))
    with replacing(path) as temporary:
        try:
            figure.savefig(temporary, format="png", **kwargs)
        except ValueError as error:
            raise UserError(f"{path} cannot be drawn: {error}") from None
