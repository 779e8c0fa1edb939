"""Tables of runs and configurations, as markdown and as CSV."""
import json
import math
from collections import namedtuple
from functools import cache

from common.errors import UserError
from common.tables import csv_text, markdown_table, markdown_text
from runs.trained import count_outputs

from .means import mean, paired_difference

__all__ = ["Table", "Cost", "cost", "cost_of", "run_table", "configuration_table",
           "difference_table", "released_table", "val_name", "common_recipe", "find_baselines",
           "to_markdown", "run_csv", "configuration_csv", "difference_csv", "depth_series",
           "published_table", "size_series"]

Table = namedtuple("Table", "title header rows notes")
Table.__doc__ = """Cells as text. A header that begins with '<' is of a column flush left."""

Cost = namedtuple("Cost", "num_params multiply_adds")
Cost.__doc__ = """Trained parameters, and multiply-adds for one image; None where unknown."""

_RECIPE_FIRST = ("dataset", "limit_train", "val_split", "padding", "num_epochs", "batch_size",
                 "optimizer", "lr", "lr_mode", "warmup_epochs", "weight_decay")


@cache
def _counted(description):
    from graph.cost import count
    from graph.graph import trace
    from model.zoo import build

    description = json.loads(description)
    dataset = description["dataset"] or {}
    try:
        size, outputs = dataset["image_size"], count_outputs(description)
        if outputs is None:
            return Cost(None, None)
        counted = count(trace(build(description, outputs), (3, size, size)))
    except (KeyError, ValueError, TypeError):
        return Cost(None, None)
    return Cost(counted.num_params, counted.multiply_adds)


def cost_of(description):
    """`Cost` of a described network; nothing is computed with it."""
    return _counted(json.dumps(description, sort_keys=True))


def cost(run):
    """`Cost` of a run's network."""
    return cost_of(run.description)


# ---- cells ------------------------------------------------------------------------------------

def _percent(value):
    return f"{100 * value:.2f}"


def _with_deviation(values, scale=1.0, digits=2):
    value, deviation, count = mean(values)
    text = f"{scale * value:.{digits}f}"
    return text if count == 1 else f"{text} ± {scale * deviation:.{digits}f}"


def _range(values, unit=1, digits=0):
    """One number, or the range of several."""
    texts = [f"{value / unit:,.{digits}f}" for value in sorted(
        value for value in values if value is not None)] or ["–"]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _millions(values):
    return _range(values, 1e6, 2)


def val_name(runs):
    """What the figures of the runs are of, in words."""
    names = {run.val_name for run in runs}
    return names.pop() if len(names) == 1 else "test or validation"


def _selection_note(runs):
    which = val_name(runs)
    if which == "test":
        return ("best: the epoch of highest test accuracy, so chosen by the images that it is "
                "reported on; last: no choice.")
    return f"best: the epoch of highest {which} accuracy; last: no choice."


_COST_NOTE = "MFLOPs: millions of multiply-adds for one image, each counted once."


def _without_empty_columns(table):
    kept = [i for i in range(len(table.header))
            if i == 0 or any(row[i] not in ("", "–") for row in table.rows)]
    return table._replace(header=[table.header[i] for i in kept],
                          rows=[[row[i] for i in kept] for row in table.rows])


def common_recipe(runs):
    """The options that all runs share, in words."""
    recipes = [run.recipe for run in runs]
    common = {key: value for key, value in recipes[0].items()
              if all(recipe.get(key) == value for recipe in recipes)}
    return ", ".join(f"{key.replace('_', ' ')} {common[key]}" for key in _RECIPE_FIRST
                     if common.get(key) not in (None, 0, 0.0))


# ---- the three tables -------------------------------------------------------------------------

