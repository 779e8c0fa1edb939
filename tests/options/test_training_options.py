"""train_cifar.py's options of optimizer, schedule and loss, against formulas in NumPy.

The network's logits are its last bias whatever it sees (`runs.constant_network`), so losses,
rates and every weight after any number of steps can be told beforehand.
"""
import math
import signal
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from tests.options import formulas
from tests.options.runs import (
    constant_network,
    covers,
    log_softmax,
    noise,
    read_arrays,
    run,
    save,
    stops_after,
    write_cifar,
)

SCRIPT = "train_cifar.py"
_BIAS = np.linspace(-0.5, 0.4, 10)
_TEST_LABELS = np.array([3, 3, 9, 1])
_BASE = "--blocks 1 --act-type relu --padding reflect"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data (10 training images of class 3) and a network to start from."""
    folder = tmp_path_factory.mktemp("training-options")
    write_cifar(folder / "data", (noise(10), [3] * 10), (noise(4, seed=1), _TEST_LABELS))
    save(constant_network(_BIAS), folder / "start.params")
    return folder


@dataclass
class Case:
    """Options, and what they ask for.

    Parameters
    ----------
    options : str
        As typed.
    rates : list of float
        Learning rate of each step.
    steps : int
        In an epoch.
    learner : dict
        Settings of `formulas.Learner`.
    """

    options: str
    rates: list
    steps: int = 2
    learner: dict = field(default_factory=dict)


def _cosine(progress, lr, final):
    return final + (lr - final) * (1 + math.cos(math.pi * progress)) / 2


_STEADY = "--batch-size 5 --num-epochs 2 --lr-mode constant --lr 0.3"
CASES = {
    "nag": Case("--batch-size 5 --optimizer nag --momentum 0.7 --lr 0.3 --num-epochs 2 "
                "--lr-decay-epoch 1 --lr-decay 0.5", [0.3, 0.3, 0.15, 0.15],
                learner={"momentum": 0.7}),
    "nag by default": Case("--batch-size 5 --lr 0.3 --num-epochs 2 --lr-decay-epoch 1",
                           [0.3, 0.3, 0.03, 0.03]),
    "sgd": Case("--batch-size 5 --optimizer sgd --momentum 0.6 --lr 0.3 --num-epochs 2 "
                "--lr-decay-epoch 1 --lr-decay 0.5", [0.3, 0.3, 0.15, 0.15],
                learner={"rule": formulas.sgd, "momentum": 0.6}),
    "adam": Case("--batch-size 5 --optimizer adam --lr 0.02 --num-epochs 2 --lr-decay-epoch 1 "
                 "--lr-decay 0.5", [0.02, 0.02, 0.01, 0.01], learner={"rule": formulas.adam}),
    "weight decay": Case(_STEADY + " --weight-decay 0.05", [0.3] * 4,
                         learner={"weight_decay": 0.05}),
    "weight decay of weights alone": Case(_STEADY + " --wd 0.05 --no-wd", [0.3] * 4,
                                          learner={"weight_decay": 0.05, "exempt": True}),
    "scaled rate": Case(_STEADY + " --scale-lr 20", [0.3 * 5 / 20] * 4),
    "rate scaled by 256": Case(_STEADY + " --scale-lr", [0.3 * 5 / 256] * 4),
    # The published 300 and 350 of 400 epochs are 2.25 and 2.625 of 3: from steps 5 and 6 on.
    "published milestones": Case("--batch-size 5 --num-epochs 3 --lr 0.4 --lr-decay 0.5",
                                 [0.4] * 5 + [0.2]),
    "milestones": Case("--batch-size 5 --num-epochs 4 --lr 0.4 --lr-decay 0.5 --lr-decay-epoch "
                       "1,3", [0.4] * 2 + [0.2] * 4 + [0.1] * 2),
    "decay period": Case("--batch-size 5 --num-epochs 5 --lr 0.4 --lr-decay 0.5 "
                         "--lr-decay-period 2", [0.4] * 4 + [0.2] * 4 + [0.1] * 2),
    "cosine": Case("--batch-size 5 --num-epochs 3 --lr-mode cosine --lr 0.4 --final-lr 0.1",
                   [_cosine(k / 6, 0.4, 0.1) for k in range(6)]),
    "poly": Case("--batch-size 5 --num-epochs 3 --lr-mode poly --lr-power 3 --lr 0.4 --final-lr "
                 "0.1", [0.1 + 0.3 * (1 - k / 6) ** 3 for k in range(6)]),
    "poly by default": Case("--batch-size 10 --num-epochs 3 --lr-mode poly --lr 0.4",
                            [0.4 * (1 - k / 3) ** 2 for k in range(3)], steps=1),
    "warm-up": Case("--batch-size 5 --num-epochs 4 --lr-mode cosine --lr 0.4 --warmup-epochs 2 "
                    "--warmup-lr 0.2", [0.2, 0.25, 0.3, 0.35,
                                        *(_cosine(k / 4, 0.4, 0) for k in range(4))]),
    "label smoothing": Case(_STEADY + " --label-smoothing 0.3", [0.3] * 4,
                            learner={"loss": formulas.cross_entropy(0.3)}),
    "label smoothing of 0.1": Case(_STEADY + " --label-smoothing", [0.3] * 4,
                                   learner={"loss": formulas.cross_entropy(0.1)}),
    # The accuracy is best after the first epoch; two epochs later the wait exceeds 1.
    "plateau": Case("--batch-size 5 --num-epochs 6 --lr-mode plateau --lr-patience 1 --lr 0.4 "
                    "--lr-decay 0.5", [0.4] * 6 + [0.2] * 4 + [0.1] * 2),
    "plateau by default": Case("--batch-size 10 --num-epochs 13 --lr-mode plateau --lr 0.4",
                               [0.4] * 12 + [0.04], steps=1),
    "batch size": Case("--batch-size 3 --num-epochs 2 --lr-mode constant --lr 0.3", [0.3] * 6,
                       steps=3),
    "early stop": Case("--batch-size 5 --num-epochs 9 --lr-mode constant --lr 0.4 --early-stop 2",
                       [0.4] * 6),
}
for _case in CASES.values():
    covers(SCRIPT, _case.options)


@pytest.mark.parametrize("name", CASES)
def test_weights_rates_and_figures_are_those_of_the_formulas(name, place):
    case = CASES[name]
    found = run(SCRIPT, place, _BASE, case.options, "--data-dir", place / "data",
                "--resume-from", place / "start.params")
    _check(found, place, case)


def _check(found, place, case):
    """A run's figures and weights are those of the formulas."""
    learner = formulas.Learner(read_arrays(place / "start.params"), **case.learner)
    rows = []
    for first in range(0, len(case.rates), case.steps):
        rates = case.rates[first:first + case.steps]
        losses = [learner.step([3] * 5, rate) for rate in rates]
        logs = log_softmax(learner.bias)
        rows.append((rates[-1], np.mean(losses), -logs[_TEST_LABELS].mean(),
                     np.mean(learner.bias.argmax() == _TEST_LABELS)))
    columns = "lr", "train_loss", "val_loss", "val_accuracy"
    np.testing.assert_allclose([[row[name] for name in columns] for row in found.rows], rows,
                               rtol=1e-3, atol=1e-5)
    arrays = found.arrays()
    for key, expected in learner.arrays.items():
        # MXNet's exponential is right to four digits; into the rest only the weight decay comes.
        atol = 2e-3 if key == "output.bias" else 1e-6
        if "running" not in key:
            np.testing.assert_allclose(arrays[key], expected, rtol=5e-6, atol=atol, err_msg=key)


