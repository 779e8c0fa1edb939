import os
import subprocess
import sys

import pytest

from common.errors import UserError
from common.threads import physical_cores, set_threads
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


def test_the_user_s_number_of_threads_stays():
    environ = {"OMP_NUM_THREADS": "7"}
    assert set_threads(environ) == "7"
    environ = {}
    assert set_threads(environ) == environ["OMP_NUM_THREADS"] == str(physical_cores())


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


def test_an_empty_variable_says_nothing():
    environ = {"OMP_NUM_THREADS": "", "MXNET_CPU_WORKER_NTHREADS": "", "DMLC_ROLE": ""}
    assert set_threads(environ) == environ["OMP_NUM_THREADS"] == str(physical_cores())


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
