"""A run's folders: one under logs/, one under params/."""
import re
import shutil
from pathlib import Path

from common.errors import UserError
from common.files import is_leftover
from common.lock import lock

__all__ = ["Run"]

_OWN_FILES = {"config.json", "metrics.csv", "result.json", "curves.png", "alphas.csv",
              "structure.json", "structure.png"}
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
        self._lock = None

    def exists(self):
        """Whether something of a run of this name is there."""
        return self.config.exists() or self.checkpoints.exists()

    def is_accounted_for(self):
        """Whether a run of this name, or a search, has come to its end."""
        return self.result.is_file() or self.structure.is_file()

    def lock(self):
        """Make sure that no other process works on this run, now and until `unlock`.

        Raises
        ------
        UserError
            If one does.
        """
        if self._lock is None and self.params.is_dir():
            try:
                self._lock = lock(self.params / ".lock")
            except OSError as error:
                raise _unwritable(self.params, error) from None

    def unlock(self):
        """Let other processes have the run; the end of the process does the same."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def create(self):
        """Make the folders, lock them, and remove what killed processes left half-written.

        Raises
        ------
        UserError
            If they cannot be made or written to, or another process works on this run.
        """
        for folder in (self.params, self.logs, self.curves.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / ".writable"
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise _unwritable(folder, error) from None
        self.lock()
        self._remove_all(is_leftover, self.params, self.logs, self.checkpoints)

    def remove(self):
        """Delete everything of the run but its lock.

        Raises
        ------
        UserError
            If another process works on it.
        """
        self.lock()
        self._remove_all(lambda name: name != ".lock", self.params, self.logs)

    @staticmethod
    def _remove_all(chosen, *folders):
        for folder in folders:
            for path in folder.iterdir() if folder.is_dir() else ():
                if not chosen(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def drop_periodic(self, keep):
        """Keep only the newest `keep` periodic params; 0 keeps all."""
        if not keep:
            return
        for old in sorted(self.params.glob("epoch-*.params"))[:-keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)


def _unwritable(folder, error):
    return UserError(f"cannot write to {folder}: {error.strerror}; choose other folders with "
                     "--save-dir and --log-dir")
