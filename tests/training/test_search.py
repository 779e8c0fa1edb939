"""The search on a toy task in which one structure is truly better."""
import csv
import logging
import shutil
from functools import partial

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.errors import UserError
from data import ImageSet
from data.batches import Batches, Preparation
from engines.gluon import GluonEngine
from engines.interface import Group, Loss, Settings
from model import structure
from runs.folder import Run
from tests.golden_cases import assert_close, cases, load
from training.checkpoint import list_checkpoints
from training.loop import Loop, NonFinite, SaveFailed
from training.schedule import Schedule
from training.search import (
    SearchRecord,
    SearchStep,
    Space,
    draw_weights,
    operation_weights,
    penalty,
    penalty_gradient,
    structure_rows,
    structure_table,
)

_ALPHA = "unit.alpha"
_AS_THEY_ARE = Preparation(augment=False, prefetch=0)
_SIZE, _RATE = 8, 0.01


def _task(count, seed):
    """The class is the sign of channel 1 at the one place where channel 0 is bright.

    Elsewhere channel 1 is noise, so a mean over all places says little. Channel 2 is bright in
    many places that mean nothing: only who first turns it off finds the place.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    images = np.zeros((count, 3, _SIZE, _SIZE), np.uint8)
    images[:, 0] = 96
    images[:, 1] = rng.choice((36, 156), (count, _SIZE, _SIZE))
    images[:, 2] = np.where(rng.random((count, _SIZE, _SIZE)) < 0.5, 255, 96)
    rows, columns = rng.integers(0, _SIZE, (2, count))
    every = np.arange(count)
    images[every, 0, rows, columns] = 255
    images[every, 1, rows, columns] = np.where(labels, 156, 36)
    wrong = rng.random(count) < 0.1    # so that the loss never vanishes
    return ImageSet(images, np.where(wrong, 1 - labels, labels).astype(np.int32))


class _Toy(gluon.nn.HybridBlock):
    """One searchable unit, a sum over all places, a linear classifier."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.unit = structure.SearchableAttention(3, reduction=1, spatial_bias=True)
            self.output = gluon.nn.Dense(2, in_units=3)

    def hybrid_forward(self, F, x):
        return self.output(F.sum(self.unit(x), axis=(2, 3)) / _SIZE)

    def start(self):
        """Halves that know their part: CA dims channel 2, SA opens where a maximum is high.

        So it is the structure that is found here, not the weights; they learn on from there.
        """
        self.initialize(mx.init.Normal(0.1))
        bias, kernel = np.array([1.5, 1.5, -2.0]), np.zeros((1, 2, 3, 3))
        kernel[0, 1, 1, 1] = 4.0                                # of the maximum over channels
        self.unit.channel.fc2.bias.set_data(mx.nd.array(bias))
        self.unit.spatial.conv.weight.set_data(mx.nd.array(kernel))
        self.unit.spatial.conv.bias.set_data(mx.nd.array([-8.0]))


def _weights(seed):
    mx.random.seed(seed)
    np.random.seed(seed)
    net = _Toy()
    net.start()
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def _search(folder, seed, penalty_weight=0.1, warmup=4, epochs=8, images=1024, held_out=None,
            checkpoint_every=0):
    engine = GluonEngine(lambda devices: _Toy(), _weights(seed), Settings(
        {"weights": Group("sgd"), "alphas": Group("adam", betas=(0.5, 0.999), names=(_ALPHA,))},
        Loss(2), (0.376,) * 3, (0.235,) * 3, (32, 3, _SIZE, _SIZE)))
    space = Space(structure.SEARCHED, (_ALPHA,), structure.derive, weight=penalty_weight)
    batches = Batches(_task(images, seed), 32, seed=seed, preparation=_AS_THEY_ARE)
    run = Run("toy", folder / "params", folder / "logs")
    run.create()
    step = SearchStep(
        engine, batches,
        held_out and Batches(held_out, 32, seed=seed + 1, preparation=_AS_THEY_ARE),
        (Schedule("constant", _RATE, 1), 0.1), space, warmup)
    record = SearchRecord(run, logging.getLogger("toy"), "", warmup + epochs, space, warmup)
    scored = Batches(_task(256, seed + 100), 64, train=False, preparation=_AS_THEY_ARE)
    return Loop(engine, step, record, scored, checkpoint_every=checkpoint_every)


def _found(search):
    """The operations' weights of the one block."""
    return operation_weights(np.stack(search.engine.values((_ALPHA,))))[0]


# ---- what is found -------------------------------------------------------------------------------

