"""Checkpoints that are complete or absent."""
import os
import resource

import numpy as np
import pytest

from engines.interface import EngineState
from engines.workers import SingleWorker
from training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)


def _state(units=4):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (
        ("0.weight", (units, 3)), ("1.running_var", (units,)), ("2.bias", (2,)))}
    return EngineState(weights, {"0.weight:0": weights["0.weight"] / 3}, {"0.weight": 3},
                       [3], {"scale": 8.0, "skipped": 1, "since": 2})


def _no_warning(message):
    raise AssertionError(message)


@pytest.mark.parametrize("statistics", [None, np.arange(8, dtype=np.float32).reshape(2, 4)],
                         ids=["one worker", "two workers"])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, statistics):
    state = _state()
    state.statistics = statistics
    save_checkpoint(tmp_path, 3, state, {"note": "three"})
    path, content = newest_checkpoint(tmp_path, _no_warning)
    found = read_state(path, content, SingleWorker())
    assert content["note"] == "three" and path.name == "step-000000003"
    for kind in ("weights", "optimizer"):
        one, two = getattr(state, kind), getattr(found, kind)
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(two[name], one[name])
    assert (found.update_counts, found.num_updates, found.scaling) == (
        state.update_counts, state.num_updates, state.scaling)
    np.testing.assert_array_equal(found.statistics, statistics)


def test_a_state_that_lacks_something_is_another_version_s(tmp_path):
    path = save_checkpoint(tmp_path, 3, _state(), {})
    content = newest_checkpoint(tmp_path, _no_warning)[1]
    del content["update_counts"]
    with pytest.raises(CheckpointError, match="step-000000003 was written by another version"):
        read_state(path, content, SingleWorker())


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, _state(), {}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]


def test_saving_a_step_again_replaces_it(tmp_path):
    for note in ("first", "second"):
        save_checkpoint(tmp_path, 5, _state(), {"note": note})
    assert newest_checkpoint(tmp_path, _no_warning)[1]["note"] == "second"


@pytest.mark.parametrize("name", ["net.params", "optimizer.params", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, name, harm):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, _state(), {})
    path = tmp_path / "step-000000002" / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0x20
        path.write_bytes(content)
    elif harm == "truncate":
        os.truncate(path, len(content) // 2)
    else:
        path.unlink()
    warnings = []
    found, _ = newest_checkpoint(tmp_path, warnings.append)
    if name == "state.json" and harm == "flip" and not warnings:
        pytest.skip("the flipped bit left a JSON file with the same meaning")
    assert found.name == "step-000000001"
    assert len(warnings) == 1 and "step-000000002 is damaged" in warnings[0]


def test_all_damaged_is_an_error_and_none_is_not(tmp_path):
    assert newest_checkpoint(tmp_path / "nothing", _no_warning) is None
    path = save_checkpoint(tmp_path, 1, _state(), {})
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        newest_checkpoint(tmp_path, lambda _: None)


def test_half_written_ones_do_not_count(tmp_path):
    save_checkpoint(tmp_path, 1, _state(), {})
    (tmp_path / ".step-000000002.123.tmp").mkdir()
    assert newest_checkpoint(tmp_path, _no_warning)[0].name == "step-000000001"


def test_no_space_is_an_error_and_keeps_the_one_before(tmp_path):
    save_checkpoint(tmp_path, 1, _state(600), {}, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for largest in (0, 10, 4096, 5000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
            with pytest.raises(OSError, match="written to its end|File too large"):
                save_checkpoint(tmp_path, 2, _state(600), {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["step-000000001"]
    newest_checkpoint(tmp_path, _no_warning)
    save_checkpoint(tmp_path, 2, _state(600), {}, keep=1)
    assert os.listdir(tmp_path) == ["step-000000002"]


def test_any_change_of_the_state_is_found(tmp_path):
    path = save_checkpoint(tmp_path, 1, _state(), {"epoch": 3}) / "state.json"
    path.write_text(path.read_text().replace('"epoch": 3', '"epoch": 2'))
    with pytest.raises(CheckpointError):
        newest_checkpoint(tmp_path, lambda line: None)
