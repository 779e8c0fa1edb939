"""Processes of PyTorch, started by torchrun's agent: what they tell one another, and their ends."""
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests import scripts

pytest.importorskip("torch", reason="PyTorch is not installed: make env EXTRAS=pytorch")

_HEAD = """
import faulthandler, os, signal, sys, time
faulthandler.dump_traceback_later(90, exit=True)    # one that hangs tells where
import numpy as np
from common import interruption
from common.errors import UserError, run_script
from machines import torchrun
from machines.client import leave

def say(*words):    # a line in one piece: others write to the same pipe
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def main():
    torchrun.join(60)
    from engines.torch_workers import connect
    workers = connect()
    rank = workers.rank
"""
_TAIL = """
    return 0

run_script(main, leave=leave)
"""


@pytest.fixture
def start(tmp_path):
    """torchrun's agent with a script whose `main` does `body` in each process: start(body)."""
    started = []
    yield lambda body, count=2: started.append(_start(tmp_path, body, count)) or started[-1]
    for process in started:
        process.kill()    # its processes end with it
        process.wait()


def _start(folder, body, count):
    script = folder / "worker.py"
    script.write_text(_HEAD + textwrap.indent(textwrap.dedent(body), "    ") + _TAIL)
    launcher = ("import sys; from machines.torchrun import launch; "
                f"sys.exit(launch({str(script)!r}, [], {count}))")
    return subprocess.Popen(
        [sys.executable, "-c", launcher], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(scripts.ROOT)})


def _end(process, code):
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == code, out + err
    assert "Traceback" not in err, err
    return out, err


def test_values_sums_and_bytes(start):
    out, err = _end(start("""
        assert workers.gather({"rank": rank, "pi": 3.14159}) == [
            {"rank": r, "pi": 3.14159} for r in range(3)]
        assert workers.sum(np.array([rank, 0.5], np.float32)).tolist() == [3.0, 1.5]
        content = bytes(range(256)) * 5
        assert workers.share(content if workers.first else b"") == content
        assert workers.share(b"") == b""
        assert workers.count == 3 and workers.first == (rank == 0)
        say("passed", rank)
        """, count=3), 0)
    assert sorted(out.splitlines()) == ["passed 0", "passed 1", "passed 2"] and not err


def test_gradients_are_the_workers_mean_and_statistics_their_own(start):
    _end(start("""
        import torch
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.BatchNorm1d(2))
        parallel = workers.parallel(net)
        x = torch.arange(12.0).reshape(4, 3).roll(rank, 0) * (rank + 1)
        (parallel(x) ** 3).sum().backward()
        mean = workers.sum(net[0].weight.grad.numpy().ravel()) / 2
        np.testing.assert_allclose(mean, net[0].weight.grad.numpy().ravel())
        statistics = workers.gather(net[1].running_mean.tolist())
        assert statistics[0] != statistics[1]
        """), 0)


def test_a_compiled_network_learns_in_several_processes(start):
    _end(start("""
        from engines.interface import Group, Loss, Settings
        from engines.pytorch import PyTorchEngine
        from tests.engines.small import MEAN, STD, drawn, images, normed
        engine = PyTorchEngine(normed, drawn(normed), Settings(
            {"weights": Group("nag")}, Loss(10), MEAN, STD, (8, 3, 32, 32)), workers)
        own = images(8, seed=rank)
        before = engine.weights()
        engine.learn((own.images, own.labels), (0, 0), {"weights": 0.1})
        after = {name: array.ravel()[:50].tolist() for name, array in engine.weights().items()}
        assert all(each == after for each in workers.gather(after))
        assert not np.array_equal(before["2.weight"], engine.weights()["2.weight"])
        first, second = engine.state().statistics
        assert not np.array_equal(first, second)
        """), 0)


def test_a_parameter_without_a_gradient_is_no_obstacle(start):
    _end(start("""
        from engines.interface import Group, Loss, Settings
        from engines.pytorch import PyTorchEngine
        from tests.engines.small import MEAN, STD, Blocked, drawn, images
        engine = PyTorchEngine(Blocked, drawn(Blocked), Settings(
            {"weights": Group("nag")}, Loss(10), MEAN, STD, (8, 3, 32, 32), compiled=False),
            workers)
        before, own = engine.weights(), images(8, seed=rank)
        for step in range(3):
            engine.learn((own.images, own.labels), (0, step), {"weights": 0.01})
        after = engine.weights()
        assert not np.array_equal(before["learns.weight"], after["learns.weight"])
        np.testing.assert_array_equal(before["blocked.weight"], after["blocked.weight"])
        sums = {name: float(array.sum()) for name, array in after.items()}
        assert workers.gather(sums) == [sums, sums]
        """), 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_fails_ends_the_others_with_its_reason(start, rank):
    _, err = _end(start(f"""
        if rank == {rank}:
            raise UserError("the disk is full")
        workers.gather(None)
        """), 2)
    lines = sorted(err.splitlines())
    assert lines[0] == "error: the disk is full"
    assert lines[1].startswith(f"error: worker {rank} on ")
    assert lines[1].endswith("stopped: the disk is full") and len(lines) == 2


def test_the_processes_end_with_their_launcher(start):
    process = start("""
        step = 0
        with interruption.deferred():
            say("ready")
            while not workers.stops_after(step):
                step += 1
                time.sleep(0.05)
        say("saved")
        """)
    assert process.stdout.readline() == process.stdout.readline() == "ready\n"
    process.kill()
    out, err = process.communicate(timeout=60)    # to the end of the last that writes there
    assert out == "saved\n" * 2 and "Traceback" not in err


@pytest.mark.parametrize("rank, line", [(0, "error: worker 0 has gone"),
                                        (1, "error: worker 1 on ")])
def test_one_that_is_killed_ends_the_others_within_a_sum(start, rank, line):
    _, err = _end(start(f"""
        workers.gather(None)
        if rank == {rank}:
            os.kill(os.getpid(), signal.SIGKILL)
        workers.sum(np.zeros(4, np.float32))
        """), 4)
    assert err.startswith(line) and "gone" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_after_the_same_step(start, number):
    process = start("""
        step = 0
        try:
            with interruption.deferred():
                while not workers.stops_after(step):
                    step += 1
                    workers.sum(np.zeros(4, np.float32))
                    if step == 5:
                        say("ready")
                assert len(set(workers.gather(step))) == 1
                say("saved")
                workers.stop()
        except interruption.Interrupted as stop:
            return stop.code
        """)
    assert process.stdout.readline() == process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = _end(process, 128 + number)
    assert out == "saved\n" * 2


def test_ctrl_c_while_a_worker_waits_for_the_others_to_end_is_no_traceback(start):
    _end(start("""
        from machines.client import get_client
        client = get_client()
        send = client._send

        def sends_and_is_interrupted(**message):
            send(**message)
            os.kill(os.getpid(), signal.SIGINT)

        while rank == 0:    # until torchrun's agent ends it
            time.sleep(0.05)
        client._send = sends_and_is_interrupted
        """), 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_may_reach_a_worker_after_the_others_have_stopped_it(start, number):
    _, err = _end(start(f"""
        try:
            with interruption.deferred():
                if rank == 0:
                    os.kill(os.getpid(), {number})
                step = 0
                while not workers.stops_after(step):
                    step += 1
                workers.stop()
        except interruption.Interrupted as stop:
            if rank == 1 or {number} == signal.SIGTERM:    # the second one in worker 0
                os.kill(os.getpid(), {number})
            return stop.code
        """), 128 + number)
    assert "gone" not in err and "interrupted" not in err
