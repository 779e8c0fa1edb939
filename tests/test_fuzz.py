"""The short forms of ``tests.torture.fuzz_files`` and ``fuzz_images``: damaged files."""
import json

import numpy as np
import pytest

from common.errors import UserError
from runs.trained import find_description
from tests.torture import fuzz_files, fuzz_images


@pytest.mark.parametrize("kind", fuzz_files.KINDS)
def test_damaged_files_are_refused_in_a_line_or_read(kind):
    lines = []
    counts = fuzz_files.fuzz(kind, 40, seed=1, log=lines.append)
    assert counts.keys() <= {"read", "refused"}, "\n".join(lines)
    assert counts["refused"] >= 8


@pytest.mark.parametrize("kind", fuzz_files.KINDS)
def test_what_is_no_file_is_refused_in_its_place(kind):
    lines = []
    assert fuzz_files.special(kind, lines.append) == {"refused": len(fuzz_files.SPECIAL)}, lines


def test_damaged_images_cost_only_themselves():
    rng = np.random.default_rng(1)
    images, strangers = fuzz_images.images(), fuzz_images.strangers()
    kinds = {**images, **strangers}
    for kind, sound in kinds.items():
        listed = kind in images
        assert fuzz_images.decoded(sound) == ("read" if listed else "refused"), kind
    contents = [fuzz_images.damaged(rng, sound) for sound in kinds.values() for _ in range(5)]
    verdicts = [fuzz_images.decoded(content) for content in contents]
    assert set(verdicts) == {"read", "refused"}
    assert set(verdicts[-5 * len(strangers):]) == {"refused"}
    fuzz_images.check_together(contents, verdicts)


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
