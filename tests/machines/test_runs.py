"""Several workers as one: real processes, some of them killed."""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import train_cifar
from common.errors import UserError
from machines.client import join
from machines.warden import LOST, SILENCE_S
from runs.weights import read_weights
from tests import scripts
from tests.data.photo_files import write_tree
from tests.machines.cluster import DEADLINE_S, Cluster, environ, launcher
from tests.torture import fuzz_warden
from training.checkpoint import newest_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return scripts.drawn_cifar(tmp_path_factory.mktemp("files"), train=384, test=65)


def _options(files, *more):
    return ("--data-dir", files, "--blocks", 1, "--batch-size", 16, "--lr", 0.05, "--num-epochs",
            3, "--drop-rate", 0.1, "--mixup", 0.2, "--checkpoint-every", 2, "--name", "run", "-j",
            0, "--kv-store", "dist_sync", *more)


def _train(files, *more):
    return scripts.command("train_cifar.py", *_options(files, *more))


def _checkpoints(folder):
    return sorted((folder / "params/run/checkpoints").glob("step-*"))


def _launched(folder, *arguments, timeout=120, **more):
    return subprocess.run(launcher(*arguments), cwd=folder, env=environ(**more), text=True,
                          capture_output=True, timeout=timeout)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, files):
    """A run of two workers that nothing disturbs, started by the launcher: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    result = _launched(folder, "-n", 2, "-s", 1, "--", scripts.ROOT / "train_cifar.py",
                       *_options(files))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 workers, 32 images a step" in result.stdout
    assert result.stdout.count("[Epoch 1]") == 1 and result.stderr == ""
    return folder


def test_only_worker_0_writes(whole):
    assert [path.name for path in (whole / "logs").iterdir()] == ["run"]
    assert [path.name for path in (whole / "params").iterdir()] == ["run"]
    assert [row["epoch"] for row in scripts.metrics(whole / "logs/run")] == ["0", "1", "2"]
    _, state = newest_checkpoint(whole / "params/run/checkpoints", pytest.fail)
    assert (state["steps_per_epoch"], len(state["all_totals"])) == (12, 2)
    # 65 images, shared out among two workers: each counted once.
    last = scripts.metrics(whole / "logs/run")[-1]
    assert float(last["val_accuracy"]) * 65 % 1 == pytest.approx(0, abs=1e-6)


def _same_end(folder, whole):
    assert scripts.metrics(folder / "logs/run") == scripts.metrics(whole / "logs/run")
    scripts.assert_same_params(folder / "params/run", whole / "params/run")
    ours, theirs = (read_weights(_checkpoints(path)[-1] / "optimizer.params")
                    for path in (folder, whole))
    for key, array in theirs.items():
        np.testing.assert_array_equal(ours[key].asnumpy(), array.asnumpy(), err_msg=key)


def test_stopped_killed_and_resumed_on_two_machines_it_ends_with_the_same_bits(
        whole, files, tmp_path):
    """The second worker has a folder of its own, in which it finds no run and leaves nothing."""
    other = tmp_path / "other"
    other.mkdir()
    line = _train(files, "--resume", "auto")

    with Cluster(tmp_path) as cluster:
        cluster.start_all(line, (tmp_path, other))
        cluster.wait_for(lambda: _checkpoints(tmp_path))
        cluster.signal("worker1", signal.SIGTERM)
        assert cluster.codes(60) == {"scheduler": 0, "server": 0, "worker0": 143, "worker1": 143}
        assert "stopped by SIGTERM; go on with: the same launcher and train_cifar.py --resume" in (
            cluster.output("worker0"))
    stopped = _checkpoints(tmp_path)[-1]

    with Cluster(tmp_path) as cluster:
        cluster.start_all(line, (tmp_path, other))
        cluster.wait_for(lambda: _checkpoints(tmp_path)[-1] > stopped)
        cluster.kill("worker1")
        codes = cluster.codes(SILENCE_S - 1)    # a closed connection tells sooner than silence
        assert codes == {"scheduler": LOST, "server": LOST, "worker0": LOST,
                         "worker1": -signal.SIGKILL}
        pid = cluster.processes["worker1"].pid
        for name in ("scheduler", "server", "worker0"):
            assert cluster.output(name).endswith(f"(process {pid}) has gone\n"), cluster

    with Cluster(tmp_path) as cluster:
        cluster.start_all(line, (tmp_path, other))
        assert set(cluster.codes().values()) == {0}, cluster
        assert "resumed from" in cluster.output("worker0")
    _same_end(tmp_path, whole)
    assert not list(other.iterdir())


@pytest.mark.parametrize("victim", ["scheduler", "server"])
def test_whoever_dies_the_others_end(victim, files, tmp_path):
    with Cluster(tmp_path) as cluster:
        cluster.start_all(_train(files, "--num-epochs", 400))
        cluster.wait_for(lambda: _checkpoints(tmp_path))
        cluster.kill(victim)
        codes = cluster.codes(60)
        assert codes.pop(victim) == -signal.SIGKILL
        assert set(codes.values()) == {LOST}, cluster
        for name in codes:
            last = cluster.output(name).splitlines()[-1]
            assert last.startswith("error: ") and last.endswith("has gone"), cluster
            assert "Traceback" not in cluster.output(name)


def _processes_with(text):
    """The command lines of running processes that hold a text."""
    lines = subprocess.run(["ps", "-ww", "-eo", "pid,args"], text=True, capture_output=True).stdout
    return [line for line in lines.splitlines() if text in line and "ps -ww" not in line]


@pytest.mark.parametrize("number, code", [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_launcher_that_is_stopped_leaves_a_checkpoint_and_no_orphans(number, code, files,
                                                                       tmp_path):
    mark = str(tmp_path / "params")
    with open(tmp_path / "out", "w") as stream:
        process = subprocess.Popen(
            launcher("-n", 2, "-s", 1, "--", scripts.ROOT / "train_cifar.py",
                     *_options(files, "--num-epochs", 400, "--save-dir", mark)),
            cwd=tmp_path, env=environ(), stdout=stream, stderr=subprocess.STDOUT)
    output = (tmp_path / "out").read_text
    scripts.wait_for(lambda: _checkpoints(tmp_path), process, tmp_path / "out")
    process.send_signal(number)
    assert process.wait(60) == code, output()
    scripts.wait_for(lambda: not _processes_with(mark))
    assert "stopped by SIG" in output() and "Traceback" not in output()
    newest_checkpoint(tmp_path / "params/run/checkpoints", pytest.fail)


# ---- what they compute -------------------------------------------------------------------------

def _imagenet(tree, batch_size, *more):
    """10 steps without batch normalisation, at a rate that does not magnify rounding errors."""
    return scripts.command(
        "train_imagenet.py", "--data-dir", tree, "--model", "resnet18_v1b", "--norm-layer",
        "GroupNorm", "--act-type", "relu", "--input-size", 32, "--lr", 0.001, "--lr-mode",
        "constant", "--num-epochs", 1, "-j", 0, "--num-gpus", 0, "--name", "run", "--batch-size",
        batch_size, *more)


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    """The data, and the parameters of one worker with batches of 4 after 10 steps."""
    folder = tmp_path_factory.mktemp("one")
    tree = write_tree(folder / "tree", classes=4, train=10, val=3)
    result = subprocess.run(_imagenet(tree, 4), cwd=folder, env=environ(), text=True,
                            capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return tree, folder


def _assert_equals_one_worker(folder, one):
    expected, found = (read_weights(path / "params/run/last.params") for path in (one, folder))
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(found[key].asnumpy(), array.asnumpy(), rtol=0, atol=1e-5,
                                   err_msg=key)
    ours, theirs = scripts.metrics(folder / "logs/run")[0], scripts.metrics(one / "logs/run")[0]
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=1e-5), column


def test_two_workers_compute_what_one_with_twice_the_batch_does(one_worker, tmp_path):
    """Whoever else knocks at the scheduler's door meanwhile."""
    tree, one = one_worker
    rng, met = random.Random(0), 0
    with Cluster(tmp_path) as cluster:
        cluster.start_all(_imagenet(tree, 2, "--kv-store", "dist_device_sync"))
        deadline = time.monotonic() + DEADLINE_S
        while cluster.processes["scheduler"].poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError):    # before the run, and at its end
                fuzz_warden.meet(cluster.warden, rng.choice(fuzz_warden.KINDS), rng, [])
                met += 1
            time.sleep(0.01)
        assert set(cluster.codes().values()) == {0}, cluster
    assert met > 20
    _assert_equals_one_worker(tmp_path, one)


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def two_hosts():
    """Two network namespaces with addresses of their own, joined by a cable: (name, address)."""
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: there is no ip (iproute2)")
    hosts = [(f"host{k}-{os.getpid()}", f"10.77.0.{k + 1}") for k in range(2)]
    made = _ip("netns", "add", hosts[0][0])
    if made.returncode:
        pytest.skip(f"no network namespaces: {made.stderr.strip()}")
    try:
        _ip("netns", "add", hosts[1][0])
        cable = _ip("link", "add", "eth0", "netns", hosts[0][0], "type", "veth", "peer", "name",
                    "eth0", "netns", hosts[1][0])
        if cable.returncode:
            pytest.skip(f"no network between namespaces: {cable.stderr.strip()}")
        for name, address in hosts:
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                assert _ip("-n", name, "link", "set", device, "up").returncode == 0
        yield hosts
    finally:
        for name, _ in hosts:
            _ip("netns", "del", name)


