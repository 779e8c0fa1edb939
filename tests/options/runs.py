"""Very small runs of the scripts, in this process, and which options the tests here look at."""
import argparse
import collections
import csv
import importlib
import itertools
import json
import os
import signal
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import matplotlib.figure
import mxnet as mx
import numpy as np

from common.arguments import Scope
from data.cifar import MEAN, STD
from engines.input_statistics import keep_input_statistics
from model import get_model
from tests.data.cifar_files import LAYOUTS

COVERED = collections.defaultdict(set)    # script -> names of options that a test looks at
_numbers = itertools.count()


def make_parser(script):
    """The parser of a script."""
    return importlib.import_module(script.removesuffix(".py")).make_parser()


def _name(action):
    """The name of an option; a flag that stands for another one, or is refused, has its own."""
    return action.option_strings[0] if action.dest == argparse.SUPPRESS else action.dest


def computing(script):
    """Names of the options of a script that change what is computed."""
    return {_name(action) for action in make_parser(script)._actions
            if action.scope & Scope.COMPUTES}


def covers(script, *words):
    """Note that a test looks at the options among the words of a command line.

    Returns
    -------
    callable
        A decorator that changes nothing, so that it may stand above the test.
    """
    actions = make_parser(script)._option_string_actions
    for word in " ".join(words).split():
        if word.startswith("-") and word.lstrip("-")[:1].isalpha():
            COVERED[script].add(_name(actions[word]))
    return lambda test: test


class Run:
    """What a finished run left."""

    def __init__(self, folder, name):
        self.name, self.logs, self.params = name, folder / "logs" / name, folder / "params" / name

    @property
    def rows(self):
        """The rows of metrics.csv, as numbers."""
        with open(self.logs / "metrics.csv", newline="") as stream:
            return [{key: float(value) for key, value in row.items()}
                    for row in csv.DictReader(stream)]

    def column(self, name):
        """A column of metrics.csv."""
        return [row[name] for row in self.rows]

    @property
    def result(self):
        """The content of result.json."""
        return json.loads((self.logs / "result.json").read_text())

    def arrays(self, which="last"):
        """The arrays of a parameter file, by name."""
        return read_arrays(self.params / f"{which}.params")


def run(script, folder, *words, code=0):
    """Run a training script to its end, on the CPU.

    Parameters
    ----------
    script : str
    folder : pathlib.Path
        Where the folders of runs go.
    words
        Of the command line; each is split at its spaces, if it is a string.
    code : int, default 0
        The expected exit code.
    """
    words = [part for word in words
             for part in (word.split() if isinstance(word, str) else [str(word)])]
    if "--name" not in words:
        words += ["--name", f"run{next(_numbers)}"]
    main = importlib.import_module(script.removesuffix(".py")).main
    assert main([*words, "--num-gpus", "0", "-j", "0", "--save-dir", str(folder / "params"),
                 "--log-dir", str(folder / "logs")]) == code
    return Run(folder, words[words.index("--name") + 1])


# ---- data and networks ---------------------------------------------------------------------------

def stops_after(epochs, monkeypatch):
    """Send this process a SIGTERM when the curves of that many epochs are drawn."""
    drawn = []

    def savefig(_, path, **__):
        Path(path).write_bytes(b"")
        drawn.append(path)
        if len(drawn) == epochs:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)


def write_cifar(folder, train, test, layout="cifar10"):
    """Write (images, labels) as official files; labels of CIFAR-100 are (coarse, fine)."""
    layout = LAYOUTS[layout]
    folder.mkdir(parents=True, exist_ok=True)
    for names, (images, labels) in ((layout.train_files, train), (layout.test_files, test)):
        labels = np.reshape(labels, (len(images), layout.label_bytes)).astype(np.uint8)
        content = np.concatenate([labels, np.reshape(images, (len(images), -1))], axis=1)
        for name in names:    # the first file has all, the others are empty
            (folder / name).write_bytes(content.tobytes() if name == names[0] else b"")
    return folder


def noise(count, seed=0, size=32):
    """(count, 3, size, size) random pixels."""
    return np.random.RandomState(seed).randint(0, 256, (count, 3, size, size)).astype(np.uint8)


def patterns(count, seed=0, size=32):
    """(count, 3, size, size) coarse random patterns: other crops of them look different."""
    coarse = np.random.RandomState(seed).randint(0, 256, (count, 3, size // 8, size // 8))
    return coarse.repeat(8, axis=2).repeat(8, axis=3).astype(np.uint8)


def network(model="resnet_v2_cifar", classes=10, seed=7, **options):
    """A network with random parameters; the smallest one, unless told otherwise."""
    if model == "resnet_v2_cifar":
        options = {"blocks": 1, "activation": "relu", **options}
    np.random.seed(seed)
    mx.random.seed(seed)
    net = get_model(model, classes=classes, **options)
    keep_input_statistics(net)
    if model.endswith("_v1b"):
        net.infer_shape(mx.nd.zeros((1, 3, 32, 32)))    # GluonCV leaves some shapes open
    net.initialize(mx.init.MSRAPrelu())
    return net


def constant_network(bias, **options):
    """A network whose logits are its last bias, whatever it sees, also while it learns.

    The last normalisation has the scale 0 and the shift 0. So the map that is averaged is 0,
    and no gradient but the bias' is other than 0.
    """
    net = network(classes=len(bias), **options)
    parameters = net._collect_params_with_prefix()
    last = max(int(name.split(".")[1]) for name in parameters if name.endswith(".gamma")
               and name.count(".") == 2)
    for name in ("gamma", "beta"):
        parameters[f"features.{last}.{name}"].set_data(
            mx.nd.zeros_like(parameters[f"features.{last}.{name}"].data()))
    net.output.bias.set_data(mx.nd.array(bias))
    return net


def save(net, path):
    """Save a network's parameters; returns the path."""
    net.save_parameters(str(path))
    return path


def read_arrays(path):
    """The arrays of a parameter file, by name."""
    return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}


def normalised(images, mean=MEAN, std=STD):
    """(N, 3, H, W) uint8 -> float64, as the networks get them."""
    return (images / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))


def log_softmax(logits):
    """Logarithms of the shares, (N, classes) float64."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def cross_entropy(logits, targets):
    """Mean cross-entropy; `targets` are classes (N,) or shares (N, classes)."""
    logs = log_softmax(logits)
    if np.ndim(targets) == 1:
        targets = np.eye(logs.shape[1])[targets]
    return -(targets * logs).sum(axis=1).mean()


def predicted_loss(net, images, targets):
    """Mean cross-entropy of a network that predicts normalised images (N, 3, H, W)."""
    return cross_entropy(net(mx.nd.array(images)).asnumpy(), targets)


def trained_loss(net, images, targets):
    """The same of a network that trains: it normalises by the batch, and notes its statistics."""
    with mx.autograd.record():
        logits = net(mx.nd.array(images))
    logits.backward()    # here MXNet moves the running statistics
    return cross_entropy(logits.asnumpy(), targets)
