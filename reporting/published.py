"""Published accuracies, to stand beside those of a grid's runs."""
import argparse
from dataclasses import dataclass

from common.errors import UserError

from .runs import described_dataset, units_text
from .table import cost_of

__all__ = ["Published", "read_published"]


@dataclass(frozen=True)
class Published:
    """Accuracies of the best epoch, in percent.

    Parameters
    ----------
    source : str
        Where they stand, and what they are of.
    points : dict
        Units, as `runs.units_text` calls them -> {trained parameters: accuracy}.
    """

    source: str
    points: dict


def read_published(content, options, path):
    """What a grid's file holds under ``published``.

    Parameters
    ----------
    content : dict
        ``source``, and ``best``: a list of networks, each with ``act_type``, and of equal
        length ``blocks`` and ``accuracy``.
    options : dict
        Options of train_cifar.py that all cells of the grid share.
    path : str
        The file, for messages.

    Returns
    -------
    Published
        The parameters are counted in our networks of these units and blocks.

    Raises
    ------
    UserError
        If it is something else.
    """
    from runs.describe import describe

    shared = {"model": "resnet_v2_cifar", "dataset": "cifar10", **options}
    points = {}
    try:
        for entry in content["best"]:
            for blocks, accuracy in zip(entry["blocks"], entry["accuracy"], strict=True):
                description = describe(argparse.Namespace(**{
                    **shared, "act_type": entry["act_type"], "blocks": blocks}))
                size = cost_of({**description, "dataset": described_dataset(shared)}).num_params
                if size is None:
                    raise ValueError(f"no network of {blocks!r} blocks on {shared['dataset']}")
                points.setdefault(units_text(description["options"]), {})[size] = float(accuracy)
        return Published(str(content["source"]), points)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: "published" must be {{"source": "...", "best": [{{"act_type": '
                        f'"relu", "blocks": [1, 2], "accuracy": [73.7, 78.5]}}, ...]}}: {error}'
                        ) from None
