"""What a run leaves to read: a log, one row of figures an epoch, curves."""
import contextlib
import csv
import io
import logging
import math
import sys

from .files import replacing, write_text

__all__ = ["COLUMNS", "History", "open_log", "epoch_line", "read_metrics", "draw_curves"]

# Errors and accuracies are fractions.
COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
           "val_top5_accuracy", "images_per_s", "seconds")


class _FileHandler(logging.FileHandler):
    """Says once that it cannot write (a full disk), where logging itself prints tracebacks."""

    _failed = False

    def handleError(self, record):
        if not self._failed:
            self._failed = True
            print(f"cannot write to {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self):
        with contextlib.suppress(OSError):
            super().close()


def open_log(path, screen=None):
    """A logger that writes to `path` (appending) and to the screen.

    Returns
    -------
    logging.Logger
    """
    logger = logging.getLogger(f"run:{path}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    close_log(logger)
    to_file = _FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(to_file)
    logger.addHandler(logging.StreamHandler(screen or sys.stdout))
    return logger


def close_log(logger):
    """Close the files of a logger made by `open_log`."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def epoch_line(row):
    """An epoch in the line format of the authors' CIFAR script (accuracies as fractions)."""
    return (f"[Epoch {row['epoch']}] train={row['train_accuracy']:.6f} "
            f"val={row['val_accuracy']:.6f} loss={row['train_loss']:.6f} "
            f"time: {row['seconds']:.6f}")


class History:
    """The rows of a run and the file that shows them.

    The rows also travel in every checkpoint, so that metrics.csv can be written again as a
    whole: it never misses a row or holds one twice, whenever the run was interrupted.

    Parameters
    ----------
    path : pathlib.Path
        The CSV file.
    rows : list of dict, optional
        Rows of the epochs already done.
    """

    def __init__(self, path, rows=None):
        self.path = path
        self.rows = list(rows or [])

    def add(self, row):
        """Append the row of an epoch."""
        self.rows.append({column: row[column] for column in COLUMNS})

    def write(self):
        """Write the CSV file, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read_metrics(path):
    """The rows of a metrics.csv, numbers converted.

    Raises
    ------
    ValueError
        If a column is missing or a value is no number.
    """
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return [{column: (int if column == "epoch" else float)(row[column])
                 for column in COLUMNS} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no metrics file of a run: {error}") from None


def draw_curves(rows, path, title, val_name="test"):
    """Draw error and loss against the epoch, for training and validation.

    Parameters
    ----------
    rows : list of dict
        As in metrics.csv; at least one.
    path : str or pathlib.Path
        PNG file to write, atomically.
    title : str
        Stands above the curves.
    val_name : str
        What the validation images are ("test", "validation").
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] + 1 for row in rows]
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    series = (
        (panels[0], "error (%)", [100 * (1 - row["train_accuracy"]) for row in rows],
         [100 * (1 - row["val_accuracy"]) for row in rows]),
        (panels[1], "cross-entropy", [row["train_loss"] for row in rows],
         [row["val_loss"] for row in rows]))
    for axes, name, train, val in series:
        marker = "o" if len(rows) <= 40 else None
        axes.plot(epochs, train, color="#7f7f7f", marker=marker, markersize=3, label="training")
        axes.plot(epochs, val, color="#c1272d", marker=marker, markersize=3, label=val_name)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if all(math.isfinite(value) for value in train + val):
            axes.set_ylim(bottom=0)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
