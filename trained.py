"""Trained networks from parameter files, for the scripts that look at them.

The JSON beside a parameter file says which network it holds and what it was trained on.
"""
from pathlib import Path

from training.errors import UserError
from training.files import read_json

__all__ = ["find_description", "load_network"]


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
        ``dataset`` (``name``, ``class_names``, ``mean``, ``std``, ``image_size``).

    Raises
    ------
    UserError
        If there is no such file, or nothing describes it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    beside = path.with_suffix(".json")
    try:
        if beside.is_file():
            return _checked(read_json(beside), beside)
        if not options.model or not options.dataset:
            raise UserError(f"{path} has no description beside it ({beside.name}): say what it "
                            "holds with --model, --dataset and the options of the network")
        from model.zoo import describe
        return describe(options)
    except ValueError as error:
        raise UserError(str(error)) from None


def _checked(description, path):
    """`description`, if it has what is needed."""
    if not (isinstance(description.get("model"), str)
            and isinstance(description.get("options"), dict)
            and isinstance(description.get("dataset"), dict)
            and isinstance(description["dataset"].get("name"), str)):
        raise UserError(f"{path} does not describe a network: it must name model, options and "
                        "dataset")
    return description


def load_network(path, description, classes, contexts):
    """The described network with the file's parameters, in float32.

    Raises
    ------
    UserError
        If the description or the file does not fit.
    """
    from model.zoo import build, load_weights

    try:
        net = build(description, classes)
        load_weights(net, path, contexts)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    return net
