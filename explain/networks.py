"""The networks to look into, from their parameter files."""
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from common.errors import UserError
from model.registry import did_you_mean
from runs.trained import count_outputs, find_description, load_network

__all__ = ["Subject", "load_subjects", "class_index", "class_name"]

# Letters of a run's name that fit above a picture.
_LONGEST_NAME = 20
_KEYS = ("name", "class_names", "mean", "std", "image_size")


@dataclass(frozen=True)
class Subject:
    """A network and what belongs to it.

    Parameters
    ----------
    name : str
        For people: its run, as a rule.
    net : mxnet.gluon.Block
    to_input : callable
        Images, uint8 (N, 3, H, W), to the network's input, where it is.
    data : dict
        ``name``, ``class_names``, ``mean``, ``std``, ``image_size`` of its training data, and
        ``outputs`` where the network has more of them than there are names.
    """

    name: str
    net: object
    to_input: object
    data: dict


def load_subjects(paths, options, context):
    """Load networks that tell the same classes apart.

    Parameters
    ----------
    paths : list of str or pathlib.Path
        Parameter files.
    options : argparse.Namespace
        With ``dataset``, ``data_dir``, ``data_url``, and, for files without a JSON beside
        them, the options of the network.
    context : mxnet.Context

    Returns
    -------
    subjects : list of Subject
    load_data : callable
        ``load_data()`` reads the data set.

    Raises
    ------
    UserError
        If a file is missing, nothing describes it, it does not fit, or the networks do not
        belong together.
    """
    from data import get_dataset, list_datasets
    from engines.gluon import Normalize

    descriptions = [find_description(path, options) for path in paths]
    name = options.dataset or descriptions[0]["dataset"]["name"]

    @cache
    def load_data():
        if not options.dataset and name.lower() not in list_datasets():
            raise UserError(f"{paths[0]} was trained on {name}, photographs that are not looked "
                            "up: give some with --images, files or folders")
        return get_dataset(name, options.data_dir, options.data_url)

    subjects = []
    for path, label, description in zip(paths, _labels(paths, descriptions),
                                        descriptions):
        data = description.get("dataset", {})
        if any(data.get(key) is None for key in _KEYS):
            data = {key: getattr(load_data(), key) for key in (*_KEYS, "outputs")}
        _check_same(subjects, label, data)
        outputs = count_outputs(description) or count_outputs({"dataset": data})
        net = load_network(path, description, outputs, [context])
        to_input = partial(Normalize(data["mean"], data["std"]), ctx=context)
        subjects.append(Subject(label, net, to_input, data))
    return subjects, load_data


def _check_same(subjects, name, data):
    for key, what in (("class_names", "classes"), ("image_size", "images")):
        if subjects and subjects[0].data[key] != data[key]:
            raise UserError(f"{subjects[0].name} and {name} were trained on different {what} "
                            f"({subjects[0].data['name']} and {data['name']}): look into them "
                            "one at a time")


def _labels(paths, descriptions):
    """What the networks are called: by their runs, or by their units where those names are long."""
    names, titles = _names(paths), [_title(description) for description in descriptions]
    too_long = len(names) > 1 and max(map(len, names)) > _LONGEST_NAME
    return titles if too_long and len(set(titles)) == len(titles) else names


def _title(description):
    """A network by its units: "resnet18 CBAM at block"."""
    options = description["options"]
    units = [str(options[slot]) for slot in ("activation", "attention") if options.get(slot)]
    if len(units) > 1 and units[0] == "relu":
        del units[0]
    places = [f"at {', '.join(options['attention_at'])}"] if options.get("attention_at") else []
    blocks = [f"b{options['blocks']}"] if "blocks" in options else []
    return " ".join([description["model"], *blocks, *units, *places])


def _names(paths):
    """A short name for each parameter file: its run's, where that tells them apart."""
    names = [_name(Path(path)) for path in paths]
    return [name if names.count(name) == 1 else str(Path(path).with_suffix(""))
            for name, path in zip(names, paths)]


def _name(path):
    run = path.resolve().parent.name
    if path.stem == "best":
        return run
    in_run = path.stem == "last" or path.stem.startswith("epoch-")
    return f"{run} ({path.stem})" if in_run else path.stem


def class_name(index, class_names):
    """What to call an output: by its class, or by its number where it has none."""
    return class_names[index] if index < len(class_names) else f"output {index}"


def class_index(text, class_names):
    """The number of a class that is given by name or by number.

    Raises
    ------
    UserError
        If there is no such class.
    """
    by_name = {name.lower(): index for index, name in enumerate(class_names)}
    if text.lower() in by_name:
        return by_name[text.lower()]
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    raise UserError(f"unknown class '{text}'.{did_you_mean(text, class_names)} Known: "
                    f"{_few(class_names)}; or a number from 0 to {len(class_names) - 1}")


def _few(names, limit=20):
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more"
                                       if len(names) > limit else "")