# ---- what a run reports ------------------------------------------------------------------------

@pytest.mark.parametrize("name, epochs", [
    ("nag", 1), ("adam", 1), ("milestones", 2), ("plateau", 2),
    ("plateau", 4), ("early stop", 2)])
def test_a_run_that_was_stopped_goes_on_by_the_formulas(name, epochs, place, monkeypatch):
    """With its momentum, the plateau's factor and wait, and the wait for an early stop."""
    case = CASES[name]
    words = (_BASE, case.options, "--data-dir", place / "data", "--resume-from",
             place / "start.params", "--name", f"stopped-{name}-{epochs}".replace(" ", "-"))
    stops_after(epochs, monkeypatch)
    stopped = run(SCRIPT, place, *words, code=128 + signal.SIGTERM)
    assert len(stopped.rows) == epochs
    monkeypatch.undo()
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig",
                        lambda _, path, **__: Path(path).write_bytes(b""))
    _check(run(SCRIPT, place, *words, "--resume"), place, case)


def test_the_best_epoch_is_the_first_of_the_highest_accuracy(place):
    """Logits that prefer class 0, then 1, then 3, where class 1 is the most frequent one."""
    labels, test_labels = [1] * 4 + [3] * 6, [0] * 3 + [1] * 5 + [3] * 2
    write_cifar(place / "best", (noise(10), labels), (noise(10, seed=1), test_labels))
    start = save(constant_network([1, 0.7] + [0] * 8), place / "best.params")
    found = run(SCRIPT, place, _BASE, "--batch-size 10 --num-epochs 8 --lr-mode constant --lr 0.5 "
                "--optimizer sgd --momentum 0 --data-dir", place / "best", "--resume-from", start)
    learner = formulas.Learner(read_arrays(start), formulas.sgd, 0)
    biases = []
    for _ in range(8):
        learner.step(labels, 0.5)
        biases.append(learner.bias.copy())
    shares = {0: 0.3, 1: 0.5, 3: 0.2}
    accuracies = [shares[bias.argmax()] for bias in biases]
    assert accuracies == pytest.approx(found.column("val_accuracy"))
    first = accuracies.index(0.5)
    assert 0 < first < accuracies.index(0.2)    # neither the first nor the last epoch is best
    result = found.result
    assert (result["best"]["epoch"], result["best"]["val_accuracy"]) == (first, 0.5)
    assert (result["last"]["epoch"], result["last"]["val_accuracy"]) == (7, pytest.approx(0.2))
    for which, epoch in (("best", first), ("last", 7)):
        np.testing.assert_allclose(found.arrays(which)["output.bias"], biases[epoch], atol=1e-3)
        assert result[which] == {key: pytest.approx(value)
                                 for key, value in found.rows[epoch].items()}
