"""compare.py's processes: a training ends with its grid, and two grids share their runs."""
import json
import os
import signal

import pytest

from tests import scripts


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scripts.drawn_cifar(tmp_path_factory.mktemp("files"), train=128, test=64)


def _grid(folder, files, log, epochs):
    return scripts.start("compare.py", "--acts", "relu", "--blocks", 1, "--out", "grid", "--",
                         "--num-epochs", epochs, "--batch-size", 32, "--lr", 0.01, "-j", 0,
                         "--data-dir", files, cwd=folder, log=log)


def _trainer(folder):
    """Number of the process that trains."""
    return json.loads((folder / "logs/grid-relu-b1/.lock").read_text())["pid"]


def _runs(number):
    """Whether there is such a process, other than as a zombie."""
    try:
        with open(f"/proc/{number}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for_a_checkpoint(folder, process, log):
    scripts.wait_for(lambda: list(folder.glob("params/grid-relu-b1/checkpoints/step-*")),
                     process, log)


def test_a_killed_grid_takes_its_training_along(files, tmp_path):
    log = tmp_path / "out"
    grid = _grid(tmp_path, files, log, epochs=4000)
    _wait_for_a_checkpoint(tmp_path, grid, log)
    trainer = _trainer(tmp_path)
    assert _runs(trainer) and trainer != grid.pid
    grid.send_signal(signal.SIGKILL)
    grid.wait()
    scripts.wait_for(lambda: not _runs(trainer))
    account = (tmp_path / "logs/grid-relu-b1/train.log").read_text()
    assert "stopped by SIGTERM; go on with" in account


def test_a_run_in_use_is_waited_for(files, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    one = _grid(tmp_path, files, first, epochs=8)
    _wait_for_a_checkpoint(tmp_path, one, first)
    trainer = _trainer(tmp_path)
    os.kill(trainer, signal.SIGSTOP)     # so that it is not finished before the other comes
    two = _grid(tmp_path, files, second, epochs=8)
    scripts.wait_for(lambda: "in use by process" in second.read_text(), two, second)
    os.kill(trainer, signal.SIGCONT)
    assert f"in use by process {trainer} on {os.uname().nodename}; waiting" in (
        second.read_text())
    assert one.wait(120) == 0 and two.wait(120) == 0
    assert "failed" not in second.read_text()
    assert len((tmp_path / "logs/grid-relu-b1/metrics.csv").read_text().splitlines()) == 9
