"""Finished runs as they lie on the disk, and runs that are the same but for their seed."""
import argparse
import fnmatch
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from common.arguments import Scope
from common.errors import MissingFile, UserError
from common.files import read_json
from common.screen import printable
from runs.options import scope_of
from training.history import read_metrics

__all__ = ["FinishedRun", "Configuration", "DamagedRun", "load_run", "load_runs",
           "configurations", "described_dataset", "option_text", "units_text"]

# For runs whose params, and so whose description, are gone.
_OUTPUTS = {"cifar10": 10, "cifar100": 100, "cifar100-coarse": 20, "cifar100-authors": 100,
            "shapes": 10}

# Options of a network that fill its slots; the others are the network's own.
_SLOT_OPTIONS = frozenset(("activation", "attention", "act_options", "attn_options",
                           "replace_act", "structure"))
_FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_s", "seconds")


class DamagedRun(UserError):
    """A folder that does not hold a finished run; its text says why."""


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run and its figures.

    Parameters
    ----------
    name : str
        Of its folder, made printable.
    folder, params : pathlib.Path
        Its folders under logs/ and params/; the latter may be gone.
    config : dict
        The resolved options.
    description : dict
        ``model``, ``options`` of the network, and ``dataset`` where it is known.
    rows : list of dict
        One an epoch, as in metrics.csv.
    last, best : dict
        Two of these rows.
    val_name : str
        What the figures are of, and the best epoch is chosen by: "test" or "validation".
    test : dict
        ``last`` and ``best`` test accuracy, where they are not in the rows.
    images_per_step : int, optional
        Of all devices and workers together, where that is known.
    """

    name: str
    folder: Path
    params: Path
    config: dict
    description: dict
    rows: list
    last: dict
    best: dict
    val_name: str = "test"
    test: dict = field(default_factory=dict)
    images_per_step: int = None

    @property
    def seed(self):
        """The seed, 0 if the options do not say it."""
        return self.config.get("seed", 0)

    @property
    def images_per_s(self):
        """Training speed of the middle epoch."""
        return median(row["images_per_s"] for row in self.rows)

    @property
    def minutes(self):
        """Time of all epochs."""
        return sum(row["seconds"] for row in self.rows) / 60

    @property
    def network(self):
        """The network and its options, in words; without what fills its slots."""
        options = self.description["options"]
        own = {key: value for key, value in options.items()
               if key not in _SLOT_OPTIONS and key != "blocks" and value is not None}
        blocks = [f"b={options['blocks']}"] if "blocks" in options else []
        return " ".join([self.description["model"], *blocks,
                         *(option_text(key, value) for key, value in own.items())])

    @property
    def units(self):
        """What fills the slots, in words."""
        return units_text(self.description["options"])

    def accuracy(self, which):
        """Accuracy at the ``last`` or ``best`` epoch: on the test images, where it is known."""
        return self.test.get(which, getattr(self, which)["val_accuracy"])

    @property
    def accuracy_is_of(self):
        """The images that `accuracy` is of: "test" or "validation"."""
        return "test" if {"last", "best"} <= self.test.keys() else self.val_name

    @property
    def recipe(self):
        """Options of the training that are set, without the seed.

        What is none, false or 0 is not set: so a run stays the same when the scripts learn
        an option that it does not use.
        """
        recipe = {key: value for key, value in self.config.items()
                  if value and key != "seed" and scope_of(key) & Scope.COMPUTES
                  and not scope_of(key) & Scope.NETWORK}
        # --batch-size is of each device and worker.
        if self.images_per_step not in (None, self.config.get("batch_size")):
            recipe["images_per_step"] = self.images_per_step
        return recipe


def units_text(options):
    """What fills the slots of a network with these options, in words."""
    parts = [_unit_text(options.get("activation") or "default activation",
                        options.get("act_options"))]
    if "act_layers" in options and options.get("replace_act", "relu") != "relu":
        parts[0] += f" over {options['replace_act']}"
    if options.get("attention"):
        parts.append(_unit_text(options["attention"], options.get("attn_options")))
    if isinstance(options.get("structure"), dict):
        parts.append(_structure_text(options["structure"]))
    return " + ".join(parts)


def _unit_text(unit, options):
    if not options:
        return str(unit)
    return f"{unit} ({', '.join(option_text(key, value) for key, value in options.items())})"


def _structure_text(structure):
    """A searched structure in few words: its kind, and how many blocks do what."""
    counts = Counter(map(str, structure.get("operations", ())))
    return f"SS{structure.get('kind')} ({', '.join(f'{n} {op}' for op, n in counts.items())})"


def option_text(key, value):
    """``key=value`` in few characters."""
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return key if value is True else f"{key}={value}"


# ---- reading ----------------------------------------------------------------------------------

def load_run(folder):
    """Read a finished run.

    Parameters
    ----------
    folder : str or pathlib.Path
        The run's folder under logs/; its params are looked for under ../params/<run>, then
        where its config.json says.

    Raises
    ------
    DamagedRun
        If it is none, is not finished, or its files do not fit together.
    """
    folder = Path(os.path.abspath(folder))    # "." has no name
    if not os.path.isdir(folder):
        raise DamagedRun("is no folder")
    config = _read(read_json, folder / "config.json", "is no run (no config.json)")
    result = _read(read_json, folder / "result.json", "is not finished (no result.json)")
    rows = _read(read_metrics, folder / "metrics.csv", "has no metrics.csv")
    last, best = _figures(rows, result)
    params = _params_folder(folder, config)
    return FinishedRun(printable(folder.name), folder, params, _checked_config(config),
                       _description(params, config), rows, last, best,
                       printable(str(result.get("val_name", "test"))), _test_accuracies(result),
                       _images_per_step(result))


def _read(reader, path, absent):
    try:
        return reader(path)
    except MissingFile:
        raise DamagedRun(absent) from None
    except ValueError as error:
        raise DamagedRun(f"is damaged: {error}") from None


def _figures(rows, result):
    """The rows of the last and of the best epoch."""
    if [row["epoch"] for row in rows] != list(range(len(rows))) or not rows:
        raise DamagedRun("is damaged: metrics.csv does not hold every epoch once, in order")
    if not all(math.isfinite(row[figure]) for row in rows for figure in _FIGURES):
        raise DamagedRun("is damaged: metrics.csv holds figures that are not finite")
    found = []
    for which in ("last", "best"):
        stated = result.get(which)
        epoch = stated.get("epoch") if isinstance(stated, dict) else None
        if not isinstance(epoch, int) or not 0 <= epoch < len(rows):
            raise DamagedRun(f"is damaged: result.json does not name the {which} epoch")
        if stated.get("val_accuracy") != rows[epoch]["val_accuracy"]:
            raise DamagedRun("is damaged: result.json and metrics.csv disagree on the "
                             f"{which} epoch")
        found.append(rows[epoch])
    if found[0] is not rows[-1]:
        raise DamagedRun("is damaged: metrics.csv goes on after the last epoch of result.json")
    return found


def _test_accuracies(result):
    test = result.get("test") or {}
    try:
        return {which: float(test[which]["accuracy"]) for which in ("last", "best")
                if which in test}
    except (KeyError, TypeError, ValueError):
        raise DamagedRun("is damaged: result.json holds no test accuracies") from None


def _images_per_step(result):
    count = result.get("images_per_step")
    if not (count is None or isinstance(count, int)):
        raise DamagedRun("is damaged: result.json does not say the images of a step")
    return count


def _checked_config(config):
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or not isinstance(config.get("model"), str):
        raise DamagedRun("is damaged: config.json names no model or no seed")
    return config


def _params_folder(folder, config):
    folder = folder.resolve()
    beside = folder.parent.parent / "params" / folder.name
    if os.path.isdir(beside) or not isinstance(config.get("save_dir"), str):
        return beside
    return Path(config["save_dir"]) / folder.name


def _description(params, config):
    """What the params say that they are, else what the options ask for."""
    for name in ("last.json", "best.json"):
        if os.path.lexists(params / name):
            stored = _read(read_json, params / name, "")
            if not (isinstance(stored.get("model"), str)
                    and isinstance(stored.get("options"), dict)):
                raise DamagedRun(f"is damaged: {name} of its params describes no network")
            return {key: stored.get(key) for key in ("model", "options", "dataset")}

    from runs.describe import describe
    try:
        described = describe(argparse.Namespace(**config))
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedRun(f"is damaged: its config.json describes no network: {error}") from None
    return {**described, "dataset": described_dataset(config)}


def described_dataset(config):
    """What is known of the data set that options of a training name, or None."""
    outputs = _OUTPUTS.get(str(config.get("dataset")).lower())
    return {"outputs": outputs, "image_size": 32} if outputs else None


def load_runs(folders, log):
    """All finished runs among `folders`; the others get a line each.

    Parameters
    ----------
    folders : iterable of path
    log : callable
        Takes each line.

    Returns
    -------
    list of FinishedRun
        Each folder once, in the order given. Of one name in several places, all but the
        first are called by their place too.

    Raises
    ------
    UserError
        If there is no finished run.
    """
    runs, seen, names = [], set(), set()
    for folder in map(Path, folders):
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        try:
            run = load_run(folder)
        except DamagedRun as error:
            log(f"skipped: {printable(folder)} {printable(str(error))}")
            continue
        if run.name in names:
            run = FinishedRun(**{**vars(run), "name": printable(folder)})
        names.add(run.name)
        runs.append(run)
    if not runs:
        raise UserError("no finished run is there to compare: --runs takes folders such as "
                        "logs/NAME that hold config.json, metrics.csv and result.json")
    return runs


# ---- runs that are the same but for the seed --------------------------------------------------

@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that differ in their seed only, or that the user has put together.

    Parameters
    ----------
    network, units, options : str
        What tells it from the others, in words.
    place : str
        The same for configurations that differ in their units only.
    runs : list of FinishedRun
        By seed; one each, but in a group of the user's.
    """

    network: str
    units: str
    options: str
    place: str
    runs: list

    @property
    def label(self):
        """All that is known of it, in one line."""
        return " ".join(filter(None, (self.network, self.units, self.options)))

    def values(self, function):
        """`function` of every run, by seed."""
        return [function(run) for run in self.runs]