def run_table(runs, configurations):
    """One row a run."""
    options, val = _options(configurations), val_name(runs)
    header = ["<run", "<network", "<units", "<options", "parameters", "MFLOPs",
              f"last: loss train / {val}", f"last: accuracy % train / {val}",
              "last: test accuracy %", "best epoch", f"best: loss train / {val}",
              f"best: accuracy % train / {val}", "best: test accuracy %", "images/s", "epochs",
              "seed"]
    rows = []
    for run in runs:
        size = cost(run)
        rows.append([
            run.name, run.network, run.units, options.get(id(run), ""),
            _range([size.num_params]), _millions([size.multiply_adds]),
            *_epoch_cells(run.last), _optional_percent(run.test.get("last")),
            str(run.best["epoch"] + 1), *_epoch_cells(run.best),
            _optional_percent(run.test.get("best")), f"{run.images_per_s:,.0f}",
            str(len(run.rows)), str(run.seed)])
    notes = [_selection_note(runs), _COST_NOTE,
             "images/s: training speed of the middle epoch, on the machine of the run."]
    return _without_empty_columns(Table("Runs", header, rows, notes))


def _options(configurations):
    """The options in words of each run that counts, by its `id`."""
    return {id(run): each.options for each in configurations for run in each.runs}


def _epoch_cells(row):
    return (f"{row['train_loss']:.4f} / {row['val_loss']:.4f}",
            f"{_percent(row['train_accuracy'])} / {_percent(row['val_accuracy'])}")


def _optional_percent(value):
    return "" if value is None else _percent(value)


def configuration_table(configurations):
    """One row a configuration: means over seeds."""
    runs = [run for configuration in configurations for run in configuration.runs]
    val = val_name(runs)
    header = ["<network", "<units", "<options", "parameters", "MFLOPs", "n",
              f"last: {val} accuracy %", "<by seed", "highest", f"last: {val} loss",
              "last: test accuracy %", f"best: {val} accuracy %", "best: test accuracy %",
              "epochs", "minutes"]
    rows = []
    for each in configurations:
        sizes = each.values(cost)
        lasts = each.values(lambda run: run.last["val_accuracy"])
        rows.append([
            each.network, each.units, each.options, _range([s.num_params for s in sizes]),
            _millions([s.multiply_adds for s in sizes]), str(len(each.runs)),
            _with_deviation(lasts, 100), _by_seed(each.runs), _percent(max(lasts)),
            _with_deviation(each.values(lambda run: run.last["val_loss"]), digits=4),
            _test_cell(each, "last"),
            _with_deviation(each.values(lambda run: run.best["val_accuracy"]), 100),
            _test_cell(each, "best"), _range(each.values(lambda run: len(run.rows))),
            _with_deviation(each.values(lambda run: run.minutes), digits=1)])
    notes = ["± is the sample standard deviation over n seeds; by seed and highest are of the "
             "last epoch.", _selection_note(runs), _COST_NOTE]
    return _without_empty_columns(Table("Configurations", header, rows, notes))


def _by_seed(runs):
    return ", ".join(f"{run.seed}: {_percent(run.last['val_accuracy'])}" for run in runs)


def _test_cell(configuration, which):
    values = [run.test[which] for run in configuration.runs if which in run.test]
    return _with_deviation(values, 100) if len(values) == len(configuration.runs) else ""


def find_baselines(configurations, name):
    """For each configuration the one to compare it with, or None.

    `name` is a run's, whose configuration is then the baseline of all others, or units
    ("relu"): then each is compared with the configuration of these units that is otherwise
    the same, or with the only one there is.

    Raises
    ------
    UserError
        If nothing has that name, or several configurations with the same network and recipe.
    """
    for configuration in configurations:
        if any(run.name == name for run in configuration.runs):
            return [configuration] * len(configurations)
    named = [each for each in configurations if each.units.lower() == name.lower()]
    if not named:
        known = ", ".join(dict.fromkeys(each.units for each in configurations))
        raise UserError(f"--baseline {name} is neither a run nor units that were compared; "
                        f"units are {known}")
    if len(named) == 1:
        return named * len(configurations)
    at = {}
    for each in named:
        if each.place in at:
            raise UserError(f"--baseline {name}: several configurations have these units; name "
                            f"a run, such as {each.runs[0].name}")
        at[each.place] = each
    return [at.get(each.place) for each in configurations]


