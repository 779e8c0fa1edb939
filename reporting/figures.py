"""Pictures of several runs: curves, accuracy against depth, confusion matrices."""
import itertools

import numpy as np

from common.plots import make_figure, save_figure
from common.screen import printable

__all__ = ["draw_curves", "draw_depths", "draw_sizes", "draw_confusion"]

# Okabe and Ito's colours, told apart by colour-blind eyes too; then their own darker shades.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000",
            "#00496f", "#8a3d00", "#00664a", "#8a4f70")
_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _figure(width, height):
    return make_figure(width, height, 150, layout="constrained")


def _save(figure, path):
    save_figure(figure, path, metadata={"Software": None})


def _style(index):
    return {"color": _COLOURS[index % len(_COLOURS)],
            "linestyle": _STYLES[index // len(_COLOURS) % len(_STYLES)]}


def _tidy(axes):
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_means(axes, places, means, **style):
    """A line of accuracies, whose bars are one deviation each way; NaN, of one seed, is none."""
    return axes.errorbar(places, [100 * m.value for m in means],
                         yerr=[100 * m.deviation for m in means], capsize=3, linewidth=1.6,
                         **style)


def _scale(axes):
    """A logarithmic axis where the first epochs would squeeze all others, else one from 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = np.concatenate([line.get_ydata() for line in axes.lines]).astype(float)
    if values.min() <= 0 or values.max() < 4 * values.min():
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure, lines, names, columns):
    """A legend below. Matplotlib leaves out names that begin with _, so they are set later."""
    legend = figure.legend(lines, [str(i) for i in range(len(names))], frameon=False,
                           loc="outside lower center", ncols=columns, fontsize=8.5)
    for text, name in zip(legend.get_texts(), names):
        text.set_text(name if len(name) <= 90 else name[:89] + "…")


def _short_labels(configurations):
    """Labels without what all configurations share."""
    parts = [(each.network, each.units, each.options) for each in configurations]
    kept = [i for i in range(3) if len({part[i] for part in parts}) > 1] or [1]
    return [" ".join(part[i] for i in kept if part[i]) or "plain" for part in parts]


def draw_curves(configurations, path, val_name):
    """Error and loss of all configurations against the epoch, in one figure.

    A line is the mean over seeds and its band goes from the smallest to the largest; an
    epoch that some seed did not reach is the mean of the others.
    """
    from matplotlib.ticker import MaxNLocator

    rows = (len(configurations) + 2) // 3
    figure = _figure(10, 4.1 + 0.18 * rows)
    left, right = figure.subplots(1, 2)
    lines = []
    panels = ((left, lambda row: 100 * (1 - row["val_accuracy"]), f"{val_name} error (%)"),
              (right, lambda row: row["val_loss"], f"{val_name} cross-entropy"))
    for axes, function, name in panels:
        for index, each in enumerate(configurations):
            epochs, low, middle, high = _band(each, function)
            line, = axes.plot(epochs, middle, linewidth=1.6, **_style(index),
                              marker="o" if len(epochs) <= 20 else None, markersize=2.8)
            if len(each.runs) > 1:
                axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15,
                                  linewidth=0)
            if axes is left:
                lines.append(line)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
        _scale(axes)
    labels = [f"{label}, {len(each.runs)} seeds" if len(each.runs) > 1 else label
              for label, each in zip(_short_labels(configurations), configurations)]
    longest = max(map(len, labels))
    _legend(figure, lines, labels, min(len(labels), 1 if longest > 60 else
                                       2 if longest > 38 else 3))
    _save(figure, path)


def _band(configuration, function):
    """Epochs from 1, and the smallest, mean and largest value of each."""
    curves = [[function(row) for row in run.rows] for run in configuration.runs]
    epochs = range(max(map(len, curves)))
    values = [[curve[epoch] for curve in curves if epoch < len(curve)] for epoch in epochs]
    return ([epoch + 1 for epoch in epochs], [min(v) for v in values],
            [float(np.mean(v)) for v in values], [max(v) for v in values])


def draw_depths(series, path, val_name):
    """Accuracy at the last epoch against the number of blocks, one line per unit.

    Parameters
    ----------
    series : dict
        Name -> list of (blocks, `means.Mean` of the accuracy), by blocks.
    """
    figure = _figure(6.4, 4.3)
    axes = figure.subplots()
    lines = []
    for index, points in enumerate(series.values()):
        # Side by side, so that error bars do not hide each other.
        shift = 0.03 * (index - (len(series) - 1) / 2)
        blocks, means = zip(*points)
        lines.append(_draw_means(axes, [b + shift for b in blocks], means, markersize=4.5,
                                 marker=_MARKERS[index % len(_MARKERS)], **_style(index)))
    axes.set(xlabel="residual blocks per stage, b",
             ylabel=f"{val_name} accuracy, last epoch (%)")
    axes.set_xticks(sorted({blocks for points in series.values() for blocks, _ in points}))
    _tidy(axes)
    _legend(figure, lines, list(series), min(3, len(series)))
    _save(figure, path)


def draw_sizes(series, published, path, val_name):
    """Accuracy against trained parameters, at the last and at the best epoch, one line a unit.

    Bars are one standard deviation over seeds each way. Published points are hollow, in the
    colour of their unit; they stand with the best epoch, which they are of.

    Parameters
    ----------
    series : dict
        (units, options) -> list of (parameters, `means.Mean` at the last epoch, that at the
        best), by parameters.
    published : published.Published
    """
    units = list(dict.fromkeys([*published.points, *(name for name, _ in series)]))
    recipes = list(dict.fromkeys(options for _, options in series))
    of_unit = {name: {"color": _COLOURS[index % len(_COLOURS)],
                      "marker": _MARKERS[index % len(_MARKERS)]}
               for index, name in enumerate(units)}
    of_recipe = dict(zip(recipes, itertools.cycle(_STYLES)))
    figure = _figure(10, 5)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for (name, options), points in series.items():
        sizes, *means = zip(*points)
        for axes, at in zip(panels, means):
            _draw_means(axes, np.divide(sizes, 1000), at, markersize=5,
                        linestyle=of_recipe[options], **of_unit[name])
    for name, points in published.points.items():
        sizes = sorted(points)
        panels[1].plot(np.divide(sizes, 1000), [points[size] for size in sizes], linewidth=0.6,
                       linestyle=":", markersize=6.5, markerfacecolor="none", **of_unit[name])
    for axes, title in zip(panels, ("last epoch", "best epoch")):
        axes.set(title=title, xlabel="trained parameters (thousands)")
        _tidy(axes)
    panels[0].set_ylabel(f"{val_name} accuracy (%)")
    _legend_of_sizes(figure, of_unit, of_recipe if len(recipes) > 1 else {})
    _save(figure, path)


def _legend_of_sizes(figure, of_unit, of_recipe):
    """Units by colour, recipes by line, and what is hollow."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    lines = {name: Line2D([], [], **style) for name, style in of_unit.items()}
    lines |= {name: Line2D([], [], color=grey, linestyle=style)
              for name, style in of_recipe.items()}
    lines["hollow: published"] = Line2D([], [], color=grey, linestyle=":", linewidth=0.6,
                                        marker="o", markerfacecolor="none")
    _legend(figure, list(lines.values()), list(lines), 5)


def draw_confusion(matrix, names, path):
    """A confusion matrix: rows are true classes, columns predictions; shares of each row.

    `names` are of the columns; the first are those of the rows. Up to 20 classes are named
    and numbered; more are a picture only.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(matrix)
    named = count <= 20
    side = max(4.2, 0.46 * count) if named else 6.5
    figure = _figure(side + 0.9, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    if named:
        names = list(map(printable, names))
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(count), names[:count])
        for row, column in zip(*np.nonzero(shares >= 0.005)):
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center",
                      fontsize=7.5, color="white" if shares[row, column] > 0.55 else "#222222")
    _save(figure, path)