@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Figures of every epoch take longer than this network; they have a test of their own."""
    for name in ("draw_curves", "draw_weights"):
        monkeypatch.setattr(f"training.search.{name}", lambda *_: None)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_better_order(tmp_path, seed):
    """CA(+)SA, which costs what SA(+)CA costs: the data decide, not the penalty."""
    search = _search(tmp_path, seed, warmup=2)
    search()
    assert structure.derive(_found(search)) == "CA(+)SA"
    assert _found(search)[1] > 0.7


def test_without_penalty(tmp_path, record_property):
    """Here it does not collapse to the identity: that operation is no use in this task."""
    search = _search(tmp_path, 0, penalty_weight=0.0, warmup=2)
    search()
    weights = _found(search)
    operation = structure.derive(weights)
    record_property("without penalty", f"{operation} {weights}")
    assert weights[0] < 0.1 and operation != "identity"


def test_the_penalty_decides_where_the_data_say_nothing(tmp_path):
    """Labels without meaning: the two cheap operations share the weight."""
    search = _search(tmp_path, 0, penalty_weight=10.0, warmup=0, epochs=4, images=512)
    labels = search.step.batches.source.labels
    labels[:] = np.random.default_rng(0).integers(0, 2, len(labels))
    search()
    weights = _found(search)
    assert weights[[0, 3, 4]].max() < weights[[1, 2]].min()


# ---- how it is searched --------------------------------------------------------------------------

def test_alphas_rest_while_the_weights_warm_up(tmp_path):
    search = _search(tmp_path, 0, warmup=1, epochs=1, images=128)
    before = search.engine.weights()
    search._train_epoch()
    search._finish_epoch()
    after = search.engine.weights()
    assert not after["unit.alpha"].any()
    assert (after["output.weight"] != before["output.weight"]).any()
    search._train_epoch()
    assert search.engine.weights()["unit.alpha"].any()


@pytest.mark.parametrize("held_out", [None, 64])
def test_whose_turn_it_is(tmp_path, held_out):
    """Every second batch for the alphas, or a held-out one before each of the weights."""
    images = held_out and _task(held_out, 7)
    search = _search(tmp_path, 0, warmup=0, epochs=1, images=128, held_out=images)
    seen, steps = [], []
    original = search.engine.learn

    def learn(*batch, update, **options):
        steps.extend(update)
        original(*batch, update=update, **options)
    search.engine.learn = learn
    if held_out:
        search.step._held_out.epoch = _recording(search.step._held_out.epoch, seen)
    search._train_epoch()
    assert search.position.totals.images == 128
    assert steps == (["alphas", "weights"] * 4 if held_out else ["weights", "alphas"] * 2)
    assert seen == ([(0, 0), (1, 0)] if held_out else [])    # two batches in each of its epochs


def _recording(epoch, seen):
    def record(number, start=0):
        seen.append((number, start))
        return epoch(number, start)
    return record


def test_the_gradient_of_alpha_is_that_of_loss_and_penalty(tmp_path):
    """Adam's first update is as long for any gradient, so plain SGD shows it."""
    alpha, results = np.array([0.3, -0.2, 0.5, 0.0, -0.4], np.float32), []
    for weight in (0.0, 0.1):
        search = _search(tmp_path / str(weight), 0, weight, warmup=0, images=32)
        engine = search.engine
        engine.settings.groups["alphas"] = Group("sgd", 0.0, names=(_ALPHA,))
        engine._trainers = engine._make_trainers()
        engine.load_weights({**engine.weights(), _ALPHA: alpha})
        search.step.alpha_rate = 1.0
        images, labels, _ = next(search.step.batches.epoch(0))
        search.step._learn_alphas(0, 0, images, labels)
        results.append(engine.values((_ALPHA,))[0])
    np.testing.assert_allclose(results[0] - results[1],
                               penalty_gradient(alpha[None], search.step.space)[0],
                               rtol=1e-3, atol=1e-6)


_PENALTY = cases("arch_penalty")[0]


@pytest.mark.parametrize("value", _PENALTY["values"],
                         ids=lambda value: f"{value['alpha']}:{value['setting']}")
def test_penalty_equals_the_formula(value):
    arrays, setting = load(_PENALTY), _PENALTY["settings"][value["setting"]]
    key = f"{value['alpha']}:{value['setting']}"
    alphas = arrays[f"alpha:{value['alpha']}"]
    space = Space(structure.SEARCHED, (), structure.derive, setting["r"], setting["m"],
                  setting["w"])
    assert_close(penalty(alphas, space), arrays[f"penalty:{key}"], _PENALTY["tolerance"])
    assert_close(penalty_gradient(alphas, space), arrays[f"grad_alpha:{key}"],
                 _PENALTY["tolerance"])


def test_penalty_by_default():
    alphas = np.random.default_rng(0).normal(size=(3, 5))
    p = np.exp(alphas) / np.exp(alphas).sum(axis=1, keepdims=True)
    expected = 0.1 * (np.array([4, 1, 1, 2, 2]) * p ** 1.1).sum(axis=1).mean()
    space = Space(structure.SEARCHED, (), structure.derive)
    assert penalty(alphas, space) == pytest.approx(expected, rel=1e-9)