def configurations(runs, groups=(), log=print):
    """Put runs together that differ in their seed only.

    Parameters
    ----------
    runs : list of FinishedRun
    groups : iterable of (name, pattern)
        Runs whose name fits the pattern are one configuration of that name, whatever their
        options: networks of random structure, say.
    log : callable
        Gets a line for every run that repeats another, and so does not count.

    Returns
    -------
    list of Configuration
        In the order in which their first run is given.
    """
    differing = _differing([run.recipe for run in runs])
    found = {}
    for run in runs:
        group = next((name for name, pattern in groups
                      if fnmatch.fnmatchcase(run.name, pattern)), None)
        found.setdefault(_key(run) if group is None else (group,), (group, []))[1].append(run)
    return [_configuration(group, members, differing, log) for group, members in found.values()]


def _key(run):
    return json.dumps([run.description["model"], run.description["options"], run.recipe],
                      sort_keys=True)


def _place(run):
    options = {key: value for key, value in run.description["options"].items()
               if key not in _SLOT_OPTIONS and key != "attention_at"}
    return json.dumps([run.description["model"], options, run.recipe], sort_keys=True)


def _configuration(group, members, differing, log):
    kept = {}
    for run in members:
        same = kept.setdefault((_key(run), run.seed), run)
        if same is not run:
            log(f"left out of means: {run.name} has the options and the seed of {same.name}")
    first = members[0]
    said = {**first.config, **first.recipe}
    options = " ".join(option_text(key, said[key]) for key in differing
                       if said.get(key) is not None and said[key] is not False)
    networks = {run.network for run in members}
    return Configuration(
        first.network if len(networks) == 1 else "several", first.units if group is None else
        group, options if group is None else "", _place(first),
        sorted(kept.values(), key=lambda run: run.seed))


def _differing(recipes):
    """Names of the options in which recipes differ, in the order of the options."""
    names = dict.fromkeys(key for recipe in recipes for key in recipe)
    return [name for name in names
            if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]
