"""The project works on the oldest and on the newest supported Python found here.

Each gets an environment of its own in the user's cache, built by tools/setup_env.sh with the
pinned packages; it is kept, so only the first run takes minutes.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "attention-as-activation")
SUPPORTED = range(9, 14)

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import model
from mxnet import autograd, gluon, init, nd
import matplotlib.pyplot
from gluoncv.model_zoo import resnetv1b

def build():
    return model.get_model("resnet_v2_cifar", classes=10, blocks=1, activation="ChaATAC")

images, labels = nd.random.normal(shape=(4, 3, 32, 32)), nd.array([0, 1, 2, 3])
net = build()
net.initialize(init.MSRAPrelu())
net.hybridize(static_alloc=True, static_shape=True)
trainer = gluon.Trainer(net.collect_params(), "nag", {"learning_rate": 0.1, "momentum": 0.9})
before = net(images).asnumpy()
with autograd.record():
    loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(images), labels).mean()
loss.backward()
trainer.step(1)
after = net(images).asnumpy()
assert np.isfinite(after).all() and not np.array_equal(before, after)

file = str(Path(sys.argv[1], "step.params"))
net.save_parameters(file)
again = build()
again.load_parameters(file)
again.hybridize(static_alloc=True, static_shape=True)
np.testing.assert_array_equal(again(images).asnumpy(), after)
print("worked on", *sys.version_info[:2])
"""


def minor_version(python):
    """The x of a CPython 3.x that runs and can build environments; None for all others."""
    probe = ("import ensurepip, platform, sys, venv; assert sys.version_info[0] == 3; "
             "assert platform.python_implementation() == 'CPython'; print(sys.version_info[1])")
    try:
        done = subprocess.run([str(python), "-c", probe], capture_output=True, text=True,
                              timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(done.stdout) if done.returncode == 0 else None


def candidates():
    """Interpreters on PATH, and those that pyenv keeps beside it."""
    for minor in SUPPORTED:
        path = shutil.which(f"python3.{minor}")
        if path:
            yield path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.*/bin/python"))


def others():
    """Minor version -> interpreter, for the supported ones other than the one running."""
    found = {}
    for python in candidates():
        minor = minor_version(python)
        if minor in SUPPORTED and minor != sys.version_info[1]:
            found.setdefault(minor, python)
    return found


@pytest.fixture(scope="module")
def interpreters():
    return others()


@pytest.mark.slow
@pytest.mark.parametrize("choose", [min, max], ids=["oldest", "newest"])
def test_one_training_step(interpreters, choose, tmp_path):
    if not interpreters:
        pytest.skip("no other supported Python is on this machine")
    minor = choose(interpreters)
    venv = CACHE / f"python3.{minor}"
    done = subprocess.run(
        [str(ROOT / "tools" / "setup_env.sh"), "--venv", str(venv)], text=True,
        env={**os.environ, "PYTHON": str(interpreters[minor]), "MXNET_VARIANT": "cpu"},
        capture_output=True)
    if "package index" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr

    done = subprocess.run([str(venv / "bin" / "python"), "-c", SCRIPT, str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"worked on 3 {minor}\n"