def _differences(configurations, name):
    """(configuration, baseline, Difference at the last epoch, at the best)."""
    for each, baseline in zip(configurations, find_baselines(configurations, name)):
        if baseline is None or baseline is each or _measured(each) != _measured(baseline):
            continue    # accuracies on other images are no difference
        yield (each, baseline, *(paired_difference(_accuracy_by_seed(each, which),
                                                   _accuracy_by_seed(baseline, which))
                                 for which in ("last", "best")))


def _measured(configuration):
    """The images that the accuracies of a configuration are of."""
    return set(configuration.values(lambda run: run.accuracy_is_of))


def _accuracy_by_seed(configuration, which):
    """Seed -> accuracy, the mean where a group has several runs of a seed."""
    found = {}
    for run in configuration.runs:
        found.setdefault(run.seed, []).append(run.accuracy(which))
    return {seed: mean(values).value for seed, values in found.items()}


def difference_table(configurations, name):
    """Differences in accuracy to a baseline, in percentage points.

    Raises
    ------
    UserError
        If there is no such baseline.
    """
    header = ["<network", "<units", "<options", "<against", "pairs", "last: difference",
              "<last: 95 % interval", "best: difference", "<best: 95 % interval"]
    rows = [[each.network, each.units, each.options, _against(each, baseline),
             str(last.count), *_difference_cells(last), *_difference_cells(best)]
            for each, baseline, last, best in _differences(configurations, name)]
    notes = ["Percentage points of accuracy, paired by seed; the interval is Student's for the "
             "mean difference, and only there with two pairs or more."]
    measured = set().union(*map(_measured, configurations))
    if measured != {"test"}:
        notes.append(f"Of accuracy on the {' or '.join(sorted(measured))} images, never of one "
                     "with the other.")
    return _without_empty_columns(Table(f"Differences to {name}", header, rows, notes))


def _against(each, baseline):
    parts = [baseline.network] if baseline.network != each.network else []
    parts.append(baseline.units)
    parts += [baseline.options] if baseline.options != each.options else []
    return " ".join(filter(None, parts))


def _difference_cells(difference):
    value, half, _ = difference
    if math.isnan(value):
        return "no common seed", ""
    if math.isnan(half):
        return f"{100 * value:+.2f}", ""
    return f"{100 * value:+.2f}", f"{100 * (value - half):+.2f} to {100 * (value + half):+.2f}"


def _accuracies(configuration):
    """Of all its runs: the accuracies at the last epoch, and those at the best."""
    return [configuration.values(lambda run, which=which: run.accuracy(which))
            for which in ("last", "best")]


def published_table(configurations, published):
    """One row a configuration: accuracy at the last and at the best epoch, and the published.

    Parameters
    ----------
    configurations : list of runs.Configuration
    published : published.Published
    """
    runs = [run for configuration in configurations for run in configuration.runs]
    val = val_name(runs)
    header = ["<units", "<network", "<options", "parameters", "n", f"last: {val} accuracy %",
              f"best: {val} accuracy %", "published: best"]
    rows = []
    for each in configurations:
        size = cost(each.runs[0]).num_params
        accuracy = published.points.get(each.units, {}).get(size)
        rows.append([each.units, each.network, each.options, _range([size]), str(len(each.runs)),
                     *(_with_deviation(values, 100) for values in _accuracies(each)),
                     "–" if accuracy is None else f"{accuracy:.1f}"])
    return _without_empty_columns(Table("Beside the published accuracies", header, rows, [
        "± is the sample standard deviation over n seeds.", _selection_note(runs),
        f"published: {published.source}."]))


def released_table(scored):
    """Released parameters, with what they are listed with and what was found.

    Parameters
    ----------
    scored : list of (runs.released.Released, dict, dict)
        With the description of its file and the scores that `training.scores.evaluate` gives.
    """
    header = ["<name", "<data set", "epochs", "parameters", "MFLOPs", "MB",
              "listed: test accuracy %", "found", "images"]
    rows = []
    for released, description, scores in scored:
        size = cost_of(description)
        rows.append([released.name, released.dataset, str(released.figures["epoch"] + 1),
                     _range([size.num_params]), _millions([size.multiply_adds]),
                     f"{released.size / 1e6:.2f}", _percent(released.figures["val_accuracy"]),
                     _percent(scores["accuracy"]), f"{scores['count']:,}"])
    return Table("Released parameters", header, rows, [_COST_NOTE])


