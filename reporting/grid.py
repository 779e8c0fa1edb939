"""A grid of runs: which cells it has, which are done, and training the others."""
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import MissingFile, UserError
from common.files import read_json, write_json
from common.interruption import ends_with_parent, handling
from common.lock import holder, wait_for
from common.progress import format_seconds
from common.threads import own_environment
from runs.config import first_change

from .runs import DamagedRun, load_run, units_text
from .table import cost_of

__all__ = ["Cell", "read_grid", "make_cells", "prepare", "train_cells"]

_SCRIPT = Path(__file__).resolve().parents[1] / "train_cifar.py"
# Options of train_cifar.py that each run gets from the grid.
_SET_BY_GRID = frozenset(("name", "resume", "overwrite", "config", "summary", "logging_file"))


@dataclass(eq=False)
class Cell:
    """One run of a grid.

    Parameters
    ----------
    name : str
        Of the run.
    options : dict
        Options of train_cifar.py that it sets.
    config : pathlib.Path, optional
        File with these options.
    logs : pathlib.Path, optional
        The run's folder.
    description : dict, optional
        Of its network.
    num_epochs : int
    """

    name: str
    options: dict
    config: Path = None
    logs: Path = None
    description: dict = None
    num_epochs: int = 0

    def finished(self):
        """Its `FinishedRun`, or None."""
        try:
            return load_run(self.logs)
        except DamagedRun:
            return None


# ---- what to train ----------------------------------------------------------------------------

def read_grid(path):
    """Options and axes in a JSON file.

    The file holds ``grids``, a list of objects that give one or several values of options,
    and may hold ``options``, which all cells share, and ``published``, figures to stand beside
    those of the runs.

    Returns
    -------
    options : dict
    grids : list of dict
        Option -> list of values.
    published : dict or None
        See `published.read_published`.

    Raises
    ------
    UserError
        If the file is something else.
    """
    content = read_json(path, "--grid")
    options, grids = content.pop("options", {}), content.pop("grids", None)
    published = content.pop("published", None)
    if (content or not isinstance(options, dict) or not isinstance(grids, list) or not grids
            or not all(isinstance(grid, dict) for grid in grids)):
        raise UserError(f'{path} is no grid: it must be {{"options": {{...}}, "grids": [{{'
                        '"act_type": ["relu", ...], "seed": [0, 1]}, ...]}')
    grids = [{_spelled(key): values if isinstance(values, list) else [values]
              for key, values in grid.items()} for grid in grids]
    empty = [key for grid in grids for key, values in grid.items() if not values]
    if empty:
        raise UserError(f"{path}: {empty[0]} has no values")
    return {_spelled(key): value for key, value in options.items()}, grids, published


def _spelled(key):
    return key.replace("-", "_")


def make_cells(prefix, options, grids):
    """The cells of one grid after the other, each once; within a grid, seed by seed.

    Raises
    ------
    UserError
        If two different cells would have the same name.
    """
    cells = {}
    for grid in grids:
        taken = _SET_BY_GRID & (grid.keys() | options.keys())
        if taken:
            raise UserError(f"a grid names its own runs: it cannot set {sorted(taken)[0]}")
        choices = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
        for chosen in sorted(choices, key=lambda each: _number(each.get("seed", 0))):
            cell = Cell(_name(prefix, chosen), {**options, **chosen})
            known = cells.setdefault(cell.name, cell)
            if known.options != cell.options:
                raise UserError(f"two cells of the grid would both be named {cell.name}")
    return list(cells.values())


def _number(value):
    return value if isinstance(value, int) else 0


def _name(prefix, chosen):
    """A run's name from the values of its axes."""
    parts = [prefix]
    for key in sorted(chosen, key=lambda key: (key == "seed", key not in ("act_type",), key)):
        value = chosen[key]
        if value is None:
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        lead = {"act_type": "", "attention": "", "blocks": "b"}.get(key, key.replace("_", "-"))
        parts.append(lead + text)
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts))[:128]


def prepare(cells, argv, folder):
    """Check every cell before the first is trained, and write its config file.

    Parameters
    ----------
    cells : list of Cell
        Filled here.
    argv : list of str
        Options of train_cifar.py for all of them.
    folder : pathlib.Path
        Where the config files go.

    Raises
    ------
    UserError
        If an option is wrong, or a run of that name is there that was made with others.
    """
    from runs.describe import describe
    from runs.options import make_cifar_parser as make_parser

    set_here = _set_by(make_parser(), argv)
    for cell in cells:
        twice = (_SET_BY_GRID | cell.options.keys()) & set_here
        if twice:
            raise UserError(f"--{sorted(twice)[0].replace('_', '-')} is set by the grid: drop it "
                            "after --")
    folder.mkdir(exist_ok=True)
    for cell in cells:
        cell.config = folder / f"{cell.name}.json"
        write_json(cell.config, cell.options)
        parser = make_parser()
        parser.load_config(cell.config)
        options = parser.parse_args(argv)
        try:
            cell.description = describe(options)
        except ValueError as error:
            raise UserError(f"{cell.name}: {error}") from None
        cell.logs = Path(options.log_dir) / cell.name
        cell.num_epochs = options.num_epochs
        _check_stored(cell, options)


