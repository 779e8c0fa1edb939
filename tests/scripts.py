"""Running the scripts as a user does."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(script, *arguments):
    """The command line of a script with the interpreter that runs the tests."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def run(script, *arguments, cwd, timeout=300, **environ):
    """Run a script to its end; output is captured as text."""
    return subprocess.run(command(script, *arguments), cwd=cwd, timeout=timeout, text=True,
                          capture_output=True, env={**os.environ, **environ})


def start(script, *arguments, cwd, log):
    """Start a script in the background, its output going to the file `log`."""
    with open(log, "w") as stream:
        return subprocess.Popen(command(script, *arguments), cwd=cwd, stdout=stream,
                                stderr=subprocess.STDOUT)


def assert_user_error(result, *words):
    """Exit code 2 and one line on standard error that holds all the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]
