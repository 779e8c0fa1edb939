import os
import subprocess
import sys

import pytest

from common import threads
from common.errors import UserError
from common.threads import (
    busy_shares,
    free_cores,
    own_environment,
    physical_cores,
    set_threads,
)
from tests import scripts
from tests.scripts import ROOT


def _topology(folder, cores):
    for cpu, siblings in enumerate(cores):
        place = folder / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(siblings + "\n")


@pytest.mark.parametrize("siblings, quota, expected", [
    (["0", "1"], "max 100000", 2),              # two cores, no limit
    (["0-1", "0-1"], "max 100000", 1),          # one core with two threads
    (["0", "1"], "100000 100000", 1),           # two cores, a quota of one
    (["0", "1"], "150000 100000", 2),           # a quota of one and a half
    (["0", "1"], "nonsense", 2),
])
def test_physical_cores(tmp_path, monkeypatch, siblings, quota, expected):
    _topology(tmp_path, siblings)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr("common.threads._usable_cpus", lambda: set(range(len(siblings))))
    assert physical_cores(tmp_path, tmp_path / "cpu.max") == expected


def test_unknown_topology_counts_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr("common.threads._usable_cpus", lambda: {0, 1, 2})
    assert physical_cores(tmp_path, tmp_path / "none") == 3


def _stat(*cpus):
    """/proc/stat of so many CPUs: user, nice, system and idle time of each."""
    rows = [f"cpu{number} {' '.join(map(str, times))} 0 0 0 0 0 0"
            for number, times in enumerate(cpus)]
    return "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *rows, "intr 5 0 1", "ctxt 7", ""])


_AT_FIRST = _stat((100, 50, 10, 1000), (200, 0, 20, 900))
_STATS = {
    "idle": _stat((100, 50, 10, 1010), (200, 0, 20, 910)),
    "one busy": _stat((109, 50, 11, 1000), (200, 0, 20, 910)),
    "one busy, on both": _stat((105, 50, 10, 1005), (203, 0, 22, 905)),
    "one a little": _stat((104, 50, 10, 1006), (200, 0, 20, 910)),
    "both busy": _stat((110, 50, 10, 1000), (200, 0, 30, 900)),
    "both of lower priority": _stat((100, 60, 10, 1000), (200, 10, 20, 900)),
}


def test_what_each_cpu_is_busy_with():
    assert busy_shares(_AT_FIRST, _STATS["one busy"]) == {0: 1, 1: 0}
    assert busy_shares(_AT_FIRST, _STATS["one busy, on both"]) == {0: 0.5, 1: 0.5}
    assert busy_shares(_AT_FIRST, _STATS["both of lower priority"]) == {0: 0, 1: 0}
    assert busy_shares(_AT_FIRST, _STATS["both of lower priority"], niced=True) == {0: 1, 1: 1}
    assert busy_shares(_AT_FIRST, _AT_FIRST) == {0: 0, 1: 0}    # no tick has passed
    # Interrupts and what the host gave to others; then guests, which are in user time, too.
    assert busy_shares("cpu3 0 0 0 0 0 0 0 0 0 0", "cpu3 0 0 0 4 2 1 1 2 9 9") == {3: 0.4}


@pytest.mark.parametrize("after, siblings, quota, nice, by_sessions, expected", [
    ("idle", ["0", "1"], "max 100000", 0, "0", 2),
    ("one busy", ["0", "1"], "max 100000", 0, "0", 1),
    ("one busy, on both", ["0", "1"], "max 100000", 0, "0", 1),
    ("one a little", ["0", "1"], "max 100000", 0, "0", 2),
    ("both busy", ["0", "1"], "max 100000", 0, "0", 1),
    ("both of lower priority", ["0", "1"], "max 100000", 0, "0", 2),
    ("both of lower priority", ["0", "1"], "max 100000", 5, "0", 1),    # this process is low, too
    ("both of lower priority", ["0", "1"], "max 100000", 0, "1", 1),    # they do not make way
    ("one busy", ["0-1", "0-1"], "max 100000", 0, "0", 1),
    ("idle", ["0", "1"], "100000 100000", 0, "1", 1),
])
def test_free_cores(after, siblings, quota, nice, by_sessions, expected, tmp_path, monkeypatch):
    _topology(tmp_path, siblings)
    (tmp_path / "cpu.max").write_text(quota)
    (tmp_path / "autogroup").write_text(by_sessions + "\n")
    monkeypatch.setattr(threads, "_usable_cpus", lambda: {0, 1})
    monkeypatch.setattr(threads, "_SAMPLE_S", 0)
    monkeypatch.setattr(os, "nice", lambda by: nice)
    texts = iter((_AT_FIRST, _STATS[after]))
    assert free_cores(tmp_path, tmp_path / "cpu.max", lambda: next(texts),
                      tmp_path / "autogroup") == expected


def test_a_busy_cpu_that_this_process_may_not_use_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_usable_cpus", lambda: {1, 2})
    monkeypatch.setattr(threads, "_SAMPLE_S", 0)
    texts = iter((_AT_FIRST, _STATS["one busy"]))
    assert free_cores(tmp_path, tmp_path / "none", lambda: next(texts)) == 2


def test_without_proc_stat_all_cores_are_free(tmp_path):
    def read():
        raise FileNotFoundError
    assert free_cores(read=read) == physical_cores()