def test_two_hosts_with_addresses_of_their_own(two_hosts, one_worker, tmp_path):
    """Scheduler, server and worker 0 on the first host, worker 1 on the second."""
    tree, one = one_worker
    (first, address), (second, _) = two_hosts
    line = _imagenet(tree, 2, "--kv-store", "dist_sync")
    other = tmp_path / "other"
    other.mkdir()
    with Cluster(tmp_path, address=address) as cluster:
        for role, number, host, folder in (
                ("scheduler", None, first, None), ("server", None, first, None),
                ("worker", 0, first, None), ("worker", 1, second, other)):
            cluster.start(role, line, number, folder, ("ip", "netns", "exec", host))
        assert set(cluster.codes().values()) == {0}, cluster
    _assert_equals_one_worker(tmp_path, one)
    assert not list(other.iterdir())


def test_a_host_that_falls_silent_is_given_up(two_hosts, files, tmp_path):
    """The cable is cut: no connection is closed, nobody answers any more."""
    (first, address), (second, _) = two_hosts
    line = scripts.command(
        "train_cifar.py", *_options(files, "--num-epochs", 4000),
        first="from machines import warden; warden.PING_S, warden.SILENCE_S = 0.5, 4")
    with Cluster(tmp_path, address=address) as cluster:
        for role, number, host in (("scheduler", None, first), ("server", None, first),
                                   ("worker", 0, first), ("worker", 1, second)):
            cluster.start(role, line, number, None, ("ip", "netns", "exec", host))
        cluster.wait_for(lambda: _checkpoints(tmp_path))
        assert _ip("-n", second, "link", "set", "eth0", "down").returncode == 0
        assert set(cluster.codes(60).values()) == {LOST}, cluster
        assert "has not been heard of for 4 s" in cluster.output("worker0")
        assert "the scheduler has gone" in cluster.output("worker1")


