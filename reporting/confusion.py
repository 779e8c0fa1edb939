"""What a network takes for what."""
import os
from argparse import Namespace
from functools import cache

import numpy as np

from common.errors import UserError
from common.tables import csv_text
from data import get_dataset
from data.batches import Batches
from runs.evaluation import make_predictor

__all__ = ["evaluate_run", "confusion_matrix", "most_confused", "to_csv"]

# How evaluate.py predicts, unless it is told otherwise.
_HOW = {"engine": "mxnet", "batch_size": 128, "dtype": "float32", "mode": "hybrid"}


_read = cache(get_dataset)    # runs share their data


def evaluate_run(run, data_dir, devices):
    """Confusion matrix of a run's best.params on the test images of its data set.

    Parameters
    ----------
    run : reporting.runs.FinishedRun
    data_dir : str, optional
        Folder of the data; the run's own if not given.
    devices : tuple of str

    Returns
    -------
    matrix : numpy.ndarray
        Counts, see `confusion_matrix`.
    names : list of str
        Of its columns; the first are those of its rows.

    Raises
    ------
    UserError
        If params or data are missing or do not fit.
    """
    path = run.params / "best.params"
    name = str(run.config.get("dataset"))
    if not os.path.isfile(path):
        raise UserError(f"no confusion matrix of {run.name}: there is no {path}")
    # The shapes are drawn: they take no folder.
    place = None if name.lower() == "shapes" else data_dir or run.config.get("data_dir")
    try:
        dataset = _read(name, place)
        predictor = make_predictor(Namespace(params=path, **_HOW), devices, run.description,
                                   dataset)
    except UserError as error:
        raise UserError(f"no confusion matrix of {run.name}: {error}") from None
    batches = Batches(dataset.test, _HOW["batch_size"], train=False)
    matrix = confusion_matrix(predictor, batches, dataset.classes)
    return matrix, [*dataset.class_names, "no class"][:matrix.shape[1]]


def confusion_matrix(predictor, batches, classes):
    """Counts, (true class, predicted class), every image once.

    Where an output without a class was predicted there is a further column, which counts them.
    """
    images = (images for images, _, _ in batches.epoch(0))
    predicted = np.concatenate([logits.argmax(axis=1) for logits in
                                predictor.predict(images, batches.batch_size)])
    matrix = np.zeros((classes, classes + 1), np.int64)
    np.add.at(matrix, (batches.source.labels, np.minimum(predicted, classes)), 1)
    return matrix if matrix[:, classes].any() else matrix[:, :classes]


def most_confused(matrix, names, count=5):
    """The pairs most often confused: (true, predicted, share of the true class)."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, shares.shape))
    return [(names[i], names[j], float(shares[i, j])) for i, j in pairs
            if shares[i, j] > 0]


def to_csv(matrix, names):
    """The counts, a row a true class."""
    return csv_text(["true \\ predicted", *names],
                    *([name, *map(int, row)] for name, row in zip(names, matrix)))
