"""What a run leaves to read: a log, one row of figures an epoch, curves."""
import contextlib
import csv
import io
import logging
import math
import os
import re
import sys
from pathlib import Path

from common.arguments import Parser
from common.errors import UserError, run_script
from common.files import check_not_input, open_to_append, read_bytes, read_text, write_text
from common.plots import make_figure, save_figure
from common.screen import LINES, printable
from common.tables import csv_text

__all__ = ["COLUMNS", "open_log", "silent_log", "epoch_line", "epoch_lines", "batch_line",
           "read_metrics", "write_metrics", "read_log", "read_history", "draw_curves", "main"]

# Errors and accuracies are fractions.
COLUMNS = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
           "val_top5_accuracy", "images_per_s", "seconds")


class _FileHandler(logging.FileHandler):
    """Says once that it cannot write (a full disk), where logging itself prints tracebacks."""

    _failed = False

    def _open(self):
        # As every file that may be somebody's: what is no regular file is not waited for.
        return io.TextIOWrapper(open_to_append(self.baseFilename), encoding="utf-8")

    def handleError(self, record):
        if not self._failed:
            self._failed = True
            print(f"cannot write to {self.baseFilename}: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self):
        with contextlib.suppress(OSError):
            super().close()


class _Formatter(logging.Formatter):
    """For a file that people show on a terminal."""

    def format(self, record):
        return printable(super().format(record), LINES)


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
    to_file.setFormatter(_Formatter("%(asctime)s %(message)s"))
    logger.addHandler(to_file)
    logger.addHandler(logging.StreamHandler(screen or sys.stdout))
    return logger


def silent_log():
    """A logger that writes nowhere: of a worker whose run is another one's to tell of."""
    logger = logging.getLogger("run:silent")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
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


def epoch_lines(row, style="cifar"):
    """An epoch in the line format of the authors' CIFAR or ImageNet script."""
    if style == "cifar":
        return [epoch_line(row)]
    epoch = f"[Epoch {row['epoch']}]"
    return [f"{epoch} training: accuracy={row['train_accuracy']:.6f}",
            f"{epoch} speed: {row['images_per_s']:.0f} samples/sec\t"
            f"time cost: {row['seconds']:.6f}",
            f"{epoch} validation: err-top1={1 - row['val_accuracy']:.6f} "
            f"err-top5={1 - row['val_top5_accuracy']:.6f}"]


def batch_line(epoch, batch, images_per_s, accuracy, lr):
    """Some batches in the line format of the authors' ImageNet script."""
    return (f"Epoch[{epoch}] Batch [{batch}]\tSpeed: {images_per_s:f} samples/sec\t"
            f"accuracy={accuracy:f}\tlr={lr:f}")


def write_metrics(path, rows):
    """Write metrics.csv as a whole, atomically.

    The rows also travel in every checkpoint, so the file never misses one or holds one twice,
    whenever the run was interrupted.

    Parameters
    ----------
    path : pathlib.Path
    rows : list of dict
        Of the epochs that are done, with the keys `COLUMNS`.
    """
    write_text(path, csv_text(COLUMNS, *([row[column] for column in COLUMNS] for row in rows)))


def read_metrics(path):
    """The rows of a metrics.csv, numbers converted.

    Raises
    ------
    UserError
        If a column is missing or a value is no number.
    """
    text = read_text(path, _MOST_BYTES)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return [{column: (int if column == "epoch" else float)(row[column])
                 for column in COLUMNS} for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is no metrics file of a run: {error}") from None


_MOST_BYTES = 1 << 28
_NUMBER = r"([-+.\w]+)"
_LOG_LINES = [(re.compile(pattern.replace("NUMBER", _NUMBER)), columns) for pattern, columns in (
    (r"Epoch\[(\d+)\] Batch \[\d+\]\s.*\slr=NUMBER", ("lr",)),
    (r"\[Epoch (\d+)\] training: accuracy=NUMBER", ("train_accuracy",)),
    (r"\[Epoch (\d+)\] speed: NUMBER samples/sec\s+time cost: NUMBER",
     ("images_per_s", "seconds")),
    (r"\[Epoch (\d+)\] validation: err-top1=NUMBER err-top5=NUMBER",
     ("val_accuracy", "val_top5_accuracy")),
    (r"\[Epoch (\d+)\] train=NUMBER val=NUMBER loss=NUMBER time: NUMBER",
     ("train_accuracy", "val_accuracy", "train_loss", "seconds")))]


def read_log(path):
    """The rows of a log: the authors' (CIFAR or ImageNet script) or one of ours.

    What the log does not tell is not a number (nan). Of an epoch that was trained twice, as
    after an interruption, the later lines count; one without a validation is left out.

    Raises
    ------
    UserError
        If a figure in it is no number.
    """
    epochs = {}
    for line in read_bytes(path, _MOST_BYTES).decode("utf-8", "replace").splitlines():
        for pattern, columns in _LOG_LINES:
            match = pattern.search(line)
            if match:
                epoch, *numbers = match.groups()
                errors = "err-top1" in line
                try:
                    row = epochs.setdefault(int(epoch), {})
                    for column, number in zip(columns, map(float, numbers)):
                        row[column] = 1 - number if errors else number
                except ValueError:
                    raise UserError(f"{path} has no number in: {line.strip()}") from None
    return [{**dict.fromkeys(COLUMNS, math.nan), **row, "epoch": epoch}
            for epoch, row in sorted(epochs.items()) if "val_accuracy" in row]


def read_history(path):
    """The rows of a run's folder, of a metrics.csv, or of a log.

    Raises
    ------
    UserError
        If there is no finished epoch in it, or it is none of these.
    """
    path = Path(path)
    if os.path.isdir(path):
        path = path / "metrics.csv"
    rows = read_metrics(path) if path.suffix == ".csv" else read_log(path)
    if not rows:
        raise UserError(f"{path} holds no finished epoch")
    return rows


def draw_curves(rows, path, title, val_name="test"):
    """Draw error and loss against the epoch, for training and validation.

    A curve that is not known is left out.

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
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] + 1 for row in rows]
    series = (
        ("error (%)", [100 * (1 - row["train_accuracy"]) for row in rows],
         [100 * (1 - row["val_accuracy"]) for row in rows]),
        ("cross-entropy", [row["train_loss"] for row in rows],
         [row["val_loss"] for row in rows]))
    series = [curves for curves in series if any(map(math.isfinite, curves[1] + curves[2]))]
    figure = make_figure(4.5 * max(len(series), 1), 3.6, 110, layout="constrained")
    panels = figure.subplots(1, max(len(series), 1), squeeze=False)[0]
    for axes, (name, train, val) in zip(panels, series):
        marker = "o" if len(rows) <= 40 else None
        for values, color, label in ((train, "#7f7f7f", "training"), (val, "#c1272d", val_name)):
            if any(map(math.isfinite, values)):
                axes.plot(epochs, values, color=color, marker=marker, markersize=3, label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if not any(map(math.isinf, train + val)):
            axes.set_ylim(bottom=0)
    figure.suptitle(title)
    save_figure(figure, path)


def main(argv=None):
    """``python -m training.history FILE [--out FILE.png]``: what a log says."""
    parser = Parser(prog="python -m training.history",
                    description="Summarise and draw a run's history.")
    parser.add_argument("file", help="a run's folder, a metrics.csv, or a log of this project or "
                                     "of the authors' scripts")
    parser.add_argument("--out", metavar="FILE.png", help="draw the curves")
    options = parser.parse_args(argv)
    if options.out:
        check_not_input(options.out, options.file, Path(options.file) / "metrics.csv")
    rows = read_history(options.file)
    best = max(rows, key=lambda row: row["val_accuracy"])
    print(f"{len(rows)} epochs")
    for which, row in (("best", best), ("last", rows[-1])):
        print(f"{which}: epoch {row['epoch'] + 1}, validation error "
              f"{100 * (1 - row['val_accuracy']):.2f} %")
    if options.out:
        draw_curves(rows, options.out, Path(options.file).name, "validation")
    return 0


if __name__ == "__main__":
    run_script(main)
