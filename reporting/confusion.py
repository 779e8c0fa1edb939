"""What a network takes for what."""
import numpy as np

from common.errors import UserError

__all__ = ["evaluate_run", "confusion_matrix", "most_confused", "to_csv"]


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
        Counts, (true class, predicted class).
    class_names : list of str

    Raises
    ------
    UserError
        If params or data are missing or do not fit.
    """
    from data import get_dataset
    from data.batches import Batches
    from model.zoo import build, load_weights
    from training.epoch import Normalize

    path = run.params / "best.params"
    name = str(run.config.get("dataset"))
    if not path.is_file():
        raise UserError(f"no confusion matrix of {run.name}: there is no {path}")
    # The shapes are drawn: they take no folder.
    place = None if name.lower() == "shapes" else data_dir or run.config.get("data_dir")
    try:
        if (name, place) not in datasets:
            datasets[name, place] = get_dataset(name, place)
        dataset = datasets[name, place]
        net = build(run.description, dataset.classes)
        load_weights(net, str(path), contexts)
    except (ValueError, TypeError) as error:
        raise UserError(f"no confusion matrix of {run.name}: {error}") from None
    net.hybridize(static_alloc=True, static_shape=True)
    source = run.description.get("dataset") or {}
    normalize = Normalize(source.get("mean", dataset.mean), source.get("std", dataset.std))
    return confusion_matrix(net, Batches(dataset.test, 128, train=False), normalize,
                            contexts[0], dataset.classes), list(dataset.class_names)


def confusion_matrix(net, batches, normalize, ctx, classes):
    """Counts, (true class, predicted class), every image once."""
    matrix = np.zeros((classes, classes), np.int64)
    for images, labels, _ in batches.epoch(0):
        # A partial batch is filled up, so that one compiled graph serves all.
        padding = batches.batch_size - len(images)
        filled = np.concatenate([images, np.repeat(images[:1], padding, axis=0)])
        predicted = net(normalize(filled, ctx)).argmax(axis=1).asnumpy().astype(np.int64)
        np.add.at(matrix, (np.asarray(labels, np.int64), predicted[:len(images)]), 1)
    return matrix


def most_confused(matrix, class_names, count=5):
    """The pairs most often confused: (true, predicted, share of the true class)."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, shares.shape))
    return [(class_names[i], class_names[j], float(shares[i, j])) for i, j in pairs
            if shares[i, j] > 0]


def to_csv(matrix, class_names):
    """The counts, a row a true class."""
    from .table import _csv

    return _csv(["true \\ predicted", *class_names],
                [[name, *map(int, row)] for name, row in zip(class_names, matrix)])
