"""What a structure search leaves to read: alphas.csv, a table, a figure."""
import math

from common.files import write_text
from common.plots import make_figure, save_figure
from common.tables import csv_text

__all__ = ["structure_rows", "write_structure_rows", "structure_table", "draw_weights"]

_COLUMNS = 4


def structure_rows(epoch, operations, weights, alphas):
    """Rows of alphas.csv for one epoch, one a block.

    Parameters
    ----------
    epoch : int
        Counted from 0; the values are those at its end.
    operations : sequence of str
    weights, alphas : array (blocks, operations)

    Returns
    -------
    list of dict
    """
    return [{"epoch": epoch, "block": block,
             **{name: float(value) for name, value in zip(operations, weights[block])},
             **{f"alpha {name}": float(value) for name, value in zip(operations, alphas[block])}}
            for block in range(len(weights))]


def write_structure_rows(path, operations, rows):
    """Write alphas.csv as a whole, atomically; floats keep every bit."""
    columns = ["epoch", "block", *operations, *(f"alpha {name}" for name in operations)]
    write_text(path, csv_text(columns, *([row[column] for column in columns] for row in rows)))


def structure_table(operations, weights, derived):
    """The weights and what they ask for, as lines of text: the table of the study.

    Parameters
    ----------
    operations : sequence of str
    weights : array (blocks, operations)
    derived : sequence of str
        The operation of each block.
    """
    head = "block " + "".join(f"{name:>12}" for name in operations) + "  derived"
    return [head, *(f"{block:5d} " + "".join(f"{value:12.4e}" for value in row) + f"  {operation}"
                    for block, (row, operation) in enumerate(zip(weights, derived)))]


def draw_weights(rows, operations, path, title, warmup_epochs, derive):
    """Draw each block's weights against the epoch.

    Parameters
    ----------
    rows : list of dict
        As in alphas.csv; at least one epoch.
    operations : sequence of str
    path : str or pathlib.Path
        PNG file to write, atomically.
    title : str
        Stands above the panels.
    warmup_epochs : int
        Their end is marked.
    derive : callable
        ``derive(weights)`` -> the operation to name in a block's panel.
    """
    from matplotlib.ticker import MaxNLocator

    blocks = 1 + max(row["block"] for row in rows)
    columns = min(blocks, _COLUMNS)
    lines = math.ceil(blocks / columns)
    figure = make_figure(2.4 * columns + 0.8, 1.9 * lines + 1.0, 110, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    handles = []
    for block, axes in enumerate(panels):
        if block >= blocks:
            axes.set_visible(False)
            continue
        own = [row for row in rows if row["block"] == block]
        epochs = [row["epoch"] + 1 for row in own]
        # Before the first search epoch all operations weigh the same.
        start = min(warmup_epochs, epochs[-1])
        axes.axvspan(0, start, color="#e8e8e8", linewidth=0)
        handles = [axes.plot([0, *epochs],
                             [1 / len(operations), *(row[name] for row in own)],
                             label=name, linewidth=1.5)[0] for name in operations]
        axes.set(xlim=(0, epochs[-1]), ylim=(0, 1))
        axes.set_title(f"block {block}: {derive([own[-1][name] for name in operations])}",
                       fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
        axes.set_xlabel("epoch (grey: warm-up)" if block + columns >= blocks else "", fontsize=8)
        axes.set_ylabel("weight" if block % columns == 0 else "", fontsize=8)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(operations),
                  frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
