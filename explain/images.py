"""Pictures to look at: from a data set, from files."""
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import read_bytes
from common.screen import printable
from data.decoding import MOST_BYTES, decode
from data.photos import few, find_images

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


def image_files(paths, log=print):
    """The files that are named, and the image files in the folders that are named.

    Parameters
    ----------
    paths : iterable of str or pathlib.Path
    log : callable, default print
        Receives a line for each folder that counts what is not used there, and names some of it.

    Raises
    ------
    UserError
        If a path does not exist or a folder cannot be read or holds no images.
    """
    found = []
    for path in map(Path, paths):
        if os.path.isdir(path):
            inside, unused = find_images(path)
            if unused:
                log(f"{printable(path)}: not used: {few(unused)}")
            if not inside:
                raise UserError(f"the folder {printable(path)} holds no image files")
            found += [path / file for file in inside]
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"there is no image {printable(path)}")
    return found


def file_pictures(paths, size, class_names, log=print):
    """Pictures of image files: the middle square, scaled to `size` pixels for the networks.

    A file in a folder that bears a class's name belongs to that class; of others no class is
    known. A file that is no image is named, and costs the others nothing.

    Parameters
    ----------
    paths : iterable of str or pathlib.Path
    size : int
        In pixels.
    class_names : list of str
    log : callable, default print
        Receives a line for each file that is left out.

    Raises
    ------
    UserError
        If not one file can be decoded.
    """
    pictures, problems = [], []
    for path in map(Path, paths):
        try:
            pictures.append(_file_picture(path, size, class_names))
        except UserError as error:
            problems.append(f"{printable(path)} cannot be read as an image: {error}")
    if problems and not pictures:
        raise UserError(f"{problems[0]}{'; nor can any other' if len(problems) > 1 else ''}")
    for problem in problems:
        log(f"left out: {problem}")
    return pictures


def _file_picture(path, size, class_names):
    from PIL import Image, ImageOps

    image = decode(read_bytes(path, MOST_BYTES))
    resample = Image.Resampling.LANCZOS
    pixels = np.asarray(ImageOps.fit(image, (size, size), resample))
    side = max(size, min(_SHOWN, *image.size))
    shown = np.asarray(ImageOps.fit(image, (side, side), resample))
    folder = path.resolve().parent.name
    return Picture(np.ascontiguousarray(pixels.transpose(2, 0, 1)), shown, printable(path.name),
                   folder if folder in class_names else None)
