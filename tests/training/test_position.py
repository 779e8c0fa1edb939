"""What a training run and a search keep of where they stand."""
import json
from dataclasses import asdict

import pytest

from training.checkpoint import CheckpointError
from training.epoch import Totals
from training.history import COLUMNS
from training.position import Position

VAL = {"loss": 0.5, "accuracy": 0.75, "top5_accuracy": 1.0, "count": 8}


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
