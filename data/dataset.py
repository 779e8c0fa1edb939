"""What a data set is, and where its loader is filed."""
import dataclasses
from typing import Any

from common.errors import DataError
from model.registry import Registry

__all__ = ["DATASETS", "DataError", "Dataset", "DatasetInfo", "ImageSet"]

# Name -> loader. A loader takes ``(data_dir, data_url, log)``, of which the first two may be
# None, and returns a `Dataset` whose `val` is its `test`.
DATASETS = Registry("data set")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    Parameters
    ----------
    images : numpy.ndarray
        uint8, (N, 3, H, W), C-contiguous, red-green-blue, 0 to 255.
    labels : numpy.ndarray
        int32, (N,).
    """

    images: Any
    labels: Any

    def __post_init__(self):
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self):
        return len(self.labels)

    def content(self, number):
        """Bytes of image `number`."""
        return self.images[number].tobytes()

    def take(self, indices):
        """A copy of the images at `indices` (a slice gives a view)."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DatasetInfo:
    """What is known of a data set apart from the images.

    Parameters
    ----------
    name : str
        Name in the registry, and in file names.
    title : str
        Name for people.
    class_names : list of str
        In the order of the labels.
    mean, std : tuple of 3 floats
        Of the channels, on the scale where a pixel is in [0, 1].
    image_size : int, default 32
        Height and width of the images, or of the crops.
    outputs : int, optional
        How many outputs a network for it has; as many as there are classes if not given.
    """

    name: str
    title: str
    class_names: list
    mean: tuple
    std: tuple
    image_size: int = 32
    outputs: int = None

    def __post_init__(self):
        if self.outputs is None:
            object.__setattr__(self, "outputs", len(self.class_names))

    @property
    def classes(self):
        """Number of classes."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(DatasetInfo):
    """A data set in memory.

    Parameters
    ----------
    train, val, test : ImageSet
        `val` is what a run selects on: the held-out training images if there are any,
        else `test` itself.
    official_train, official_test : int
        How many images the complete data set has.

    The others are those of `DatasetInfo`.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    official_train: int
    official_test: int

    @property
    def val_name(self):
        """What the images of `val` are."""
        return "test" if self.val is self.test else "validation"

    @property
    def description(self):
        """One line that counts the images."""
        held_out = ("" if self.val is self.test else
                    f"{len(self.val):,} held out for validation, ")
        unused = ("" if self.outputs == self.classes else
                  f"; {self.classes} classes under {self.outputs} outputs")
        return (f"{self.title}: {len(self.train):,} of {self.official_train:,} training "
                f"images, {held_out}{len(self.test):,} of {self.official_test:,} test images"
                f"{unused}")
