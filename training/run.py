"""A run's folders: one under logs/, one under params/."""
import re
import shutil
from pathlib import Path

from .errors import UserError

__all__ = ["Run"]

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
        Name of the log.
    plot_dir : str or pathlib.Path, optional
        Where curves.png goes; beside the log if not given.

    Raises
    ------
    UserError
        If the name is not usable as a folder's.
    """

    def __init__(self, name, save_dir="params", log_dir="logs", logging_file="train.log",
                 plot_dir=None):
        if not _NAME.fullmatch(name):
            raise UserError(f"a run's name holds letters, digits and ._+- only: '{name}'")
        self.name = name
        self.params = Path(save_dir) / name
        self.logs = Path(log_dir) / name
        self.checkpoints = self.params / "checkpoints"
        self.config = self.logs / "config.json"
        self.log_file = self.logs / logging_file
        self.metrics = self.logs / "metrics.csv"
        self.result = self.logs / "result.json"
        self.curves = (Path(plot_dir) if plot_dir else self.logs) / "curves.png"

    def exists(self):
        """Whether something of a run of this name is there."""
        return self.config.exists() or self.checkpoints.exists()

    def create(self):
        """Make the folders.

        Raises
        ------
        UserError
            If they cannot be made or written to.
        """
        for folder in (self.params, self.logs, self.curves.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / ".writable"
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise UserError(f"cannot write to {folder}: {error.strerror}; choose other "
                                "folders with --save-dir and --log-dir") from None

    def remove(self):
        """Delete everything of the run."""
        for folder in (self.params, self.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def drop_periodic(self, keep):
        """Keep only the newest `keep` periodic params; 0 keeps all."""
        if not keep:
            return
        for old in sorted(self.params.glob("epoch-*.params"))[:-keep]:
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
