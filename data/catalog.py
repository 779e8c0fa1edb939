"""Data sets by name."""
import dataclasses

from common.errors import DataError
from data.dataset import DATASETS

__all__ = ["get_dataset", "list_datasets"]


def list_datasets():
    """The registered names, sorted."""
    return _datasets().names()


def _datasets():
    # Imported here, so that `python -m data.shapes` is not imported before it is run.
    from data import cifar, shapes  # noqa: F401  (they register their data sets)

    return DATASETS


def get_dataset(name, data_dir=None, data_url=None, limit_train=None, val_split=0, seed=0,
                log=print):
    """Load a data set by name.

    Parameters
    ----------
    name : str
        One of `list_datasets()`; case is ignored.
    data_dir : str or path, default None
        Folder with the files; None is the data set's own default.
    data_url : str, default None
        Where to download the archive from if the files are missing; see `data.cifar`.
    limit_train : int, default None
        Keep the first `limit_train` of the training images that are not held out.
    val_split : int, default 0
        Hold out that many training images as `val`, drawn from the whole training set
        with the classes in proportion; they do not depend on `limit_train`.
    seed : int, default 0
        Chooses the held-out images, nothing else: the data are the same for every seed.
    log : callable, default print
        Receives lines of text: of a download, and of what was adjusted.

    Raises
    ------
    DataError
        If the files are missing and cannot be downloaded, or are damaged; or if an argument is
        out of its range.
    UserError
        If the name is unknown.
    """
    load = _datasets()[name]
    if limit_train is not None and limit_train < 1:
        raise DataError(f"limit_train is {limit_train}; it must be at least 1")
    if val_split < 0:
        raise DataError(f"val_split is {val_split}; it must not be negative")
    dataset = load(data_dir, data_url, log)
    if val_split:
        dataset = _hold_out(dataset, val_split, seed)
    if limit_train is not None:
        if limit_train > len(dataset.train):
            log(f"{dataset.title}: {limit_train:,} training images asked for, all "
                f"{len(dataset.train):,} there are will be used")
        dataset = dataclasses.replace(dataset, train=dataset.train.take(slice(limit_train)))
    return dataset


def _hold_out(dataset, count, seed):
    """`dataset` with `count` of its training images moved to `val`, stratified by class."""
    import numpy as np

    from data.streams import permutation

    total = len(dataset.train)
    if count >= total:
        raise DataError(f"val_split is {count:,}, but there are only {total:,} training "
                         "images and at least one must remain")
    order = permutation(total, seed, "hold out")
    # An image's place in its own class, between 0 and 1: the smallest places of all
    # classes together are a stratified sample.
    place = np.empty(total)
    labels = dataset.train.labels[order]
    for label in range(dataset.classes):
        members = order[labels == label]
        place[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    chosen = order[np.argsort(place[order], kind="stable")[:count]]
    held_out = np.zeros(total, bool)
    held_out[chosen] = True
    return dataclasses.replace(dataset, train=dataset.train.take(~held_out),
                               val=dataset.train.take(held_out))
