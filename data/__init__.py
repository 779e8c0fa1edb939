"""Data sets as arrays, and the batches drawn from them.

    dataset = get_dataset("cifar10")                  # reads, downloads or draws
    train = Batches(dataset.train, batch_size=128)    # from data.batches
    for images, labels, indices in train.epoch(0):
        ...

Images stay uint8, (N, 3, 32, 32), from the file to the device; normalisation happens
there. Nothing in this package imports MXNet but the ImageNet readers, and importing the
package itself does not even import NumPy, so that a script's ``--help`` stays quick.

A data set is added by a function that returns a `Dataset`, under the decorator
``DATASETS.register(name)``; import its module in `data.catalog`.
"""
from data.catalog import get_dataset, list_datasets
from data.dataset import DATASETS, DataError, Dataset, ImageSet

__all__ = ["DATASETS", "DataError", "Dataset", "ImageSet", "get_dataset", "list_datasets"]