def test_the_penalty_s_gradient_is_that_of_its_formula():
    alphas = np.random.default_rng(0).normal(size=(3, 5))
    space = Space(structure.SEARCHED, (), structure.derive, (4, 1, 1, 2, 2), 1.3, 0.7)
    gradient = penalty_gradient(alphas, space)
    for at in np.ndindex(alphas.shape):
        step = np.zeros_like(alphas)
        step[at] = 1e-6
        assert gradient[at] == pytest.approx(
            (penalty(alphas + step, space) - penalty(alphas - step, space)) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("held_out, epoch", [(False, 1), (True, 1), (False, 0)],
                         ids=["shared", "held out", "in the warm-up"])
def test_interrupted_and_resumed_it_ends_with_the_same_bits(tmp_path, held_out, epoch):
    make = partial(_search, seed=0, warmup=1, epochs=2, images=192, checkpoint_every=5,
                   held_out=_task(96, 5) if held_out else None)
    whole = make(tmp_path / "whole")
    whole()

    first = make(tmp_path / "parts")
    original = first._after_step

    def stop(done):
        original(done)
        if first.position.epoch == epoch and done == 5:
            raise KeyboardInterrupt
    first._after_step = stop
    with pytest.raises(KeyboardInterrupt):
        first()
    first.record.run.unlock()
    second = make(tmp_path / "parts")
    assert second.resume()
    second()
    expected = whole.engine.weights()
    for name, value in second.engine.weights().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert ((tmp_path / "parts/logs/toy/alphas.csv").read_bytes()
            == (tmp_path / "whole/logs/toy/alphas.csv").read_bytes())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    search = _search(tmp_path, 0, warmup=1, epochs=1, images=64)
    original = search._after_step

    def spoil(done):
        original(done)
        if done == 2:    # after the last loss that is looked at
            bias = np.array([np.nan, 0], np.float32)
            search.engine.load_weights({**search.engine.weights(), "output.bias": bias})
    search._after_step = spoil
    with pytest.raises(NonFinite, match="weights are not finite"):
        search()
    assert not list_checkpoints(search.record.run.checkpoints)


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch, caplog):
    search = _search(tmp_path, 0, warmup=1, epochs=1, images=64)
    folder = search.record.run.checkpoints
    folder.write_text("in the way")
    caplog.set_level(logging.INFO)
    original = search._checkpoint

    def clear_the_way():
        original()
        if folder.is_file():
            folder.unlink()
    search._checkpoint = clear_the_way
    search()
    assert "the next save tries again" in caplog.text and len(list_checkpoints(folder)) == 1


def test_an_end_that_is_not_saved_is_an_error(tmp_path):
    search = _search(tmp_path, 0, warmup=0, epochs=1, images=64)
    search.record.run.checkpoints.write_text("in the way")
    with pytest.raises(SaveFailed, match="the end of the run is not saved"):
        search()


def test_figures_that_cannot_be_written_do_not_end_the_search(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("training.search.draw_weights", full)
    _search(tmp_path, 0, warmup=0, epochs=1, images=64)()
    assert "could not write figures" in caplog.text and "No space left" in caplog.text


def test_a_search_without_its_checkpoints_is_not_begun_anew(tmp_path):
    search = _search(tmp_path, 0, warmup=0, epochs=1, images=64)
    search()
    search.record.run.structure.write_text("{}")
    shutil.rmtree(search.record.run.checkpoints)
    search.record.run.unlock()
    with pytest.raises(UserError, match="holds no checkpoint to go on from"):
        _search(tmp_path, 0, warmup=0, epochs=1, images=64).resume()


# ---- what is left to read ------------------------------------------------------------------------

def test_every_epoch_and_block_is_in_alphas_csv(tmp_path):
    search = _search(tmp_path, 0, warmup=1, epochs=2, images=64)
    search()
    with open(tmp_path / "logs/toy/alphas.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["block"]) for row in rows] == [("0", "0"), ("1", "0"), ("2", "0")]
    assert [float(rows[0][name]) for name in structure.SEARCHED] == pytest.approx([0.2] * 5)
    alpha = np.array([float(rows[2][f"alpha {name}"]) for name in structure.SEARCHED])
    p = np.exp(alpha) / np.exp(alpha).sum()
    assert [float(rows[2][name]) for name in structure.SEARCHED] == pytest.approx(p, rel=1e-5)


def test_the_table_and_the_figure(tmp_path):
    weights = np.array([[0.1, 0.5, 0.2, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1, 0.1]] * 3)
    lines = structure_table(structure.SEARCHED, weights, map(structure.derive, weights))
    assert len(lines) == 7 and lines[1].split() == [
        "0", "1.0000e-01", "5.0000e-01", "2.0000e-01", "1.0000e-01", "1.0000e-01", "CA(+)SA"]
    rows = [row for epoch in range(3)
            for row in structure_rows(epoch, structure.SEARCHED, weights, np.log(weights))]
    draw_weights(rows, structure.SEARCHED, tmp_path / "figure.png", "six blocks", 1,
                 structure.derive)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