@pytest.fixture
def two_free(monkeypatch):
    monkeypatch.setattr(threads, "free_cores", lambda: 2)
    monkeypatch.setattr(threads, "physical_cores", lambda: 4)


def test_the_user_s_number_of_threads_stays(two_free):
    def recorded():
        raise AssertionError("a number that nobody asked for was read")
    environ = {"OMP_NUM_THREADS": "7"}
    assert set_threads(environ, recorded=recorded) == "7"
    environ = {}
    assert set_threads(environ) == environ["OMP_NUM_THREADS"] == "2"


def test_a_resumed_run_keeps_its_number_of_threads(two_free):
    assert set_threads({}, recorded=lambda: 3) == "3"


@pytest.mark.parametrize("environ", [{"DMLC_ROLE": "worker"}, {"WORLD_SIZE": "2"}])
def test_one_of_several_machines_takes_all_cores(environ, two_free):
    assert set_threads(environ, takes_part=True, recorded=lambda: 3) == "4"


@pytest.mark.parametrize("environ, expected", [
    ({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
    ({"OMP_WAIT_POLICY": ""}, "10000")])
def test_threads_spin_briefly_unless_the_user_says_how(environ, expected, two_free):
    set_threads(environ)
    assert environ.get("GOMP_SPINCOUNT") == expected


def test_a_child_that_chooses_for_itself_gets_what_the_user_set(two_free, monkeypatch):
    monkeypatch.setattr(threads, "_chosen", {})
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    assert set_threads() == os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in own_environment()
    assert own_environment()["GOMP_SPINCOUNT"] == "5"


def test_the_user_s_settings_stay():
    environ = {"MXNET_USE_OPERATOR_TUNING": "1"}
    set_threads(environ)
    assert environ["MXNET_USE_OPERATOR_TUNING"] == "1"
    assert int(environ["MXNET_CPU_PARALLEL_SIZE"]) > 512 * 3 * 224 * 224


@pytest.mark.parametrize("name, value", [
    ("OMP_NUM_THREADS", "abc"), ("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "2,3"),
    ("OMP_NUM_THREADS", "100000"), ("OMP_NUM_THREADS", "9" * 5000), ("OMP_NUM_THREADS", "²"),
    ("MXNET_CPU_WORKER_NTHREADS", "0"), ("MXNET_CPU_WORKER_NTHREADS", "-1"),
    ("MXNET_CPU_PRIORITY_NTHREADS", "1.5"), ("MXNET_CPU_TEMP_COPY", "0"),
    ("MXNET_CPU_PARALLEL_SIZE", "many"), ("MXNET_ENGINE_TYPE", "Naive"),
    ("MXNET_EXEC_BULK_EXEC_TRAIN", "x"), ("MXNET_MKLDNN_ENABLED", "on")])
def test_variables_that_would_abort_or_hang_mxnet_are_refused(name, value):
    with pytest.raises(UserError, match=f"^the environment variable {name} must be "):
        set_threads({name: value})


def test_an_empty_variable_says_nothing(two_free):
    environ = {"OMP_NUM_THREADS": "", "MXNET_CPU_WORKER_NTHREADS": "", "DMLC_ROLE": ""}
    assert set_threads(environ) == environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("role", ["server", "scheduler", "worker", "x"])
def test_a_script_of_one_process_is_no_part_of_several_machines(role):
    with pytest.raises(UserError, match=f"DMLC_ROLE is '{role}', but only train_cifar.py"):
        set_threads({"DMLC_ROLE": role})
    assert set_threads({"DMLC_ROLE": role, "OMP_NUM_THREADS": "3"}, takes_part=True) == "3"


@pytest.mark.parametrize("script, options", [
    ("evaluate.py", ("--params", "none.params")), ("gradcam.py", ("--run", "none")),
    ("export.py", ("--params", "none.params", "--output", "x")), ("search_attention.py", ()),
    ("compare.py", ("--acts", "relu"))])
def test_scripts_check_the_variables_before_mxnet_reads_them(script, options, tmp_path):
    for variables in ({"DMLC_ROLE": "server"}, {"MXNET_CPU_WORKER_NTHREADS": "0"}):
        result = scripts.run(script, *options, cwd=tmp_path, timeout=60, **variables)
        scripts.assert_user_error(result, *variables)


_COUNT_THREADS = """
import os
from common.threads import set_threads
set_threads()
import model.mxnet_compat, numpy as np
from mxnet import nd
def threads(): return len(os.listdir("/proc/self/task"))
x = nd.ones((64, 1024, 16)); nd.elemwise_mul(x, x).wait_to_read()
before = threads()
nd.array(np.ones((64, 1024, 16), np.float32)).wait_to_read()
print(threads() - before)
"""


@pytest.mark.parametrize("size, expected", [(None, "0"), ("200000", "1")])
def test_copies_start_no_openmp_threads(size, expected):
    """MXNet's default, 200,000 elements, shows that the test sees them."""
    environ = {**os.environ, "OMP_NUM_THREADS": "2"}
    environ.pop("MXNET_CPU_PARALLEL_SIZE", None)
    if size:
        environ["MXNET_CPU_PARALLEL_SIZE"] = size
    assert subprocess.run([sys.executable, "-c", _COUNT_THREADS], env=environ, cwd=ROOT, text=True,
                          capture_output=True, check=True).stdout.split() == [expected]
