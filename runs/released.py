"""Parameter files that are published with this project: found, verified, loaded."""
import json
import os
from dataclasses import dataclass
from pathlib import Path

from common.files import sha256
from model.zoo import build

from .weights import WeightsError, load_weights

__all__ = ["RELEASED", "Released", "find_released", "list_released", "load_released",
           "released_by_name"]

_PARAMS_FOLDER = Path(__file__).resolve().parents[1] / "params"


@dataclass(frozen=True)
class Released:
    """A released parameter file.

    Parameters
    ----------
    name : str
        Of the network, the data set and the number of blocks.
    file : str
        Its path below params/.
    size : int
        In bytes.
    sha256 : str
        64 hexadecimal digits.
    dataset : str
        What it was trained on.
    outputs : int
        How many its network has.
    model, options
        Its network, as `get_model` takes them.
    figures : dict
        What it scored: ``val_accuracy`` and the like, as in the JSON beside the file.
    run : str, optional
        The run that it is of; logs/<run> is its account.
    """

    name: str
    file: str
    size: int
    sha256: str
    dataset: str
    outputs: int
    model: str
    options: dict
    figures: dict
    run: str = None

    @property
    def path(self):
        """Where the file is."""
        return _PARAMS_FOLDER / self.file

    @property
    def description(self):
        """As `model.zoo.build` takes it."""
        return {"model": self.model, "options": self.options, "dataset": {"name": self.dataset}}

    def verify(self):
        """Raise WeightsError unless the file is there, byte for byte."""
        if not os.path.isfile(self.path):
            raise WeightsError(f"there is no file {self.path}")
        size = self.path.stat().st_size
        if size != self.size:
            raise WeightsError(f"{self.path} is not the released {self.name}: it has {size:,} "
                               f"bytes instead of {self.size:,}")
        digest = sha256(self.path)
        if digest != self.sha256:
            raise WeightsError(f"{self.path} is not the released {self.name}: its SHA-256 is "
                               f"{digest[:12]}..., not {self.sha256[:12]}...")


# Parameter files that are published with this project; `tools/release.py` writes the list.
RELEASED = [Released(**entry) for entry in json.loads(
    Path(__file__).with_name("released.json").read_text(encoding="utf-8"))]


def find_released(description, dataset):
    """The entry of `RELEASED` for a described network, its file verified.

    Parameters
    ----------
    description : dict
        See `runs.describe.describe`.
    dataset : str or None
        What it shall have been trained on; None: whatever it was.

    Raises
    ------
    WeightsError
        If there is none, or its file is missing or damaged.
    """
    return _verified(
        (each for each in RELEASED
         if (each.model, each.options) == (description["model"], description["options"])
         and dataset in (None, each.dataset)),
        f"no parameters of this {description['model']}{f' on {dataset}' if dataset else ''} are "
        "released")


def _verified(found, problem):
    released = next(found, None)
    if released is None:
        known = ", ".join(each.name for each in RELEASED) or "none so far"
        raise WeightsError(f"{problem}; released: {known}")
    released.verify()
    return released


def list_released():
    """What is released, as rows of a table.

    Returns
    -------
    list of dict
        ``name``, ``data set``, ``epochs``, ``test accuracy %`` after the last of them, and
        the ``command`` that scores it.
    """
    return [{"name": each.name, "data set": each.dataset, "epochs": each.figures["epoch"] + 1,
             "test accuracy %": f"{100 * each.figures['val_accuracy']:.2f}",
             "command": f"python evaluate.py --pretrained {each.name}"} for each in RELEASED]


def released_by_name(name):
    """The entry of `RELEASED` of a name, its file verified.

    Raises
    ------
    WeightsError
        If there is none of that name, or its file is missing or damaged.
    """
    return _verified((each for each in RELEASED if each.name.lower() == name.lower()),
                     f"no released parameters are named {name}")


def load_released(name, ctx=None):
    """A released network, ready to predict or to be trained further.

    Parameters
    ----------
    name : str
        One of ``[released.name for released in RELEASED]``; case is ignored.
    ctx : mxnet.Context or list of mxnet.Context, optional
        Where it shall compute; the CPU if not given.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Maps normalised images (N, 3, H, W) to logits (N, classes).

    Raises
    ------
    WeightsError
        If there is none of that name, or its file is missing or damaged.
    """
    released = released_by_name(name)
    net = build(released.description, released.outputs)
    load_weights(net, released.path, ctx)
    return net
