"""Make MXNet 1.9.1 and GluonCV 0.10 importable on current Pythons and NumPys.

MXNet's last release (May 2022) reads names at import time that have since been
removed from its dependencies:

* NumPy 1.24 dropped the aliases of builtins (``np.bool``, ``np.int``, ``np.float``);
  NumPy 2.0 dropped spellings such as ``np.PZERO``, ``np.NINF``, ``np.NaN``,
  ``np.alltrue`` or ``np.product``, and the module ``np.compat``; later releases drop
  ``np.in1d``, ``np.trapz``, ``np.row_stack``. The financial functions (``np.pmt``,
  ``np.npv``, ...) left in NumPy 1.20; MXNet only lists them as fallbacks and never computes
  with them.
* Python 3.12 dropped ``distutils``; MXNet and GluonCV compare versions with it.

GluonCV refuses to be imported where PyTorch 2 or later is installed, of which nothing here
that is GluonCV's makes use: while it is imported, it finds no PyTorch.

The GPU wheels link CUDA 11, cuDNN 8 and NCCL 2 by bare file name. The pip wheels
of those libraries (``nvidia-*-cu11``) install outside the loader's search path, so
they are loaded here first, by full path.

Importing this module does all of it, once. Only what is missing is added: a name
that NumPy or Python still has is left alone. Import it before ``mxnet``; the
packages ``model``, ``training`` and ``data.imagenet`` do so themselves.
"""
import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
import types
from pathlib import Path

import numpy as np

__all__ = ["restore_numpy_names", "restore_distutils", "preload_cuda_libraries",
           "hide_pytorch_from_gluoncv"]

_FINANCIAL = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")

# What libmxnet.so of mxnet-cu112 links (all but libcuda.so.1, which is the driver's) and
# cuBLAS-Lt, which cuBLAS and cuSOLVER link in turn: dependencies first.
_CUDA_LIBRARIES = (
    "libcudart.so.11.0", "libnvToolsExt.so.1", "libnvrtc.so.11.2", "libcublasLt.so.11",
    "libcublas.so.11", "libcufft.so.10", "libcurand.so.10", "libcusolver.so.11",
    "libnccl.so.2", "libcudnn.so.8",
)


def _removed(name):
    def stub(*_args, **_kwargs):
        raise AttributeError(f"numpy.{name} was removed from NumPy; use the package "
                             "numpy-financial")
    stub.__name__ = name
    return stub


def _msort(array):
    return np.sort(array, axis=0)


def _replacements():
    """The removed NumPy names and what stands for each in every later NumPy."""
    names = {
        "bool": bool, "int": int, "float": float, "object": object,
        "PZERO": 0.0, "NZERO": -0.0, "PINF": np.inf, "NINF": -np.inf, "Inf": np.inf,
        "NaN": np.nan, "NAN": np.nan,
        "product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any,
        "round_": np.round, "in1d": np.isin, "row_stack": np.vstack, "msort": _msort,
        "trapz": getattr(np, "trapezoid", None),
        "compat": types.SimpleNamespace(basestring=str),
    }
    names.update({name: _removed(name) for name in _FINANCIAL})
    return {name: value for name, value in names.items() if value is not None}


def restore_numpy_names(module=np):
    """Add the NumPy names that MXNet reads and `module` lacks.

    Returns
    -------
    list of str
        The names that were added.
    """
    # vars(), not hasattr(): NumPy's module __getattr__ warns about or refuses old names.
    added = {name: value for name, value in _replacements().items() if name not in vars(module)}
    for name, value in added.items():
        setattr(module, name, value)
    return list(added)


@functools.total_ordering
class LooseVersion:
    """Stand-in for ``distutils.version.LooseVersion``: compares dotted versions."""

    def __init__(self, vstring=""):
        self.vstring = str(vstring)
        self.version = [int(part) if part.isdigit() else part
                        for part in re.findall(r"\d+|[a-z]+", self.vstring)]

    def __str__(self):
        return self.vstring

    def __repr__(self):
        return f"LooseVersion('{self.vstring}')"

    def _key(self, other):
        # Numbers before words at the same place, so that mixed parts stay comparable.
        other = other if isinstance(other, LooseVersion) else LooseVersion(other)
        return tuple([(isinstance(part, str), part) for part in v.version] for v in (self, other))

    def __eq__(self, other):
        mine, theirs = self._key(other)
        return mine == theirs

    def __hash__(self):
        return hash(tuple(self.version))

    def __lt__(self, other):
        mine, theirs = self._key(other)
        return mine < theirs


def restore_distutils():
    """Provide ``distutils.version`` where neither Python nor setuptools does.

    Returns
    -------
    bool
        Whether the stand-in was installed.
    """
    if importlib.util.find_spec("distutils") is not None:
        return False
    # With their specs, so that they are found when this runs a second time.
    package, version = (
        importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None, is_package=top))
        for name, top in (("distutils", True), ("distutils.version", False)))
    version.LooseVersion = version.StrictVersion = LooseVersion
    package.version = version
    sys.modules.update({"distutils": package, "distutils.version": version})
    return True


def preload_cuda_libraries(distribution="mxnet-cu112"):
    """Load the CUDA libraries of the ``nvidia-*-cu11`` wheels for a GPU build of MXNet.

    Does nothing unless `distribution` is installed. A library that no wheel holds is
    left to the system's own loader path (a CUDA toolkit).

    Returns
    -------
    list of str
        The files that were loaded.
    """
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return []
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in spec.submodule_search_locations] if spec else []
    loaded = []
    for name in _CUDA_LIBRARIES:
        for path in (hit for root in roots for hit in root.glob(f"*/lib/{name}")):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            loaded.append(str(path))
    return loaded


class _GluonCVFinder:
    """Finds GluonCV as Python does, and hides PyTorch while it is executed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name) if name == "gluoncv" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            with _hidden("torch"):
                execute(module)

        spec.loader.exec_module = exec_module
        return spec


@contextlib.contextmanager
def _hidden(name):
    """Importing `name` fails as if it were not installed; its submodules stay as they are."""
    there = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(there)


def hide_pytorch_from_gluoncv():
    """Have GluonCV take PyTorch for missing; it refuses every PyTorch since 2.0."""
    if _GluonCVFinder not in sys.meta_path:
        sys.meta_path.insert(0, _GluonCVFinder)


restore_numpy_names()
restore_distutils()
preload_cuda_libraries()
hide_pytorch_from_gluoncv()
