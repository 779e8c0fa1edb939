"""The definitions as an installed package, far from this repository."""
import os
import shutil
import subprocess
import sys

import pytest

from tests.scripts import ROOT

_USE = """
import sys
import atac
import numpy as np

assert "mxnet" not in sys.modules
unit = atac.get_activation("ChaATAC", 64)
assert {"ChaATAC", "swish"} <= set(atac.list_activations())
assert {"resnet_v2_cifar", "resnet50_v1b_atac"} <= set(atac.list_models())

import mxnet as mx
from mxnet.gluon.model_zoo import vision

foreign = vision.resnet18_v1(classes=5)
assert len(atac.replace_activations(foreign, "ChaATAC", where="features.7.*").changed) == 2
assert len(atac.insert_attention(foreign, "SE").changed) == 8
for net in (atac.get_model("resnet_v2_cifar", blocks=1, attention="CBAM"), foreign):
    net.initialize(mx.init.Xavier())
    x, y = mx.nd.random.normal(shape=(8, 3, 32, 32)), mx.nd.arange(8) % 5
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})
    losses = []
    for _ in range(4):
        with mx.autograd.record():
            loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()(net(x), y)
        loss.backward()
        trainer.step(8)
        losses.append(loss.mean().asscalar())
    assert losses[-1] < losses[0], losses
ours = [name for name in sys.modules if name.split(".")[0] in ("model", "common", "graph")]
assert not ours, ours
print(atac.__file__)
"""


def _run(*argv, **options):
    done = subprocess.run([sys.executable, *map(str, argv)], text=True, capture_output=True,
                          **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _builds_wheels():
    code = "import setuptools, sys; sys.exit(int(setuptools.__version__.split('.')[0]) < 71)"
    return any(subprocess.run([sys.executable, "-c", each], capture_output=True).returncode == 0
               for each in (code, "import setuptools, wheel"))


@pytest.mark.slow
@pytest.mark.skipif(not _builds_wheels(), reason="setuptools 71, or wheel, is not installed")
def test_a_wheel_is_built_installed_and_used_from_another_folder(tmp_path):
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "model", source / "model",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    elsewhere.mkdir()
    _run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", tmp_path, source)
    wheel, = tmp_path.glob("attention_as_activation-*.whl")
    _run("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {
        "atac"}
    places = [site, *filter(None, [os.environ.get("PYTHONPATH")])]
    printed = _run("-c", _USE, cwd=elsewhere,
                   env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))})
    assert printed.strip() == str(site / "atac" / "__init__.py")
