"""Every option of every script that changes what is computed has a test that looks at it."""
import importlib
from pathlib import Path

import pytest

from tests.options.runs import COVERED, computing

for _path in sorted(Path(__file__).parent.glob("test_*_options.py")):
    importlib.import_module(f"tests.options.{_path.stem}")


@pytest.mark.parametrize("script", sorted(COVERED))
def test_every_option_that_computes_has_a_test(script):
    missing = computing(script) - COVERED[script]
    assert not missing, f"nothing here fails if {script} reads and drops {sorted(missing)}"
