"""What a network takes for what."""
import os

import numpy as np

from common.errors import UserError
from runs.description import check_fits, count_outputs

__all__ = ["evaluate_run", "confusion_matrix", "most_confused", "to_csv"]

_BATCH = 128


def evaluate_run(run, data_dir, contexts, datasets):
    """Confusion matrix of a run's best.params on the test images of its data set.

    Parameters
    ----------
    run : reporting.runs.FinishedRun
    data_dir : str, optional
        Folder of the data; the run's own if not given.
    contexts : list of mxnet.Context
    datasets : dict
        Data sets that are read already; filled here.

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
    from data import get_dataset
    from data.batches import Batches
    from engines.gluon import Normalize
    from graph.fast_cpu import hybridize
    from model.zoo import build
    from runs.weights import load_weights

    path = run.params / "best.params"
    name = str(run.config.get("dataset"))
    if not os.path.isfile(path):
        raise UserError(f"no confusion matrix of {run.name}: there is no {path}")
    # The shapes are drawn: they take no folder.
    place = None if name.lower() == "shapes" else data_dir or run.config.get("data_dir")
    try:
        if (name, place) not in datasets:
            datasets[name, place] = get_dataset(name, place)
        dataset = datasets[name, place]
        outputs = count_outputs(run.description) or dataset.outputs
        check_fits(path, run.description, outputs, dataset)
        net = build(run.description, outputs)
        load_weights(net, str(path), contexts)
    except (ValueError, TypeError) as error:
        raise UserError(f"no confusion matrix of {run.name}: {error}") from None
    hybridize(net, (_BATCH, 3, dataset.image_size, dataset.image_size), contexts)
    source = run.description.get("dataset") or {}
    normalize = Normalize(source.get("mean", dataset.mean), source.get("std", dataset.std))
    matrix = confusion_matrix(net, Batches(dataset.test, _BATCH, train=False), normalize,
                              contexts[0], dataset.classes)
    return matrix, [*dataset.class_names, "no class"][:matrix.shape[1]]


def confusion_matrix(net, batches, normalize, ctx, classes):
    """Counts, (true class, predicted class), every image once.

    Where an output without a class was predicted there is a further column, which counts them.
    """
    matrix = np.zeros((classes, classes + 1), np.int64)
    for images, labels, _ in batches.epoch(0):
        # A partial batch is filled up, so that one compiled graph serves all.
        padding = batches.batch_size - len(images)
        filled = np.concatenate([images, np.repeat(images[:1], padding, axis=0)])
        predicted = net(normalize(filled, ctx)).argmax(axis=1).asnumpy().astype(np.int64)
        predicted = np.minimum(predicted[:len(images)], classes)
        np.add.at(matrix, (np.asarray(labels, np.int64), predicted), 1)
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
    from .table import _csv

    return _csv(["true \\ predicted", *names],
                [[name, *map(int, row)] for name, row in zip(names, matrix)])
