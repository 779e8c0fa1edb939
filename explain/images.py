"""Pictures to look at: from a data set, from files."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.decoding import SUFFIXES, decode

__all__ = ["Picture", "dataset_pictures", "file_pictures", "image_files"]

_SHOWN = 256    # pixels: side of what is kept of a file for drawing


@dataclass(frozen=True)
class Picture:
    """An image for the networks, and for people.

    Parameters
    ----------
    pixels : (3, S, S) uint8
        What the networks see.
    shown : (H, W, 3) uint8
        What is drawn: the same cut-out, possibly finer.
    title : str
    label : str or None
        Name of its class, if that is known.
    """

    pixels: np.ndarray
    shown: np.ndarray
    title: str
    label: str


def dataset_pictures(dataset, indices):
    """Test images of a data set.

    Raises
    ------
    UserError
        If an index is out of range.
    """
    wrong = [index for index in indices if index >= len(dataset.test)]
    if wrong:
        raise UserError(f"there is no test image {wrong[0]}: {dataset.title} has "
                        f"{len(dataset.test):,}, numbered from 0")
    return [Picture(dataset.test.images[index], dataset.test.images[index].transpose(1, 2, 0),
                    f"image {index}", dataset.class_names[dataset.test.labels[index]])
            for index in indices]


def image_files(paths):
    """The files that are named, and the image files in the folders that are named.

    Raises
    ------
    UserError
        If a path does not exist or a folder holds no images.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"the folder {path} holds no image files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"there is no image {path}")
    return found


def file_pictures(paths, size, class_names):
    """Pictures of image files: the middle square, scaled to `size` pixels for the networks.

    A file in a folder that bears a class's name belongs to that class; of others no class is
    known.

    Raises
    ------
    UserError
        If a file cannot be decoded.
    """
    return [_file_picture(path, size, class_names) for path in paths]


def _file_picture(path, size, class_names):
    from PIL import Image, ImageOps

    try:
        image = decode(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None
    resample = Image.Resampling.LANCZOS
    pixels = np.asarray(ImageOps.fit(image, (size, size), resample))
    side = max(size, min(_SHOWN, *image.size))
    shown = np.asarray(ImageOps.fit(image, (side, side), resample))
    folder = Path(path).resolve().parent.name
    return Picture(np.ascontiguousarray(pixels.transpose(2, 0, 1)), shown, Path(path).name,
                   folder if folder in class_names else None)