# ---- options -----------------------------------------------------------------------------------

def test_workers_with_different_options_are_refused(files, tmp_path):
    with Cluster(tmp_path) as cluster:
        for role in ("scheduler", "server"):
            cluster.start(role, _train(files))
        for number in range(2):
            cluster.start("worker", _train(files, "--seed", number), number)
        assert set(cluster.codes(60).values()) == {2}, cluster
        for name in cluster.processes:
            assert ("worker 1 was started with another --seed than worker 0: 1, not 0"
                    in cluster.output(name)), cluster
    assert not (tmp_path / "logs").exists()


def test_a_launcher_s_worker_needs_a_distributed_store(files, tmp_path):
    result = _launched(tmp_path, "-n", 2, "-s", 1, "--", scripts.ROOT / "train_cifar.py",
                       *_options(files, "--kv-store", "device"))
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "this is one of 2 workers: give --kv-store dist_sync" in result.stderr


def test_a_distributed_store_needs_a_launcher(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="python -m machines.launch"):
        train_cifar.main([str(word) for word in _options(files)])
    assert not list(tmp_path.iterdir())


def test_whoever_is_alone_says_so(files, tmp_path):
    """No scheduler; a scheduler and a server but only one of two workers."""
    with Cluster(tmp_path) as cluster:
        cluster.start("worker", _train(files, "--join-timeout", 1))
        assert cluster.codes(60) == {"worker": 2}
        assert "error: no scheduler answers at 127.0.0.1" in cluster.output("worker")
    with Cluster(tmp_path) as cluster:
        for role in ("scheduler", "server", "worker"):
            cluster.start(role, _train(files, "--join-timeout", 5))
        assert set(cluster.codes(60).values()) == {2}
        for name in cluster.processes:
            assert "within 5 s only 1 of 2 workers and 1 of 1 servers came" in (
                cluster.output(name)), cluster


@pytest.mark.parametrize("changed, message", [
    ({"DMLC_ROLE": "boss"}, "DMLC_ROLE must be scheduler, server or worker, not 'boss'"),
    ({"DMLC_NUM_WORKER": ""}, "DMLC_NUM_WORKER is not"),
    ({"DMLC_PS_ROOT_PORT": "x"}, "DMLC_PS_ROOT_PORT must be a whole number from 1 to 65534"),
    ({"DMLC_TASK_ID": "2"}, "DMLC_TASK_ID must be a whole number from 0 to 1, not '2'"),
    ({"DMLC_NUM_SERVER": "9" * 5000}, "DMLC_NUM_SERVER must be a whole number from 1 to 9999"),
    ({"DMLC_PS_ROOT_URI": "no.such.machine.invalid"}, "there is no machine"),
    ({"DMLC_PS_ROOT_URI": "a" * 64 + "."}, "DMLC_PS_ROOT_URI: there is no machine"),
    ({"DMLC_NODE_HOST": "no.such.machine.invalid"}, "DMLC_NODE_HOST: there is no machine"),
    ({"DMLC_INTERFACE": "no0"}, "has no network interface 'no0'"),
    ({"ATAC_SECRET": ""}, "ATAC_SECRET is not"),
    ({"ATAC_SECRET": "short"}, "ATAC_SECRET must be at least 16 ASCII characters"),
    ({"DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_URI": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
])
def test_wrong_variables(changed, message):
    variables = {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": "9",
                 "DMLC_NUM_WORKER": "2", "DMLC_NUM_SERVER": "1", "ATAC_SECRET": "x" * 16,
                 **changed}
    with pytest.raises(UserError, match=message):
        join(0.1, variables)
