"""The short form of ``python -m tests.torture.fuzz_files``: damaged files of most kinds."""
import json

import pytest

from common.errors import UserError
from tests.torture import fuzz_files
from trained import find_description


@pytest.mark.parametrize("kind", fuzz_files.KINDS)
def test_damaged_files_are_refused_in_a_line_or_read(kind):
    lines = []
    counts = fuzz_files.fuzz(kind, 40, seed=1, log=lines.append)
    assert counts.keys() <= {"read", "refused"}, "\n".join(lines)
    assert counts["refused"] >= 8


@pytest.mark.parametrize("change, message", [
    ({"options": {"blocks": 100_000}}, "a number beyond 1024"),
    ({"options": {"blocks": [[1]] * 5000}}, "too much of anything"),
    ({"dataset": {"name": "cifar10", "std": [0.2, 0.0, 0.2]}}, "three numbers above 0"),
    ({"dataset": {"name": "cifar10", "mean": [0.2, float("inf"), 0.2]}}, "three numbers"),
    ({"figures": {}}, "its figures are damaged"),
])
def test_a_description_that_would_build_for_hours(tmp_path, change, message):
    (tmp_path / "net.params").touch()
    description = {"model": "resnet_v2_cifar", "options": {}, "dataset": {"name": "cifar10"}}
    (tmp_path / "net.json").write_text(json.dumps({**description, **change}))
    with pytest.raises(UserError, match=message):
        find_description(tmp_path / "net.params", None)