# ---- text -------------------------------------------------------------------------------------

def to_markdown(table):
    """The table with its title and notes, columns aligned in the text too."""
    return "\n".join([f"## {markdown_text(table.title)}", "",
                      markdown_table(table.header, table.rows), "",
                      *(f"- {markdown_text(note)}" for note in table.notes)]) + "\n"


def _csv(header, rows):
    return csv_text(header, *(["" if isinstance(cell, float) and math.isnan(cell) else cell
                              for cell in row] for row in rows))


_EPOCH_FIGURES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


def run_csv(runs, configurations):
    """One row a run, numbers in full; accuracies are fractions, epochs count from 0."""
    options = _options(configurations)
    header = ["run", "network", "units", "options", "seed", "epochs", "num_params",
              "multiply_adds", "images_per_s", "minutes", "val_name",
              *(f"{which}_{figure}" for which in ("last", "best") for figure in _EPOCH_FIGURES),
              "last_test_accuracy", "best_test_accuracy"]
    return _csv(header, [[
        run.name, run.network, run.units, options.get(id(run), ""), run.seed, len(run.rows),
        *cost(run), run.images_per_s, run.minutes, run.val_name,
        *(row[figure] for row in (run.last, run.best) for figure in _EPOCH_FIGURES),
        *(run.test.get(which) for which in ("last", "best"))] for run in runs])


def configuration_csv(configurations):
    """One row a configuration, numbers in full."""
    figures = [(which, figure) for which in ("last", "best")
               for figure in ("val_accuracy", "val_loss", "train_accuracy", "train_loss")]
    header = ["network", "units", "options", "num_params", "multiply_adds", "n", "seeds",
              *(f"{which}_{figure}_{what}" for which, figure in figures
                for what in ("mean", "deviation"))]
    rows = []
    for each in configurations:
        means = [mean([getattr(run, which)[figure] for run in each.runs])
                 for which, figure in figures]
        rows.append([each.network, each.units, each.options, *cost(each.runs[0]),
                     len(each.runs), " ".join(str(run.seed) for run in each.runs),
                     *(number for value, deviation, _ in means for number in (value, deviation))])
    return _csv(header, rows)


def difference_csv(configurations, name):
    """One row a configuration that has a baseline: fractions, not percentage points."""
    header = ["network", "units", "options", "against", "pairs", "last_difference",
              "last_half_width_95", "best_difference", "best_half_width_95"]
    return _csv(header, [[each.network, each.units, each.options, _against(each, baseline),
                          last.count, *last[:2], *best[:2]]
                         for each, baseline, last, best in _differences(configurations, name)])


def size_series(configurations):
    """Accuracy by trained parameters, as `figures.draw_sizes` takes it.

    Returns
    -------
    dict
        (units, options) -> list of (trained parameters, `means.Mean` of the accuracy at the
        last epoch, that at the best), by parameters; of configurations whose size is known.
    """
    series = {}
    for each in configurations:
        size = cost(each.runs[0]).num_params
        if size is not None:
            series.setdefault((each.units, each.options), []).append(
                (size, *map(mean, _accuracies(each))))
    return {name: sorted(points) for name, points in series.items()}


def depth_series(configurations):
    """Accuracy at the last epoch by blocks per stage, as `figures.draw_depths` takes it.

    Returns
    -------
    dict
        Name -> list of (blocks, `means.Mean`), by blocks; of what is otherwise the same, where
        there are two points or more: a line needs them.
    """
    series = {}
    for each in configurations:
        blocks = each.runs[0].description["options"].get("blocks")
        if blocks is not None:
            name = each.label.replace(f" b={blocks} ", " ", 1)
            series.setdefault(name, []).append(
                (blocks, mean(each.values(lambda run: run.last["val_accuracy"]))))
    series = {name: sorted(points) for name, points in series.items() if len(points) > 1}
    # What all share is in the title of the axis, or beside the table.
    shared = {name.partition(" ")[0] for name in series}
    return {name.partition(" ")[2] if len(shared) == 1 else name: points
            for name, points in series.items()}
