"""Where a run stands: what a training run and a search keep, and carry in their checkpoints."""
from dataclasses import dataclass, field

from .checkpoint import other_version
from .epoch import Totals

__all__ = ["Position"]


@dataclass
class Position:
    """Everything of a run that is not an array.

    Parameters
    ----------
    epoch : int
        The epoch that is under way, from 0.
    totals : training.epoch.Totals
        What it has added up so far.
    rows : list of dict
        Figures of the epochs that are done (`training.history.COLUMNS`).
    """

    epoch: int = 0
    totals: Totals = field(default_factory=Totals)
    rows: list = field(default_factory=list)

    @classmethod
    def from_state(cls, path, state):
        """The position that the state of the checkpoint `path` holds.

        Raises
        ------
        training.checkpoint.CheckpointError
            If the state lacks something.
        """
        try:
            values = {name: state[name] for name in cls.__dataclass_fields__}
            values["totals"] = Totals(**values["totals"])
        except (KeyError, TypeError):
            raise other_version(path) from None
        return cls(**values)

    def finish_epoch(self, lr, totals, val):
        """Note the epoch's figures, and move on to the next one.

        Parameters
        ----------
        lr : float
            Learning rate of its last step.
        totals : training.epoch.Totals
            Of all that trained.
        val : dict
            From `training.epoch.evaluate`.

        Returns
        -------
        dict
            The epoch's row.
        """
        row = {"epoch": self.epoch, "lr": lr,
               "train_loss": totals.loss / totals.images,
               "train_accuracy": totals.correct / totals.images, "val_loss": val["loss"],
               "val_accuracy": val["accuracy"], "val_top5_accuracy": val["top5_accuracy"],
               "images_per_s": totals.images / totals.seconds, "seconds": totals.seconds}
        self.rows.append(row)
        self.epoch += 1
        self.totals = Totals()
        return row
