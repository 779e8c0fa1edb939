"""Trained networks from parameter files, for the scripts that look at them.

The JSON beside a parameter file says which network it holds and what it was trained on.
"""
import os
import sys
from pathlib import Path

from common.errors import MissingFile, UserError
from common.files import open_file, read_json

__all__ = ["check_description", "check_fits", "count_classes", "count_outputs",
           "find_description", "load_network", "read_description"]


def find_description(path, options):
    """What the JSON beside a parameter file says, or the options for a file without one.

    Parameters
    ----------
    path : str or pathlib.Path
        File written by ``save_parameters``.
    options : argparse.Namespace
        With ``model``, ``dataset`` and the options of the network.

    Returns
    -------
    dict
        ``model`` and ``options`` as `model.zoo.build` takes them; from a JSON also
        ``dataset`` (``name``, ``classes``, ``outputs``, ``class_names``, ``mean``, ``std``,
        ``image_size``).

    Raises
    ------
    UserError
        If there is no such file, or nothing describes it.
    """
    path = Path(path)
    try:
        open_file(path).close()
    except MissingFile:
        raise UserError(f"there is no file {path}") from None
    beside = path.with_suffix(".json")
    if os.path.lexists(beside):
        return read_description(beside)
    if not options.model or not options.dataset:
        raise UserError(f"{path} has no description beside it ({beside.name}): say what it "
                        "holds with --model, --dataset and the options of the network")
    from runs.describe import describe
    return describe(options)


def read_description(path):
    """The description that a JSON file holds, checked.

    Raises
    ------
    UserError
        If it cannot be read or is none.
    """
    return check_description(read_json(path), path)


def check_description(description, path):
    """`description`, if it has what is needed and is of a size that can be built.

    Raises
    ------
    UserError
        If not; says that `path` holds it.
    """
    if not (isinstance(description.get("model"), str)
            and isinstance(description.get("options"), dict)
            and isinstance(description.get("dataset"), dict)
            and isinstance(description["dataset"].get("name"), str)):
        raise UserError(f"{path} does not describe a network: it must name model, options and "
                        "dataset")
    if not _is_bounded(description["options"]):
        raise UserError(f"{path}: the options of its network hold a number beyond "
                        f"{_LARGEST_OPTION}, or too much of anything")
    for name in ("mean", "std"):
        values = description["dataset"].get(name, [1.0, 1.0, 1.0])
        if not (isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))
                and (name == "mean" or min(values) > 0)):
            raise UserError(f"{path}: {name} of its data set must be three numbers"
                            + ("" if name == "mean" else " above 0"))
    names, size = (description["dataset"].get(name) for name in ("class_names", "image_size"))
    if not (names is None or (isinstance(names, list) and names
                              and all(isinstance(name, str) for name in names))):
        raise UserError(f"{path}: class_names of its data set must be a list of names")
    if not (size is None or (isinstance(size, int) and 0 < size <= _LARGEST_OPTION)):
        raise UserError(f"{path}: image_size of its data set must be a number of pixels, up to "
                        f"{_LARGEST_OPTION}")
    _check_counts(description["dataset"], path)
    figures = description.get("figures", {"val_accuracy": 0.0})
    if not (isinstance(figures, dict) and _is_number(figures.get("val_accuracy"))
            and isinstance(description.get("epoch", 0), int)
            and isinstance(description.get("val_name", ""), str)
            and ("figures" not in description or {"epoch", "val_name"} <= description.keys())):
        raise UserError(f"{path}: its figures are damaged")
    return description


def _check_counts(dataset, path):
    """Raise UserError unless the counts of classes and of outputs are sound and fit together."""
    fewest = len(dataset.get("class_names") or ()) or 1
    for key in ("classes", "outputs"):
        count = dataset.get(key)
        if count is None:
            continue
        if type(count) is not int or not fewest <= count <= _MOST_OUTPUTS:
            raise UserError(f"{path}: {key} of its data set must be a whole number from {fewest} "
                            f"to {_MOST_OUTPUTS:,}, not {count!r}")
        fewest = count


def count_classes(description):
    """How many classes the described network tells apart, or None where that is not said."""
    dataset = description.get("dataset") or {}
    return dataset.get("classes") or len(dataset.get("class_names") or ()) or None


def count_outputs(description):
    """How many outputs the described network has, or None where that is not said.

    They may be more than its classes (`data.cifar`). Descriptions of earlier versions do not
    say them: then there are as many as classes.
    """
    return (description.get("dataset") or {}).get("outputs") or count_classes(description)


def check_fits(path, description, outputs, dataset):
    """Raise UserError unless a network can be scored on a data set.

    Parameters
    ----------
    path : str or pathlib.Path
        Where the network is, for the message.
    description : dict
        Of the network.
    outputs : int
        How many it has.
    dataset : data.Dataset
        Or another with ``name``, ``classes`` and ``outputs``.
    """
    classes = count_classes(description)
    if classes is None and outputs == dataset.outputs:
        return
    if classes != dataset.classes or outputs < dataset.outputs:
        known = "" if classes is None else f"tells {classes:,} classes apart and "
        raise UserError(f"{path} {known}has {outputs:,} outputs; {dataset.name} has "
                        f"{dataset.classes:,} classes and asks for {dataset.outputs:,} outputs")


# Enough for every network here; more blocks or channels would take hours to build.
_LARGEST_OPTION, _MOST_OPTIONS, _MOST_OUTPUTS = 1024, 4096, 1 << 20


def _is_number(value):
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max)


def _is_bounded(options):
    """Whether all numbers in a JSON value are small and there are not too many values."""
    values = [options]
    for count, value in enumerate(values):
        if count > _MOST_OPTIONS:
            return False
        if isinstance(value, (dict, list)):
            values.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST_OPTION:
            return False
    return True


def load_network(path, description, outputs, contexts=None):
    """The described network, with so many outputs, and the file's parameters, in float32.

    It is on the `contexts`, or on the CPU if none are given.

    Raises
    ------
    UserError
        If the description or the file does not fit.
    """
    from model.zoo import build
    from runs.weights import load_weights

    try:
        net = build(description, outputs)
        load_weights(net, path, contexts)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
            AssertionError) as error:
        raise UserError(f"the description of {path} fits no network "
                        f"({type(error).__name__}: {error})") from None
    return net
