"""Several processes of PyTorch train as one: started by torchrun, stopped, killed, taken over."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make env EXTRAS=pytorch")

from common.params import read_params  # noqa: E402
from machines.warden import LOST  # noqa: E402
from tests import scripts  # noqa: E402
from tests.data.photo_files import write_tree  # noqa: E402
from training.checkpoint import newest_checkpoint  # noqa: E402

_DEADLINE_S = 200
_ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": str(scripts.ROOT)}


def _launched(line, count=2):
    """The command line of a script, started by the launcher of `--num-gpus`."""
    return [sys.executable, "-c", "import sys; from machines.torchrun import launch; "
            f"sys.exit(launch({line[1]!r}, {line[2:]!r}, {count}))"]


def _run(line, folder):
    result = subprocess.run(line, cwd=folder, text=True, env=_ENVIRON, capture_output=True,
                            timeout=_DEADLINE_S)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _photographs(tree, batch_size):
    """10 steps without batch normalisation, at a rate that does not magnify rounding errors."""
    return scripts.command(
        "train_imagenet.py", "--data-dir", tree, "--model", "resnet18_v1b", "--norm-layer",
        "GroupNorm", "--act-type", "relu", "--input-size", 32, "--lr", 0.001, "--lr-mode",
        "constant", "--num-epochs", 1, "-j", 0, "--name", "run", "--mode", "imperative",
        "--engine", "pytorch", "--batch-size", batch_size)


def test_two_processes_compute_what_one_with_twice_the_batch_does(tmp_path):
    tree = write_tree(tmp_path / "tree", classes=4, train=10, val=3)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    _run(_photographs(tree, 4), one)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            *_photographs(tree, 2)[1:]]
    assert "2 workers, 4 images a step" in _run(line, two)
    expected, found = (read_params(folder / "params/run/last.params") for folder in (one, two))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=3e-5, err_msg=name)
    ours, theirs = (scripts.metrics(folder / "logs/run")[0] for folder in (two, one))
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=1e-5), column


def _small_images(*more):
    return scripts.command(
        "train_cifar.py", "--dataset", "shapes", "--limit-train", 192, "--blocks", 1,
        "--batch-size", 16, "--lr", 0.05, "--num-epochs", 2, "--drop-rate", 0.1, "--mixup", 0.2,
        "--checkpoint-every", 1, "--name", "run", "-j", 0, "--mode", "imperative", *more)


def test_stopped_killed_and_resumed_they_end_with_the_same_bits(tmp_path):
    whole, other = tmp_path / "whole", tmp_path / "other"
    whole.mkdir()
    other.mkdir()
    _run(_launched(_small_images("--engine", "pytorch")), whole)
    _, state = newest_checkpoint(whole / "params/run/checkpoints", pytest.fail)
    assert (state["steps_per_epoch"], len(state["all_totals"])) == (6, 2)
    line, checkpoints = _small_images("--engine", "pytorch", "--resume", "auto"), (
        other / "params/run/checkpoints")

    def start(condition):
        with open(tmp_path / "out", "w") as log:
            process = subprocess.Popen(_launched(line), cwd=other, stdout=log, stderr=log,
                                       env=_ENVIRON)
        scripts.wait_for(condition, process, tmp_path / "out", _DEADLINE_S)
        return process

    process = start(lambda: any(checkpoints.glob("step-*")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert "stopped by SIGTERM; go on with" in (tmp_path / "out").read_text()

    stopped = max(checkpoints.glob("step-*"))
    process = start(lambda: max(checkpoints.glob("step-*")) > stopped)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], text=True,
                              capture_output=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    assert process.wait(60) == LOST
    said = (tmp_path / "out").read_text()
    assert said.endswith(f"(process {children[1]}) has gone\n") and "Traceback" not in said

    _run(_launched(line), other)
    assert scripts.metrics(other / "logs/run") == scripts.metrics(whole / "logs/run")
    scripts.assert_same_params(other / "params/run", whole / "params/run")
