"""mxnet_compat: it adds what is missing, leaves alone what is there, and can be repeated."""
import ctypes
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from model.mxnet_compat import LooseVersion

from model import mxnet_compat

ROOT = Path(mxnet_compat.__file__).resolve().parents[1]


def test_numpy_names_missing_are_added_and_present_ones_kept():
    module = types.ModuleType("numpy_without_old_names")
    module.NaN = "kept"
    added = mxnet_compat.restore_numpy_names(module)
    assert module.NaN == "kept" and "NaN" not in added
    assert module.bool is bool and np.isneginf(module.NINF) and module.alltrue is np.all
    assert mxnet_compat.restore_numpy_names(module) == []


def test_removed_financial_functions_refuse_to_compute():
    module = types.ModuleType("numpy_without_old_names")
    mxnet_compat.restore_numpy_names(module)
    with pytest.raises(AttributeError, match="numpy-financial"):
        module.pmt(0.1, 10, 1000)


def test_importing_it_left_nothing_to_add():
    assert mxnet_compat.restore_numpy_names() == []
    assert mxnet_compat.restore_distutils() is False


def test_distutils_stand_in_is_found_by_others():
    script = ("import importlib.util as u, sys\n"
              "from model import mxnet_compat as c\n"
              "real = u.find_spec\n"
              "sys.modules.pop('distutils', None); sys.modules.pop('distutils.version', None)\n"
              "u.find_spec = lambda name: None\n"
              "assert c.restore_distutils()\n"
              "u.find_spec = real\n"
              "assert u.find_spec('distutils.version')\n"
              "from distutils.version import LooseVersion, StrictVersion\n"
              "assert LooseVersion is c.LooseVersion\n"
              "assert not c.restore_distutils()\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("smaller, larger", [
    ("1.9.1", "1.10"), ("1.9", "1.9.1"), ("0.10.5", "0.10.5.post0"), ("1.17", "2.2.6"),
    ("1.9.1", "1.b"), ("1.5.1b", "1.5.2"),
])
def test_versions_are_ordered(smaller, larger):
    small, large = LooseVersion(smaller), LooseVersion(larger)
    assert small < large and small <= large and large > small and large >= small
    assert small != large and small < larger
    assert small == LooseVersion(smaller) and hash(small) == hash(LooseVersion(smaller))


@pytest.fixture
def cuda_wheels(tmp_path, monkeypatch):
    """A fake folder of CUDA wheels, a fake loader; returns the list of what was loaded."""
    for place in ("cublas/lib/libcublas.so.11", "cublas/lib/libcublasLt.so.11",
                  "cuda_runtime/lib/libcudart.so.11.0", "nvtx/lib/libnvToolsExt.so.1"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append((Path(path).name, mode)))
    return loaded


def test_cuda_libraries_are_loaded_dependencies_first(cuda_wheels):
    # Any installed distribution can stand for the GPU wheel.
    files = mxnet_compat.preload_cuda_libraries(distribution="numpy")
    names = [name for name, _ in cuda_wheels]
    assert names == ["libcudart.so.11.0", "libnvToolsExt.so.1", "libcublasLt.so.11",
                     "libcublas.so.11"]
    assert [Path(file).name for file in files] == names
    assert {mode for _, mode in cuda_wheels} == {ctypes.RTLD_GLOBAL}


def test_cuda_libraries_are_left_alone_for_the_cpu_build(cuda_wheels):
    assert mxnet_compat.preload_cuda_libraries(distribution="no-such-distribution") == []
    assert cuda_wheels == []


def test_cuda_libraries_may_come_from_the_system(cuda_wheels, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mxnet_compat.preload_cuda_libraries(distribution="numpy") == []


def test_gluoncv_is_imported_where_a_newer_pytorch_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("__version__ = '2.13.0'")
    code = "import model.mxnet_compat, gluoncv.model_zoo, torch; print(torch.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2.13.0\n", "")
