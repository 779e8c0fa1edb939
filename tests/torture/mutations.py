"""Plant bugs, one at a time, and see whether the tests that ought to notice do.

    python -m tests.torture.mutations
    python -m tests.torture.mutations --only graph
    python -m tests.torture.mutations --list

The bugs are the rows of `tests.torture.planted`. Each is planted in a temporary copy of the
tree, in which only the tests of its row are run; before the first one, all these tests must
pass without it. A row whose tests are skipped (without PyTorch, for one) is skipped. The exit
code is 1 if more than one bug in ten survives.

mutmut and cosmic-ray plant every change of an operator or a constant, which are thousands here,
at seconds each for importing MXNet, and cannot plant a chosen mistake, such as worker 0's
statistics in place of the mean: so neither does the planting.
"""
import argparse
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.arguments import positive_int
from common.errors import UserError, run_script
from common.interruption import ends_with_parent
from tests.scripts import ROOT
from tests.torture.planted import PLANTED

_DEADLINE_S = 300
_ACCEPTED = 0.1    # share of the bugs that may survive
_LARGEST_FILE = 1 << 24
_LEFT_OUT = {".git", ".venv", ".venv-torch", "__pycache__", ".pytest_cache", ".ruff_cache", "logs"}


class Copies:
    """Copies of the tree, one for each job.

    Parameters
    ----------
    folder : pathlib.Path
    count : int
    """

    def __init__(self, folder, count):
        self._free = queue.Queue()
        self._processes, self._lock, self._stopped = set(), threading.Lock(), False
        for number in range(count):
            copy = folder / str(number)
            shutil.copytree(ROOT, copy, symlinks=True, ignore=_left_out)
            self._free.put(copy)

    @contextlib.contextmanager
    def one(self):
        """A copy that nobody else uses."""
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)

    def test(self, copy, tests, seconds):
        """Run tests in a copy: pytest's exit code and what it said; None if they do not end."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(command, cwd=copy, env=environ, text=True,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, start_new_session=True,
                                       preexec_fn=ends_with_parent())
            self._processes.add(process)
        try:
            said, _ = process.communicate(timeout=seconds)
            return process.returncode, said
        except subprocess.TimeoutExpired:
            return None, f"they take more than {seconds} s\n"
        finally:
            _kill(process)
            with self._lock:
                self._processes.discard(process)

    def stop(self):
        """End all tests; no further ones are run."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                _kill(process)


def _kill(process):
    """End a process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _left_out(folder, names):
    return {name for name in names if name in _LEFT_OUT
            or os.path.isfile(os.path.join(folder, name))
            and os.path.getsize(os.path.join(folder, name)) > _LARGEST_FILE}


def plant(text, bug):
    """The text of a file with a bug in it.

    Raises
    ------
    UserError
        If what is to be replaced is not there, or more than once and the row does not say which.
    """
    parts = text.split(bug.text)
    found = len(parts) - 1
    if not found:
        raise UserError(f"{bug}: the text is not in {bug.file}")
    if bug.which is None and found > 1:
        raise UserError(f"{bug}: the text is {found} times in {bug.file}; say which")
    which = bug.which or 1
    if which > found:
        raise UserError(f"{bug}: the text is {found} times in {bug.file}, not {which}")
    return bug.text.join(parts[:which]) + bug.by + bug.text.join(parts[which:])


def try_one(copies, bug):
    """Plant a bug and run its tests: how that ended, and the seconds it took."""
    start = time.monotonic()
    with copies.one() as copy:
        path = copy / bug.file
        sound = path.read_text()
        path.write_text(plant(sound, bug))
        try:
            code, said = copies.test(copy, [bug.tests], _DEADLINE_S)
        finally:
            path.write_text(sound)
    seconds = time.monotonic() - start
    if _is_skipped(said):
        return "skipped", seconds
    if code in (2, 3, 4, 5):    # pytest's own
        raise UserError(f"{bug}: {bug.tests} could not be run:\n{said}")
    # A process that crashes has noticed, too.
    return {0: "survived", None: "hangs"}.get(code, "killed"), seconds


def _is_skipped(said):
    """Whether tests were all skipped; pytest calls that an error, or not, by how they are."""
    return re.search(r"^\d+ skipped(, \d+ warnings?)? in ", said, re.MULTILINE) is not None


def check_sound(copies, tests):
    """Raise UserError unless tests of one file pass, or are skipped, without any bug."""
    with copies.one() as copy:
        code, said = copies.test(copy, tests, 2 * _DEADLINE_S)
    if code and not _is_skipped(said):
        raise UserError(f"without any bug, not all tests pass: {' '.join(tests)}:\n{said}")


def try_all(bugs, jobs):
    """Try the bugs, saying how each ended.

    Returns
    -------
    dict of str to list of Bug
        By how they ended: killed, survived, skipped, or hangs.
    """
    tests, ended = defaultdict(set), defaultdict(list)
    for bug in bugs:
        tests[bug.tests.partition("::")[0]].add(bug.tests)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copies = Copies(Path(folder), jobs)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                list(pool.map(lambda each: check_sound(copies, sorted(each)), tests.values()))
                tried = [pool.submit(try_one, copies, bug) for bug in bugs]
                for bug, one in zip(bugs, tried):
                    outcome, seconds = one.result()
                    print(f"{outcome:8} {seconds:4.0f} s  {bug}", flush=True)
                    ended[outcome].append(bug)
            except BaseException:
                copies.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return ended


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.torture.mutations",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="PLACE",
                        help="bugs in files whose path begins so, such as graph or runs/train.py")
    parser.add_argument("--list", action="store_true", help="say what the bugs are, a line each")
    parser.add_argument("--jobs", type=positive_int, default=2, metavar="N",
                        help="how many are tried at a time (default: %(default)s)")
    options = parser.parse_args(argv)
    bugs = [bug for bug in PLANTED if bug.file.startswith(options.only)]
    if not bugs:
        raise UserError(f"--only {options.only}: no bug is planted there")
    for bug in bugs:    # before the first one is tried
        plant((ROOT / bug.file).read_text(), bug)
    if options.list:
        print("\n".join(map(str, bugs)))
        return 0
    start = time.monotonic()
    ended = try_all(bugs, options.jobs)
    print(f"{len(bugs)} bugs: {', '.join(f'{len(each)} {how}' for how, each in ended.items())}, "
          f"in {(time.monotonic() - start) / 60:.0f} min")
    if ended["skipped"]:
        print("skipped were those whose tests are, here: without PyTorch, for one")
    for bug in ended["survived"]:
        print(f"survived: {bug}")
    return int(len(ended["survived"]) > _ACCEPTED * len(bugs))


if __name__ == "__main__":
    run_script(main)
