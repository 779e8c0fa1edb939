"""The check of what only a GPU can do."""
import re
import subprocess
import sys

import mxnet as mx
import pytest

from tests import scripts
from tests.torture import check_gpu


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="there is a GPU: run make check-gpu")
def test_without_a_gpu_it_says_so_and_checks_nothing():
    result = subprocess.run([sys.executable, "-m", "tests.torture.check_gpu"], cwd=scripts.ROOT,
                            capture_output=True, text=True)
    assert result.returncode == 2
    assert re.fullmatch(r"no usable GPU: .+\. Nothing was checked\.\n", result.stdout)


@pytest.mark.slow
def test_its_own_steps_run_on_a_cpu(tmp_path, capsys):
    check_gpu.check(0, tmp_path, "float32", size=32)
    out = capsys.readouterr().out
    assert "went back to a checkpoint and resumed" in out
    assert "evaluated, the CPU" in out
