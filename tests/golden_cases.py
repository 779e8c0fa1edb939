"""Reference arrays: the cases of tests/golden/golden.json and how to compare with them.

The index is complete; an array file is in the repository once a test needs it. All were
computed by the references named in the index, in float32 on a CPU.
"""
import json
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent / "golden"


@cache
def index():
    """The index: its conventions, cases and tables."""
    return json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))


def cases(kind):
    """The cases of one kind, as they stand in the index."""
    return [case for case in index()["cases"] if case["kind"] == kind]


def table(name):
    """The rows of one of the index's tables."""
    return index()["tables"][name]["rows"]


def load(case):
    """Arrays of a case by name: ``x``, ``out``, ``param:<key>`` ..."""
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_close(actual, expected, tolerance, what=""):
    """Compare as the index advises: `atol` is relative to max(1, largest expected value)."""
    actual = actual.asnumpy() if hasattr(actual, "asnumpy") else np.asarray(actual)
    assert actual.shape == expected.shape, what
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=tolerance["rtol"],
                               atol=tolerance["atol"] * scale, err_msg=what)


# Names of the CBAM study's and of the structure search's files -> ours. The weights of
# fc1 and fc2 are 1x1 convolutions in the latter: (out, in, 1, 1) there, (out, in) here.
_REFERENCE_NAMES = {
    "channel_attention.bottleneck.0": "channel.fc1",
    "channel_attention.bottleneck.2": "channel.fc2",
    "spatial_attention.conv": "spatial.conv",
    "ca.fc1": "channel.fc1",
    "ca.fc2": "channel.fc2",
    "sa.conv1": "spatial.conv",
    "conv1": "conv",
}


def translate_reference_key(key):
    """Our structural parameter name, within a unit, for one of the studies' files.

    ``ca.fc1.weight`` -> ``channel.fc1.weight``; other names stay.
    """
    module, _, parameter = key.rpartition(".")
    return f"{_REFERENCE_NAMES.get(module, module)}.{parameter}"
