"""A process that is left to PyTorch, seen from outside it."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_COUNT = """
import os, resource, sys
from pathlib import Path
import numpy as np
import model.mxnet_compat
import mxnet as mx
{prepare}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = len(list(Path("/proc/self/task").iterdir()))
mx.random.seed(0)
total = float(mx.nd.random.normal(shape=(64, 64)).sum().asscalar())
threads = len(list(Path("/proc/self/task").iterdir())) - before
np.ones(1 << 21)    # 16 MiB
first = faults()
for _ in range(10):
    np.ones(1 << 21)
print(threads, faults() - first, total, os.environ.get("MXNET_ENGINE_TYPE"))
"""
_PREPARE = "from engines.torch_cpu import leave_cpu_to_pytorch; leave_cpu_to_pytorch()"


def _counted(prepare):
    run = subprocess.run([sys.executable, "-c", _COUNT.format(prepare=prepare)], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    threads, faults, total, engine = run.stdout.split()
    return int(threads), int(faults), total, engine, run.stderr


def test_mxnet_starts_no_threads_and_memory_stays():
    threads, faults, total, engine, said = _counted(_PREPARE)
    as_it_is = _counted("")
    assert threads == 0 < as_it_is[0]
    assert faults < 100 < as_it_is[1]    # ten times 4,096 pages, if nothing is kept
    assert total == as_it_is[2]    # the same stream of random numbers
    assert engine == "None"    # children choose for themselves
    assert said == ""


def test_users_engine_is_kept(monkeypatch):
    monkeypatch.setenv("MXNET_ENGINE_TYPE", "ThreadedEngine")
    threads, _, _, engine, _ = _counted(_PREPARE)
    assert threads > 0 and engine == "ThreadedEngine"
