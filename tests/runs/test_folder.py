"""Whose folder it is: runs remove what runs have written, and nothing else."""
import json
import os

import pytest

from common.errors import FileError, UserError
from runs.folder import Run

CONFIG = {"model": "resnet18", "act_type": None, "attention": None, "seed": 0,
          "logging_file": "train.log"}


def _put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _a_run(tmp_path, **config):
    """A run's folders with everything that a run writes in them."""
    run = Run("run", tmp_path / "params", tmp_path / "logs")
    _put(run.logs, "train.log", "metrics.csv", "result.json", "curves.png", "alphas.csv",
         "structure.json", "structure.png", ".metrics.csv.17.tmp.csv")
    run.config.write_text(json.dumps({**CONFIG, **config}))
    _put(run.params, "last.params", "best.params", "best.json", "epoch-0010.params",
         "epoch-0010.json", ".last.params.17.tmp.params")
    for step in ("step-000000016", ".step-000000032.17-0123abcd.partial",
                 ".step-000000032.17.tmp", ".step-000000008.old.17.tmp"):
        _put(run.checkpoints / step, "net.params", "optimizer.params", "state.json",
             ".state.json.17.tmp.json")
    (run.params / "last.json").write_text('{"model": "a", "options": {}, "dataset": {}}')
    return run


def test_all_of_a_run_is_removed_and_nothing_else(tmp_path):
    run = _a_run(tmp_path, logging_file="old.log")
    kept = ["notes.txt", "best.onnx", "photos/cat.jpg", ".mine.5.tmp", "best.params.bak"]
    for folder in (run.logs, run.params):
        _put(folder, *kept)
    _put(run.logs, "old.log")
    _put(run.checkpoints, "mine.pt", "step-000000016/notes.txt", "epoch-1/weights.pt")
    run.remove()
    assert _files(run.logs) == sorted([".lock", *kept])
    assert _files(run.params) == sorted([
        ".lock", *kept, "checkpoints/mine.pt", "checkpoints/step-000000016/notes.txt",
        "checkpoints/epoch-1/weights.pt"])


def test_a_run_alone_leaves_its_locks_only(tmp_path):
    run = _a_run(tmp_path)
    run.remove()
    assert _files(tmp_path) == ["logs/run/.lock", "params/run/.lock"]
    assert not run.checkpoints.exists() and not run.exists()


@pytest.mark.parametrize("place, names", [
    ("params", ["best.params"]), ("params", ["last.json"]), ("params", ["epoch-0001.params"]),
    ("params", ["checkpoints/step-000000001/net.params"]),
    ("logs", ["metrics.csv"]), ("logs", ["config.json"]), ("logs", ["curves.png", "train.log"])])
def test_a_folder_of_somebody_else_s_is_refused_as_it_is(tmp_path, place, names):
    run = Run("photos", tmp_path / "params", tmp_path / "logs")
    _put(tmp_path / place / "photos", "cat.jpg", *names)
    before = _files(tmp_path)
    for action in (run.check_owned, run.remove):
        with pytest.raises(UserError, match=f"not the folder of a run, but holds .*"
                                            f"{names[0].rsplit('/')[-1]}"):
            action()
    run.unlock()
    assert [name for name in _files(tmp_path) if not name.endswith(".lock")] == before


def test_photos_survive_a_run_of_their_name(tmp_path):
    _put(tmp_path / "photos", "cat.jpg", "more/dog.jpg", ".thumbs.3.tmp/x")
    run = Run("photos", tmp_path, tmp_path / "logs")
    run.check_owned()
    run.remove()
    run.create()
    assert _files(tmp_path / "photos") == [".lock", ".thumbs.3.tmp/x", "cat.jpg", "more/dog.jpg"]


def test_killed_before_anything_could_be_known_a_run_can_begin_again(tmp_path):
    run = Run("run", tmp_path / "params", tmp_path / "logs")
    _put(run.logs, "train.log", ".config.json.17.tmp.json")
    run.check_owned()
    assert not run.exists()
    # Between the params and their description.
    run.config.write_text(json.dumps({**CONFIG, "save_dir": str(tmp_path / "params")}))
    _put(run.params, "last.params")
    run.check_owned()
    assert run.exists()


def test_both_folders_are_locked(tmp_path):
    run = _a_run(tmp_path)
    run.create()
    for save, log in (("params", "elsewhere"), ("elsewhere", "logs")):
        other = Run("run", tmp_path / save, tmp_path / log)
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
            other.create()
        other.unlock()
    run.unlock()
    Run("run", tmp_path / "params", tmp_path / "logs").lock()
    one = Run("run", tmp_path / "both", tmp_path / "both")
    one.create()


def test_a_lock_file_of_somebody_else_s_keeps_its_content(tmp_path):
    run = Run("run", tmp_path / "params", tmp_path / "logs")
    _put(run.params, ".lock")
    with pytest.raises(FileError, match="is no lock of a run's"):
        run.lock()
    assert (run.params / ".lock").read_bytes() == b"content"
    (run.params / ".lock").unlink()
    os.mkfifo(run.params / ".lock")
    with pytest.raises(FileError, match="no regular file"):
        run.lock()


def test_the_newest_periodic_params_stay_and_copies_of_them(tmp_path):
    """Ten thousand epochs have a digit more."""
    run = Run("run", tmp_path / "params", tmp_path / "logs")
    _put(run.params, "epoch-0010-copy.params", *(
        f"epoch-{epoch}.{suffix}" for epoch in ("9998", "9999", "10000")
        for suffix in ("params", "json")))
    run.drop_periodic(2)
    assert _files(run.params) == ["epoch-0010-copy.params", "epoch-10000.json",
                                  "epoch-10000.params", "epoch-9999.json", "epoch-9999.params"]
