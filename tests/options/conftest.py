"""Runs of the scripts without what would take most of their time: figures, waits for the disk."""
import os
from pathlib import Path

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import matplotlib.figure
import mxnet as mx
import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_figures():
    """Figures are written as empty files, and no file is made to outlast a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matplotlib.figure.Figure, "savefig",
                      lambda self, path, **_: Path(path).write_bytes(b""))
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def hybridized(monkeypatch):
    """What is asked of Gluon's blocks while the test runs: whether to compile, for each call."""
    calls, hybridize = [], mx.gluon.HybridBlock.hybridize

    def note(self, active=True, **settings):
        calls.append(active)
        return hybridize(self, active, **settings)

    monkeypatch.setattr(mx.gluon.HybridBlock, "hybridize", note)
    return calls
