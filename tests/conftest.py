"""Fixtures shared by all tests: the repository on the path, and real CIFAR files."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet, whichever test imports it first)

from common.threads import set_threads  # noqa: E402

# A proxy of the surroundings must not stand between the tests and their own server.
os.environ["no_proxy"] = "127.0.0.1,localhost"


def pytest_configure(config):
    """Threads for the tests and the scripts that they run; before MXNet is imported."""
    if getattr(config.option, "numprocesses", None):
        # Test files run side by side: threads that wait by spinning would stop one another.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    set_threads()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Every test starts from the same seeds, whichever ran before it."""
    np.random.seed(0)
    if "mxnet" in sys.modules:
        sys.modules["mxnet"].random.seed(0)


def _real_cifar(name):
    """The folder with the official files of `name`, unpacked once into a cache.

    The images come from a folder that is not part of the repository. Its script writes each
    file under a temporary name and renames it, so test runs side by side do no harm.
    """
    source = Path(os.environ.get("ATAC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    script = source / "unpack.py"
    if not script.is_file():
        pytest.skip(f"no real images: {script} does not exist (ATAC_SHARED_DATA names its folder)")
    if importlib.util.find_spec("PIL") is None:
        pytest.skip("no real images: unpacking them needs Pillow")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "attention-as-activation" / name
    unpacking = subprocess.run([sys.executable, str(script), name, str(folder)],
                               capture_output=True, text=True, timeout=300)
    if unpacking.returncode:
        pytest.skip(f"no real images: {script.name} failed: {unpacking.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="session")
def real_cifar10():
    """Folder with CIFAR-10: 50,000 training and 10,000 test images."""
    return _real_cifar("cifar10")


@pytest.fixture(scope="session")
def real_cifar100():
    """Folder with CIFAR-100: 50,000 training and 10,000 test images."""
    return _real_cifar("cifar100")
