"""The loop: figures, rates, and what stops it."""
import json
from dataclasses import asdict

import numpy as np
import pytest

from common.errors import UserError
from data import ImageSet
from data.batches import Batches, Preparation
from engines.interface import Group
from runs.folder import Run
from tests.engines.small import engine, images, loop
from training import checkpoint
from training.checkpoint import CheckpointError
from training.history import COLUMNS
from training.loop import NonFinite, Position, Totals
from training.scores import evaluate

VAL = {"loss": 0.5, "accuracy": 0.75, "top5_accuracy": 1.0, "count": 8}


def test_the_epoch_s_figures_are_those_of_its_batches():
    """With a rate of (nearly) nothing the weights stay, so the figures can be computed."""
    data, trained = images(48), engine(seed=1)
    running = loop(trained, Batches(data, 16, preparation=Preparation(augment=False)),
                   lambda number: 1e-12, log_interval=2)
    running._train_epoch()
    totals = running.position.totals
    scores = evaluate(trained, Batches(data, 16, train=False))
    assert (totals.images, totals.step) == (48, 3)
    assert totals.loss / 48 == pytest.approx(scores["loss"], rel=1e-5)
    assert totals.correct / 48 == pytest.approx(scores["accuracy"])


def test_each_step_has_its_own_rate():
    given, trained = [], engine()
    original = trained.learn

    def learn(batch, at, rates, **options):
        given.append((at, rates))
        original(batch, at, rates, **options)
    trained.learn = learn
    running = loop(trained, Batches(images(48), 16), lambda number: 0.1 * number, log_interval=1)
    running.position.epoch = 2
    running._train_epoch()
    assert given == [((2, index), {"weights": pytest.approx(0.1 * (6 + index))})
                     for index in range(3)]


def test_reading_more_often_changes_nothing():
    """The log interval is for the eyes: weights and totals have the same bits."""
    results = []
    for interval in (1, 2, 20):
        trained = engine(group=Group("sgd"))
        running = loop(trained, Batches(images(48), 8), log_interval=interval)
        running._train_epoch()
        totals = running.position.totals
        results.append((totals.loss, totals.correct, trained.weights()["1.weight"].tobytes()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("interval", [1, 20])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_located(interval, caplog):
    trained = engine()
    weights = trained.weights()
    trained.load_weights({**weights, "1.weight": np.full_like(weights["1.weight"], np.nan)})
    running = loop(trained, Batches(images(48), 16), log_interval=interval)
    running.position.epoch = 4
    with pytest.raises(NonFinite, match="the loss is nan in epoch 4, step 0 .images "):
        running._train_epoch()
    numbers = caplog.text.split("by number: ")[1].split()
    assert len(numbers) == 16 and all(number.isdigit() for number in numbers)


# ---- where a run stands --------------------------------------------------------------------

def stored(position):
    """A position as a checkpoint's JSON brings it back."""
    return json.loads(json.dumps(asdict(position)))


@pytest.fixture
def under_way():
    position = Position(totals=Totals(step=3, images=4, loss=6.0, correct=1, seconds=2.0))
    position.finish_epoch(0.1, position.totals, VAL)
    position.totals = Totals(step=1, images=2, loss=1.0, correct=2, seconds=1.0)
    return position


def test_an_epochs_figures_are_means_over_its_images(under_way):
    row, = under_way.rows
    assert tuple(row) == COLUMNS
    assert row["train_loss"] == 1.5 and row["train_accuracy"] == 0.25
    assert row["images_per_s"] == 2.0 and row["val_accuracy"] == 0.75
    assert under_way.epoch == 1


def test_a_finished_epoch_leaves_nothing_for_the_next():
    position = Position(totals=Totals(step=3, images=4, loss=6.0, correct=1, seconds=2.0))
    position.finish_epoch(0.1, position.totals, VAL)
    assert position.totals == Totals()


def test_a_position_comes_back_from_a_checkpoint(under_way):
    assert Position.from_state("step-1", stored(under_way)) == under_way


@pytest.mark.parametrize("damage", [
    lambda state: state.pop("rows"),
    lambda state: state["totals"].update(unknown=1),
    lambda state: state.update(totals=None),
])
def test_a_state_of_another_version_is_named(under_way, damage):
    state = stored(under_way)
    damage(state)
    with pytest.raises(CheckpointError, match="step-1 was written by another version"):
        Position.from_state("step-1", state)


# ---- the data of a run -----------------------------------------------------------------------

def _stopped_run(folder, data):
    run = Run("run", folder / "params", folder / "logs")
    run.create()
    running = loop(engine(), Batches(data, 16), run=run)
    return running


def test_a_run_goes_on_with_the_images_and_labels_it_began_with(tmp_path):
    data = images(48)
    first = _stopped_run(tmp_path, data)
    first._train_epoch()
    first._checkpoint()
    first.record.run.unlock()
    other = ImageSet(data.images, (data.labels + 1) % 10)
    second = _stopped_run(tmp_path, other)
    with pytest.raises(UserError, match="training images or their labels are not those of before"):
        second.resume()
    second.record.run.unlock()
    assert _stopped_run(tmp_path, data).resume()


def test_a_checkpoint_of_before_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    first = _stopped_run(tmp_path, images(48))
    first._train_epoch()
    original = checkpoint.save_checkpoint
    monkeypatch.setattr("training.loop.save_checkpoint", lambda folder, step, state, content:
                        original(folder, step, state, {key: value for key, value in content.items()
                                                       if key != "data"}))
    first._checkpoint()
    first.record.run.unlock()
    assert _stopped_run(tmp_path, images(48, seed=3)).resume()
    assert "does not say which images it was trained on" in caplog.text
