import json
import signal
import subprocess
import sys

import pytest

from common.errors import UserError
from reporting import grid
from reporting.grid import Cell, make_cells, prepare, read_grid, train_cells
from tests.reporting.run_folders import write_run
from tests.scripts import wait_for


def _file(tmp_path, content):
    path = tmp_path / "grid.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_cells_are_every_combination_once_a_grid_seed_by_seed(tmp_path):
    options, grids, published = read_grid(_file(tmp_path, {
        "options": {"num-epochs": 2},
        "grids": [{"act_type": ["relu", "ChaATAC"], "seed": [0, 1]},
                  {"act-type": "relu", "blocks": 2, "seed": 0},
                  {"act_type": ["relu"], "seed": [0]},
                  {"attention": [None, "SE"], "act_layers": 1, "seed": [3]}]}))
    cells = make_cells("g", options, grids)
    assert [cell.name for cell in cells] == [
        "g-relu-seed0", "g-ChaATAC-seed0", "g-relu-seed1", "g-ChaATAC-seed1", "g-relu-b2-seed0",
        "g-act-layers1-seed3", "g-act-layers1-SE-seed3"]
    assert cells[4].options == {"num_epochs": 2, "act_type": "relu", "blocks": 2, "seed": 0}
    assert published is None


@pytest.mark.parametrize("content, words", [
    ("[1]", "JSON object"), ("{", "not a JSON file"), ({}, "is no grid"),
    ({"grids": []}, "is no grid"), ({"grids": [1]}, "is no grid"),
    ({"grids": [{"seed": []}]}, "has no values"),
    ({"grids": [{"seed": 0}], "else": 1}, "is no grid"),
])
def test_what_is_no_grid(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read_grid(_file(tmp_path, content))


def test_names_are_the_grids():
    with pytest.raises(UserError, match="cannot set name"):
        make_cells("g", {}, [{"name": ["a"]}])
    with pytest.raises(UserError, match="would both be named"):
        make_cells("g", {}, [{"act_type": ["a/b", "a?b"]}])


def _prepared(tmp_path, *argv, **options):
    cells = [Cell("g-relu", {"act_type": "relu", "blocks": 1, **options})]
    prepare(cells, ["--log-dir", str(tmp_path / "logs"), *argv], tmp_path / "cells")
    return cells


@pytest.mark.parametrize("argv, options, words", [
    ([], {"act_type": "rolu"}, "rolu"),
    ([], {"unknown": 1}, "unknown options"),
    ([], {"blocks": "x"}, "whole number"),
    (["--act-type", "gelu"], {}, "is set by the grid"),
    (["--name", "me"], {}, "is set by the grid"),
    (["--nonsense"], {}, "unrecognized"),
])
def test_all_is_checked_before_the_first_run(tmp_path, argv, options, words):
    with pytest.raises(UserError, match=words):
        _prepared(tmp_path, *argv, **options)


def test_a_run_made_with_other_options_is_not_taken_for_a_cell(tmp_path):
    write_run(tmp_path, "g-relu", lr=0.2)
    same = ("--lr-mode", "cosine", "--padding", "reflect", "--num-epochs", "4")
    cell, = _prepared(tmp_path, *same)
    assert cell.finished().name == "g-relu"
    with pytest.raises(UserError, match="is there with lr 0.2, not 0.1"):
        _prepared(tmp_path, *same, "--lr", "0.1")


def test_finished_runs_are_skipped_and_failing_ones_named(tmp_path, monkeypatch):
    write_run(tmp_path, "done")
    broken = write_run(tmp_path, "broken")
    (broken / "result.json").unlink()
    cells = [Cell(name, {}, logs=tmp_path / "logs" / name, num_epochs=10,
                  config=tmp_path / "cell.json",
                  description={"model": "resnet_v2_cifar", "options": {"blocks": 1}})
             for name in ("done", "broken")]
    called, lines = [], []
    monkeypatch.setattr(grid, "_run", lambda command: called.append(command) or (1, 0))
    assert train_cells(cells, ["--lr", "1"], lines.append) == 1
    assert len(called) == 1 and called[0][-5:] == ["--lr", "1", "--name", "broken", "--resume"]
    assert lines[0] == "[1 of 2] done is finished"
    # Epochs of (30 + 31 + 32 + 33) / 4 s, ten of them.
    assert lines[1] == "[2 of 2] broken: 1 to train, about 5:15"
    assert "broken failed" in lines[2]


def test_a_run_that_cannot_start_ends_the_grid(tmp_path, monkeypatch):
    cells = [Cell(name, {}, logs=tmp_path / "logs" / name, config=tmp_path / "cell.json")
             for name in "ab"]
    monkeypatch.setattr(grid, "_run", lambda command: (2, 0))
    with pytest.raises(UserError, match="a could not start"):
        train_cells(cells, [], lambda line: None)


def test_a_signal_reaches_the_run_and_is_waited_for(tmp_path):
    """The run is told once and finishes its own way before the grid ends."""
    child = (f"import pathlib, signal, time\n"
             f"folder = pathlib.Path({str(tmp_path)!r})\n"
             f"def stop(*_):\n"
             f"    (folder / 'told').touch(exist_ok=False)\n"
             f"    while not (folder / 'go').exists(): time.sleep(0.005)\n"
             f"    (folder / 'saved').touch()\n"
             f"    raise SystemExit(143)\n"
             f"signal.signal(signal.SIGTERM, stop)\n"
             f"(folder / 'started').touch()\n"
             f"time.sleep(60)\n")
    parent = subprocess.Popen(
        [sys.executable, "-c", "import sys; from reporting import grid; "
                               "print(grid._run([sys.executable, '-c', sys.argv[1]]))", child],
        stdout=subprocess.PIPE, text=True, cwd=grid._SCRIPT.parent)
    wait_for((tmp_path / "started").exists)
    parent.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "told").exists)
    assert parent.poll() is None
    (tmp_path / "go").touch()
    out, _ = parent.communicate(timeout=60)
    assert (tmp_path / "saved").exists()
    assert out.strip() == "(143, 15)"
