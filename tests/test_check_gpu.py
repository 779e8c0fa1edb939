"""The check of what only a GPU can do."""
import re
import subprocess
import sys

import mxnet as mx
import pytest

from tests import scripts


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="there is a GPU: run make check-gpu")
def test_without_a_gpu_it_says_so_and_checks_nothing(tmp_path):
    result = scripts.run("tools/check_gpu.py", cwd=tmp_path)
    assert result.returncode == 2
    assert re.fullmatch(r"no usable GPU: .+\. Nothing was checked\.\n", result.stdout)


@pytest.mark.slow
def test_its_own_steps_run_on_a_cpu(tmp_path):
    code = ("import sys; sys.path.insert(0, 'tools'); from pathlib import Path; import check_gpu; "
            f"check_gpu.check(0, Path({str(tmp_path)!r}), 'float32', size=32)")
    result = subprocess.run([sys.executable, "-c", code], cwd=scripts.ROOT, timeout=600,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "went back to a checkpoint and resumed" in result.stdout
    assert "evaluated, the CPU" in result.stdout
