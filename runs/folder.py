"""A run's folders: one under logs/, one under params/.

Whatever else lies in them, or bears the same name, is somebody's and stays: see `Run.remove`.
"""
import contextlib
import os
import re
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import leftover_of, make_writable, read_json, writing
from common.lock import lock

__all__ = ["Run"]

_OWN_FILES = {"config.json", "metrics.csv", "result.json", "curves.png", "alphas.csv",
              "structure.json", "structure.png"}
_PERIODIC = re.compile(r"epoch-\d{4,}\.params")
_PARAMS_FILE = re.compile(r"(last|best|epoch-\d{4,})\.(params|json)")
_CHECKPOINT = re.compile(r"step-\d{9}(\.old)?")
_CHECKPOINT_FILES = {"net.params", "optimizer.params", "state.json"}
_writing = partial(writing, hint="; choose other folders with --save-dir and --log-dir")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


class Run:
    """The folders and files of one run.

    Parameters
    ----------
    name : str
        Letters, digits and ``._+-``; a folder of this name is used under both places.
    save_dir, log_dir : str or pathlib.Path
        Where the params and the logs of all runs live.
    logging_file : str, default 'train.log'
        Name of the log in the run's folder.
    plot_dir : str or pathlib.Path, optional
        Where curves.png goes; beside the log if not given.

    Raises
    ------
    UserError
        If the name is not usable as a folder's, or the log's as a file's.
    """

    def __init__(self, name, save_dir="params", log_dir="logs", logging_file="train.log",
                 plot_dir=None):
        if not _NAME.fullmatch(name):
            raise UserError(f"a run's name holds letters, digits and ._+- only: '{name}'")
        if not _NAME.fullmatch(logging_file) or logging_file in _OWN_FILES:
            raise UserError(f"--logging-file is the name of a file of its own in the run's folder, "
                            f"such as train.log, not '{logging_file}'")
        self.name = name
        self.params = Path(save_dir) / name
        self.logs = Path(log_dir) / name
        self.checkpoints = self.params / "checkpoints"
        self.config = self.logs / "config.json"
        self.log_file = self.logs / logging_file
        self.metrics = self.logs / "metrics.csv"
        self.result = self.logs / "result.json"
        self.structure = self.logs / "structure.json"
        self.curves = (Path(plot_dir) if plot_dir else self.logs) / "curves.png"
        self._locks = {}

    def exists(self):
        """Whether something of a run of this name is there."""
        return os.path.lexists(self.config) or any(self._params_files())

    def is_accounted_for(self):
        """Whether a run of this name, or a search, has come to its end."""
        return os.path.isfile(self.result) or os.path.isfile(self.structure)

    def check_owned(self):
        """Make sure that what bears the names of a run's files is a run's.

        Raises
        ------
        UserError
            If a folder holds such files, but nothing that only a run writes.
        """
        found = [] if self._config() else [
            path for path in self._logs_files() if path != self.log_file]
        if not self._knows_params():
            found += self._params_files()
        if found:
            raise UserError(f"{found[0].parent} is not the folder of a run, but holds "
                            f"{found[0].name}: nothing there is replaced or removed; choose "
                            "another --name")

    def _config(self):
        """What config.json says, if a run has written it; else nothing."""
        config = _json(self.config)
        return config if config.keys() >= {"model", "act_type", "attention", "seed"} else {}

    def _knows_params(self):
        """Whether params/<run> holds params or checkpoints as runs write them."""
        place = self._config().get("save_dir")
        return (isinstance(place, str) and Path(place, self.name).resolve() == self.params.resolve()
                or any(_json(self.params / f"{name}.json").keys() >= {"model", "options", "dataset"}
                       for name in ("last", "best"))
                or any(path.name == "state.json" for path in self._checkpoint_files()))

    def lock(self):
        """Make sure that no other process works on this run, now and until `unlock`.

        Raises
        ------
        UserError
            If one does.
        """
        for folder in (self.params, self.logs):
            where = os.path.realpath(folder)    # both may be one
            if where not in self._locks and os.path.isdir(folder):
                with _writing(folder):
                    self._locks[where] = lock(folder / ".lock")

    def unlock(self):
        """Let other processes have the run; the end of the process does the same."""
        for stream in self._locks.values():
            stream.close()
        self._locks = {}

    def create(self):
        """Make the folders, lock them, and remove what killed processes left half-written.

        Raises
        ------
        UserError
            If they cannot be made or written to, or another process works on this run.
        """
        for folder in (self.params, self.logs, self.curves.parent):
            with _writing(folder):
                make_writable(folder)
        self.lock()
        self._remove(self._leftovers())

    def remove(self):
        """Delete what the run of this name has written: all else in its folders stays.

        Raises
        ------
        UserError
            If another process works on it, or the folders are not a run's.
        """
        self.lock()
        self.check_owned()
        self._remove([*self._leftovers(), *self._params_files(),
                      *(self._logs_files() if self._config() else ())])

    def _logs_files(self):
        """What a run has written to logs/<run>."""
        names = {*_OWN_FILES, self.log_file.name, self._config().get("logging_file")}
        return [path for path in _listed(self.logs) if path.name in names]

    def _params_files(self):
        """What a run has written to params/<run>."""
        return [*(path for path in _listed(self.params) if _PARAMS_FILE.fullmatch(path.name)),
                *self._checkpoint_files()]

    def _checkpoint_folders(self):
        """Folders of whole checkpoints, and of half-written ones."""
        return [folder for folder in _listed(self.checkpoints, folders=True)
                if _CHECKPOINT.fullmatch(leftover_of(folder.name) or folder.name)]

    def _checkpoint_files(self):
        return [path for folder in self._checkpoint_folders() for path in _listed(folder)
                if (leftover_of(path.name) or path.name) in _CHECKPOINT_FILES]

    def _leftovers(self):
        """Half-written files, of names that a run writes."""
        for path in (*_listed(self.logs), *_listed(self.params)):
            name = leftover_of(path.name) or ""
            if name in _OWN_FILES or _PARAMS_FILE.fullmatch(name):
                yield path
        yield from (path for path in self._checkpoint_files() if leftover_of(path.parent.name))

    def _remove(self, paths):
        for path in list(paths):
            path.unlink(missing_ok=True)
        for folder in (*self._checkpoint_folders(), self.checkpoints):
            with contextlib.suppress(OSError):     # missing, or something of others is in it
                folder.rmdir()

    def drop_periodic(self, keep):
        """Keep only the newest `keep` periodic params; 0 keeps all."""
        if not keep:
            return
        periodic = [path for path in _listed(self.params) if _PERIODIC.fullmatch(path.name)]
        for old in sorted(periodic, key=lambda path: int(path.stem[len("epoch-"):]))[:-keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)


def _listed(folder, folders=False):
    """The files, or the folders, in a folder; none if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    with _writing(folder):
        return [path for path in sorted(folder.iterdir()) if path.is_dir() == folders]


def _json(path):
    """The JSON object in a file; an empty one if there is none."""
    try:
        return read_json(path)
    except UserError:
        return {}


