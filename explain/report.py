"""From networks and pictures to files: what gradcam.py does, step by step."""
from dataclasses import replace

import numpy as np

from common.files import write_text
from common.tables import csv_text

from .cam import grad_cam
from .faithfulness import measure
from .figures import Caption, Column, draw_gallery, draw_gates
from .gates import read_gates
from .layers import default_layer, trace
from .networks import class_name

__all__ = ["layer_lines", "gallery", "gates", "faithfulness"]

_TITLES = {"grad-cam": "Grad-CAM", "grad-cam++": "Grad-CAM++"}
_SHOWN = 6     # images in a figure of gates


def layer_lines(subject):
    """A line for each layer that can be looked at; the default one is marked."""
    size = subject.data["image_size"]
    layers = trace(subject.net, subject.to_input(np.zeros((1, 3, size, size), np.uint8)))
    default = default_layer(layers)
    width = max(len(layer.name) for layer in layers)
    return [f"{layer.name:{width}}  {type(layer.block).__name__:20} "
            f"{' x '.join(map(str, layer.shape))}{'   (default)' if layer is default else ''}"
            for layer in layers]


def gallery(path, subjects, pictures, method, layer=None, label=None):
    """Draw the gallery of `explain.figures`.

    Parameters
    ----------
    path : pathlib.Path
    subjects : list of explain.networks.Subject
    pictures : list of explain.images.Picture
    method : str
        See `explain.cam.grad_cam`.
    layer : str, optional
    label : int, optional
        Class that the maps are about; what each network predicts if not given.
    """
    images = np.stack([picture.pixels for picture in pictures])
    columns = []
    for subject in subjects:
        cam = grad_cam(subject.net, subject.to_input(images), label, layer, method)
        columns.append(Column(subject.name, cam.maps,
                              _captions(cam, pictures, subject.data["class_names"])))
    title = _TITLES[method] + (f" of {subjects[0].name}" if len(subjects) == 1 else "")
    about = "the predicted class" if label is None else (
        f"the class {subjects[0].data['class_names'][label]}")
    draw_gallery(path, pictures, columns, f"{title}: what speaks for {about}")


def _captions(cam, pictures, class_names):
    captions = []
    for picture, probabilities in zip(pictures, cam.probabilities):
        best = int(probabilities.argmax())
        name = class_name(best, class_names)
        right = None if picture.label is None else picture.label == name
        captions.append(Caption(f"{name} {100 * probabilities[best]:.0f} %", right))
    return captions


def gates(path, table, subject, pictures, images):
    """Draw the gates of a network, and write their figures as CSV.

    Parameters
    ----------
    path, table : pathlib.Path
        PNG and CSV file.
    subject : explain.networks.Subject
    pictures : list of explain.images.Picture
        Images whose maps are drawn; the first six.
    images : (N, 3, H, W) uint8
        Images over which the values are counted.

    Returns
    -------
    list of dict
        The table's rows: one for each unit.
    """
    pictures = pictures[:_SHOWN]
    shown = read_gates(subject.net, subject.to_input(np.stack([p.pixels for p in pictures])))
    counted = read_gates(subject.net, subject.to_input(images))
    draw_gates(path, pictures, [replace(layer, maps=own.maps)
                                for layer, own in zip(counted, shown)],
               f"Gates of {subject.name}, values over {len(images):,} images")
    rows = [{"layer": layer.name, "unit": layer.kind, "mean": layer.mean,
             "deviation": layer.deviation, "below_0.1": layer.closed, "above_0.9": layer.open,
             "relu_on": layer.relu_on, "where_on": layer.when_on, "where_off": layer.when_off,
             **dict(zip(("var_channels", "var_images", "var_places"), map(float, layer.shares)))}
            for layer in counted]
    _write_csv(table, rows)
    return rows


def faithfulness(table, subjects, images, method, layer=None, label=None):
    """Measure deletion and insertion for every network, and write them as CSV.

    Returns
    -------
    list of dict
        The table's rows: one for each network.
    """
    rows = []
    for subject in subjects:
        cam = grad_cam(subject.net, subject.to_input(images), label, layer, method)
        found = measure(subject.net, subject.to_input, images, cam.maps, cam.classes)
        rows.append({"network": subject.name, "layer": cam.layer,
                     **{key: value if key == "images" else float(value)
                        for key, value in found.summary().items()}})
    _write_csv(table, rows)
    return rows


def _write_csv(path, rows):
    """Write dicts with the same keys as CSV. Floats keep every bit."""
    write_text(path, csv_text(rows[0], *(row.values() for row in rows)))
