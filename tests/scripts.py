"""Running the scripts as a user does, and what tests ask of the runs."""
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMES = frozenset(("images_per_s", "seconds"))    # what differs between runs that are the same


def command(script, *arguments, first=""):
    """The command line of a script with the interpreter that runs the tests.

    `first` is code that its process runs before the script.
    """
    line = [str(ROOT / script), *map(str, arguments)]
    if first:
        line[:0] = ["-c", f"import runpy, sys; sys.path[0] = {str(ROOT)!r}; {first}; "
                          "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"]
    return [sys.executable, *line]


def run(script, *arguments, cwd, timeout=300, **environ):
    """Run a script to its end; output is captured as text."""
    return subprocess.run(command(script, *arguments), cwd=cwd, timeout=timeout, text=True,
                          capture_output=True, env={**os.environ, **environ})


def start(script, *arguments, cwd, log, first=""):
    """Start a script in the background, its output going to the file `log`."""
    with open(log, "w") as stream:
        return subprocess.Popen(command(script, *arguments, first=first), cwd=cwd, stdout=stream,
                                stderr=subprocess.STDOUT)


def wait_for(condition, process=None, log=None, seconds=120):
    """Wait until `condition()` holds.

    Fails after so many seconds, or if `process`, which is to bring it about, ends before; then
    with what it wrote to the file `log`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        ended = process is not None and process.poll() is not None
        assert not ended or condition(), log.read_text()
        assert time.monotonic() < deadline, f"not within {seconds} s; {log and log.read_text()}"
        time.sleep(0.005)


def assert_user_error(result, *words):
    """Exit code 2 and one line on standard error that holds all the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def drawn_cifar(folder, train, test):
    """Write so many drawn shapes as official CIFAR-10 files; returns the folder."""
    from data.shapes import draw_split, write_cifar_files

    write_cifar_files(folder, draw_split("train", train), draw_split("test", test))
    return folder


def metrics(folder):
    """The rows of a run's metrics.csv, text by column, without the times."""
    with open(folder / "metrics.csv", newline="") as stream:
        return [{key: value for key, value in row.items() if key not in TIMES}
                for row in csv.DictReader(stream)]


def assert_same_params(run, other):
    """The best and the last parameters below two folders are the same bytes."""
    for name in ("best.params", "last.params"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