def _set_by(parser, argv):
    """Names of the options that a command line itself sets."""
    absent = object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), absent))
    return {name for name, value in vars(parser.parse_args(argv)).items() if value is not absent}


def check_baseline(cells, baseline):
    """Raise UserError if neither a run nor the units of one have that name."""
    units = dict.fromkeys(units_text(cell.description["options"]) for cell in cells)
    names = {cell.name for cell in cells} | {each.lower() for each in units}
    if baseline not in names and baseline.lower() not in names:
        raise UserError(f"--baseline {baseline} is neither a run nor units of the grid; units are "
                        f"{', '.join(units)}")


def _check_stored(cell, options):
    try:
        stored = read_json(cell.logs / "config.json")
    except MissingFile:
        return
    name = first_change(options, stored)
    if name:
        raise UserError(f"a run named {cell.name} is there with {name.replace('_', '-')} "
                        f"{stored[name]}, not {getattr(options, name, None)}: choose another "
                        "--out, whose name the runs of a grid bear")


# ---- training ---------------------------------------------------------------------------------

def train_cells(cells, argv, log):
    """Train what is not finished, one run at a time.

    A run that fails is named and the others go on; but if the run could not even start, the
    next ones could not either.

    Parameters
    ----------
    cells : list of Cell
        Prepared.
    argv : list of str
        Options of train_cifar.py for all of them.
    log : callable
        Takes lines.

    Returns
    -------
    int
        0; 1 if a run failed; 128 and the signal's number if one has ended the grid.

    Raises
    ------
    UserError
        If a run could not start.
    """
    runs = {cell.name: cell.finished() for cell in cells}
    code = 0
    for number, cell in enumerate(cells, 1):
        if not runs[cell.name]:
            _wait_until_free(cell, log)
            runs[cell.name] = cell.finished()
        if runs[cell.name]:
            log(f"[{number} of {len(cells)}] {cell.name} is finished")
            continue
        waiting = [each for each in cells[number - 1:] if not runs[each.name]]
        log(f"[{number} of {len(cells)}] {cell.name}: {_time_left(cells, runs, waiting)}")
        command = [sys.executable, str(_SCRIPT), "--config", str(cell.config), *argv,
                   "--name", cell.name, "--resume"]
        returned, stopped = _run(command)
        while not stopped and _wait_until_free(cell, log) and not cell.finished():
            # Another process had taken it just before ours, and has left it by now.
            returned, stopped = _run(command)
        runs[cell.name] = cell.finished()
        if stopped:
            log("stopped; the same command goes on from here")
            return 128 + stopped
        if not runs[cell.name]:
            if not os.path.isfile(cell.logs / "metrics.csv"):
                raise UserError(f"{cell.name} could not start (exit code {returned}, see above)")
            log(f"{cell.name} failed (exit code {returned}); going on with the next")
            code = 1
    return code


def _wait_until_free(cell, log):
    """Wait for another process that trains a cell; whether there was one."""
    path = cell.logs / ".lock"
    owner = holder(path)
    if owner:
        log(f"{cell.name} is in use by {owner}; waiting for it")
        wait_for(path)
    return bool(owner)


def _run(command):
    """Run a command to its end, however this process is asked to stop.

    Returns
    -------
    code : int
    stopped : int
        The signal that asked to, or 0; the command has got it too and has saved its work.
    """
    stopped = []

    def forward(number, _):
        stopped.append(number)
        child.send_signal(number)

    # Its own session: a Ctrl-C in the terminal reaches it once, through `forward`.
    child = subprocess.Popen(command, env=own_environment(), start_new_session=True,
                             preexec_fn=ends_with_parent())
    with handling(forward):
        return child.wait(), stopped[0] if stopped else 0


def _time_left(cells, runs, waiting):
    """How long the waiting cells take, judged by the finished ones."""
    seconds, rates = {}, []
    for cell in cells:
        run = runs[cell.name]
        if run:
            per_epoch = 60 * run.minutes / len(run.rows)
            seconds.setdefault(_key(cell), []).append(per_epoch)
            rates.append(per_epoch / _size(cell))
    if not rates:
        return f"{len(waiting)} to train, time unknown until one is finished"
    rate = sum(rates) / len(rates)
    left = 0.0
    for cell in waiting:
        # A network of the same kind tells most; else the time goes with the multiply-adds.
        known = seconds.get(_key(cell))
        left += cell.num_epochs * (sum(known) / len(known) if known else rate * _size(cell))
    return f"{len(waiting)} to train, about {format_seconds(left)}"


def _key(cell):
    return json.dumps(cell.description, sort_keys=True)


def _size(cell):
    return cost_of({**cell.description, "dataset": {"outputs": 10, "image_size": 32}})[1] or 1
