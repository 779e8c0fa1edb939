"""A run's options: of the command line, of a file, of the run that is resumed, of worker 0.

Nothing here imports MXNet: the number of threads is read from the run that is resumed before.
"""
import argparse
import contextlib
import os
from pathlib import Path

from common.arguments import RECORDED_THREADS, Scope, replaced
from common.errors import UserError
from common.files import read_json, write_json, writing
from common.threads import MOST_THREADS
from machines.client import get_client

from .folder import Run
from .options import scope_of

__all__ = ["agreed_options", "first_change", "note_threads", "open_run", "recorded_threads",
           "resolve_options", "write_config"]


def resolve_options(parser, argv):
    """Options of the command line over those of --config, or of the run that is resumed."""
    typed = options = parser.parse_args(argv)
    if options.config:
        parser.load_config(options.config)
        options = _one_choice(typed, parser.parse_args(argv))
    stored = _stored_config(options)
    if stored is None:
        return options
    parser.load_config(stored)
    merged = _one_choice(typed, parser.parse_args(argv))
    name = options.name or stored.parent.name
    if Path(merged.log_dir).resolve() != stored.parent.parent.resolve():
        raise UserError(f"{stored.parent} was begun with --log-dir {merged.log_dir} in another "
                        "folder: go on from there, so that all its files are found")
    return replaced(merged, name=name)


def _one_choice(typed, options):
    """The devices that were typed replace those of a file, which may say it the other way."""
    for one, other in (("gpus", "num_gpus"), ("num_gpus", "gpus")):
        if getattr(typed, one) is not None and getattr(typed, other) is None:
            options = replaced(options, **{other: None})
    return options


def _stored_config(options):
    """config.json of the run that --resume names, if there is one yet."""
    if not options.resume:
        return None
    if options.resume == "auto":
        path = Path(options.log_dir) / options.name / "config.json" if options.name else None
        return path if path and os.path.isfile(path) else None
    name = Path(options.resume).resolve().name
    candidates = [Path(options.resume), Path(options.log_dir) / name]
    for folder in candidates:
        if os.path.isfile(folder / "config.json"):
            return folder / "config.json"
    raise UserError(f"--resume {options.resume}: no run is there (no config.json in "
                    f"{' or '.join(map(str, candidates))})")


def recorded_threads(options):
    """The number of threads that the run to be resumed was begun with; None if there is none."""
    path = _stored_config(options)
    if path is None and options.resume and not options.name:
        path = next(_begun_alike(options), None)
    return path and _threads_in(path)


def _begun_alike(options):
    """config.json of the runs that the options go on with: the name of theirs needs MXNet."""
    for path in sorted(Path(options.log_dir).glob("*/config.json")):
        with contextlib.suppress(UserError):
            if first_change(options, read_json(path)) is None:
                yield path


def _threads_in(path):
    threads = read_json(path).get(RECORDED_THREADS)
    if not (threads is None or type(threads) is int and 1 <= threads <= MOST_THREADS):
        raise UserError(f"{path}: {RECORDED_THREADS} must be a whole number from 1 to "
                        f"{MOST_THREADS}, not {threads!r}")
    return threads


def note_threads(run, log):
    """Warn if a resumed run has got another number of threads than it was begun with."""
    had = _threads_in(run.config) if os.path.lexists(run.config) else None
    have = os.environ["OMP_NUM_THREADS"]
    if had is not None and str(had) != have:
        log.warning(f"begun with {had} threads and gone on with {have}: sums are rounded in "
                    "another order, so the end may differ in its bits; for the same ones set "
                    f"OMP_NUM_THREADS={had}")


def agreed_options(options, parser, argv):
    """The options that all workers of a run share: those of worker 0.

    What may differ from machine to machine is a worker's own, if it was given. Without other
    workers, `options`.

    Raises
    ------
    UserError
        If a worker was started with other options, or one of the options is wrong.
    """
    client = get_client()
    if client is None:
        return options
    own = vars(options)
    given = client.gather(own)
    if client.rank == 0:
        _check_same(given)
        options = resolve_options(parser, argv)
        client.gather(vars(options))
        return options
    options = client.gather(None)[0]
    return argparse.Namespace(**{**options, **{
        name: value for name, value in own.items()
        if scope_of(name) & Scope.MACHINE and value != parser.get_default(name)}})


def _check_same(given):
    """Raise UserError unless all workers were started alike."""
    for rank, options in enumerate(given):
        for name, value in sorted(options.items()):
            if not scope_of(name) & Scope.MACHINE and value != given[0].get(name):
                raise UserError(
                    f"worker {rank} was started with another --{name.replace('_', '-')} than "
                    f"worker 0: {value}, not {given[0].get(name)}; start all processes with the "
                    "same options")


def open_run(options, name):
    """The run's folders, if they are free or meant.

    Raises
    ------
    UserError
        If a run of that name is there and neither --resume nor --overwrite was given, or both
        were, it is to be resumed with other options, or another process works on it.
    """
    if options.resume and options.overwrite:
        raise UserError("--resume keeps an earlier run and --overwrite deletes it: choose one")
    run = Run(name, options.save_dir, options.log_dir, options.logging_file,
              options.save_plot_dir)
    run.check_owned()
    run.lock()
    if run.exists() and not (options.resume or options.overwrite):
        raise UserError(f"a run named {run.name} is there already ({run.logs}): go on with "
                        "--resume, replace it with --overwrite, or choose another --name")
    if options.resume and os.path.lexists(run.config):
        _check_goes_on(options, read_json(run.config), run.params / "last.params")
    return run


def _check_goes_on(options, stored, last):
    """Raise UserError unless the options compute what the stored ones do.

    Parameters
    ----------
    options : argparse.Namespace
    stored : dict
        What config.json says.
    last : pathlib.Path
        The run's last parameters.
    """
    name = first_change(options, stored)
    if name:
        raise UserError(f"a resumed run goes on as it began: --{name.replace('_', '-')} was "
                        f"{stored[name]}; drop the option, or start a new run with another "
                        f"--name, from its weights if you like: --resume-from {last}")


def first_change(options, stored):
    """Name of an option that computes something else than what config.json says, or None."""
    for name in sorted(stored):
        value = getattr(options, name, None)
        value = list(value) if isinstance(value, tuple) else value
        if scope_of(name) & Scope.COMPUTES and value != stored[name]:
            return name
    return None


def write_config(run, options):
    """Write the options into config.json, for --config and --resume; and the threads' number."""
    with writing(run.config):
        write_json(run.config, {**{name: value for name, value in vars(options).items()
                                   if not scope_of(name) & Scope.INVOCATION}, "name": run.name,
                                RECORDED_THREADS: int(os.environ["OMP_NUM_THREADS"])})
