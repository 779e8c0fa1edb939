"""Runs that are stopped, started twice, or out of space: nothing is lost, one line says so."""
import fcntl
import os
import re
import resource
import signal
import subprocess
import termios

import pytest

import train_cifar
from common.errors import UserError
from tests import scripts
from tests.torture import kill_test
from training.checkpoint import newest_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scripts.drawn_cifar(tmp_path_factory.mktemp("files"), train=512, test=64)


def _options(files, *more):
    return ("--data-dir", files, "--blocks", 1, "--act-type", "relu", "--batch-size", 32,
            "--lr", 0.05, "--name", "run", *more)


def _started(files, folder, first=""):
    """A long run in the background that has done its first steps."""
    process = scripts.start("train_cifar.py", *_options(
        files, "--num-epochs", 400, "--checkpoint-every", 4), cwd=folder, log=folder / "out",
        first=first)
    _wait_for_a_checkpoint(folder, process, folder / "out")
    return process


def _resumed(folder):
    """The run, taken up again, as soon as it has done steps."""
    log, before = folder / "again", _newest(folder)
    process = scripts.start("train_cifar.py", "--resume", "logs/run", cwd=folder, log=log)
    _wait_for_a_checkpoint(folder, process, log, after=before)
    assert "resumed from" in log.read_text()
    return process, log


def _wait_for_a_checkpoint(folder, process, log, after=0):
    checkpoints = folder / "params/run/checkpoints"
    scripts.wait_for(lambda: any(int(path.name[5:]) > after for path in checkpoints.glob("step-*")),
                     process, log)


@pytest.fixture(autouse=True)
def _hang_ups_are_heard():
    """Also where nohup started the tests: what they start would ignore what they ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _newest(folder):
    path, state = newest_checkpoint(folder / "params/run/checkpoints", pytest.fail)
    assert state["epoch"] * 16 + state["totals"]["step"] == int(path.name[5:])
    return int(path.name[5:])


def test_a_signal_saves_and_says_how_to_go_on(files, tmp_path):
    process, log, step = _started(files, tmp_path), tmp_path / "out", 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)):
        if step:
            process, log = _resumed(tmp_path)
        process.send_signal(number)
        assert process.wait(60) == code, log.read_text()
        assert "go on with: python train_cifar.py --resume logs/run" in log.read_text()
        assert "Traceback" not in log.read_text()
        assert _newest(tmp_path) > step
        step = _newest(tmp_path)


def test_a_second_ctrl_c_leaves_at_once(files, tmp_path):
    """Sent to a run that never gets to the end of its step, where it looks for signals."""
    process = _started(files, tmp_path, first="from common import interruption; "
                       "interruption.check = interruption.requested = lambda: None")
    process.send_signal(signal.SIGINT)
    log = tmp_path / "out"
    scripts.wait_for(lambda: "Ctrl-C now leaves at once" in log.read_text(), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert _newest(tmp_path) > 0


def test_a_closed_terminal_stops_the_run_without_loss(files, tmp_path):
    terminal, inside = os.openpty()
    # A process that leads a session gets the signal when its terminal is closed.
    process = subprocess.Popen(
        scripts.command("train_cifar.py", *_options(
            files, "--num-epochs", 400, "--checkpoint-every", 4)), cwd=tmp_path,
        stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(inside)
    log = tmp_path / "logs/run/train.log"
    scripts.wait_for(lambda: os.read(terminal, 4096) and list(
        tmp_path.glob("params/run/checkpoints/step-*")), process, log)
    os.close(terminal)
    assert process.wait(60) == 129
    assert "stopped by SIGHUP" in log.read_text()
    assert _newest(tmp_path) > 0


def test_nohup_outlives_its_terminal(files, tmp_path):
    log = tmp_path / "out"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            ["nohup", *scripts.command("train_cifar.py", *_options(
                files, "--num-epochs", 2, "--checkpoint-every", 1))], cwd=tmp_path,
            stdout=stream, stderr=stream)
    _wait_for_a_checkpoint(tmp_path, process, log)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


def test_the_second_process_is_refused_and_a_dead_one_s_lock_is_not(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = _started(files, tmp_path)
    try:
        for more in ([], ["--overwrite"], ["--resume"]):
            with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
                train_cifar.main([str(word) for word in _options(files, *more)])
    finally:
        process.kill()
        process.wait()
    leftover = tmp_path / "params/run/checkpoints/.step-000000999.1.tmp"
    leftover.mkdir()
    (tmp_path / "logs/run/.metrics.csv.1.tmp.csv").touch()
    third = scripts.run("train_cifar.py", *_options(files, "--overwrite", "--num-epochs", 1),
                        cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    assert not leftover.exists()
    assert not list((tmp_path / "logs/run").glob(".*.tmp*"))


def _limited(largest):
    """Let no file of the process grow beyond `largest` bytes: writes fail as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def test_a_full_disk(files, tmp_path):
    limited = subprocess.run(
        scripts.command("train_cifar.py", *_options(files, "--num-epochs", 2)), cwd=tmp_path,
        text=True, capture_output=True, timeout=120, preexec_fn=_limited(100_000))
    assert limited.returncode == 3, limited.stdout + limited.stderr
    assert len(re.findall("could not save to params/run: .*; the checkpoint before is kept, and "
                          "the next save tries again\n", limited.stdout)) == 2
    assert "error: the end of the run is not saved" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert os.listdir(tmp_path / "params/run") == [".lock"]

    again = scripts.run("train_cifar.py", "--resume", "logs/run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len((tmp_path / "logs/run/metrics.csv").read_text().splitlines()) == 3

    # No byte of any file can be written.
    limited = subprocess.run(
        scripts.command("train_cifar.py", "--overwrite", *_options(files, "--num-epochs", 1)),
        cwd=tmp_path, text=True, capture_output=True, timeout=120, preexec_fn=_limited(0))
    assert limited.returncode == 2 and "Traceback" not in limited.stderr, limited.stderr
    assert "error: cannot write" in limited.stderr


def test_a_loss_that_is_not_finite_stops_the_run(files, tmp_path):
    result = scripts.run("train_cifar.py", *_options(
        files, "--num-epochs", 3, "--lr", 1e30, "--log-interval", 1), cwd=tmp_path)
    scripts.assert_user_error(result, "training stops; the last checkpoint is kept")
    log = (tmp_path / "logs/run/train.log").read_text()
    assert re.search(r"the loss is (nan|inf) in epoch 0, step \d", log)
    images = re.search("all images of that batch, by number: ([0-9 ]+)\n", log).group(1)
    assert len(set(images.split())) == 32
    assert not list((tmp_path / "params/run").rglob("*.params"))


@pytest.mark.slow
def test_killed_at_random_instants_a_run_ends_with_the_same_bits():
    """The short form of ``python -m tests.torture.kill_test``."""
    lines = []
    places = kill_test.kill_test(2, seed=1, log=lines.append)
    assert sum(places.values()) == 2, lines
