"""Kill a training run at random instants, resume it each time, and compare its end.

    python -m tests.torture.kill_test --kills 30 --seed 0

A small network is trained twice on drawn images in CIFAR's format: once undisturbed, once
with SIGKILLs, after each of which the same command with ``--resume auto`` goes on. Most kills
come after a random time; some wait until a half-written file is there, so that the rare
instants of saving and plotting have their share. Both runs must end with the same bits: params,
optimizer, best epoch, and every row of metrics.csv but for its times.
"""
import argparse
import collections
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests import scripts

_DEADLINE_S = 180
# What a half-written file tells about the instant of the kill.
_PLACES = ((".curves", "plotting"), (".metrics", "writing metrics.csv"),
           (".step-", "saving a checkpoint"), (".", "saving params"))


def _command(data):
    return scripts.command(
        "train_cifar.py", "--data-dir", data, "--blocks", 1, "--act-type", "ChaATAC",
        "--batch-size", 32, "--lr", 0.05, "--num-epochs", 3, "--drop-rate", 0.1,
        "--mixup", 0.2, "--save-period", 2, "--checkpoint-every", 2, "--name", "run",
        "--num-gpus", 0, "--resume", "auto")


def _half_written(folder):
    """Names of the half-written files in a run's folders."""
    return [path.name for part in ("params/run", "params/run/checkpoints", "logs/run")
            for path in (folder / part).glob(".*.tmp*")]


def _place(folder):
    names = _half_written(folder)
    for start, place in _PLACES:
        if any(name.startswith(start) for name in names):
            return place
    return "training"


class _Process:
    """The training in the background, in `folder`."""

    def __init__(self, data, folder):
        self.folder, self.out = folder, folder / "out"
        with open(self.out, "w") as stream:
            self.process = subprocess.Popen(_command(data), cwd=folder, stdout=stream,
                                            stderr=subprocess.STDOUT)
        self.deadline = time.monotonic() + _DEADLINE_S
        self.wait(lambda: "options " in self.out.read_text())

    def wait(self, condition):
        """Wait for a condition or for the end; whether the process is still there."""
        while self.process.poll() is None and not condition():
            if time.monotonic() > self.deadline:
                self.kill()
                raise AssertionError(f"no end after {_DEADLINE_S} s: {self.out.read_text()}")
            time.sleep(0.001)
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ended_well(self):
        if self.process.wait() != 0:
            raise AssertionError(f"exit code {self.process.returncode}: {self.out.read_text()}")


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items()
                if key not in scripts.TIMES | {"state_sha256"}}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _ending(folder):
    """All that must be equal at the end of a run, by the name of its file."""
    content = {}
    for path in sorted([*(folder / "params/run").rglob("*"), *(folder / "logs/run").rglob("*")]):
        name = str(path.relative_to(folder))
        if path.suffix == ".params":
            content[name] = path.read_bytes()
        elif path.suffix == ".json":
            content[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            with open(path, newline="") as stream:
                content[name] = [_without_times(row) for row in csv.DictReader(stream)]
        elif path.suffix != ".log":
            content[name] = None        # a folder, the lock, the curves: that it is there
    return content


def kill_test(kills, seed=0, log=print):
    """Kill `kills` times.

    Returns
    -------
    collections.Counter
        How many kills came while what was going on.

    Raises
    ------
    AssertionError
        If a run does not end as the undisturbed one does.
    """
    rng = np.random.default_rng(seed)
    places, runs = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        data.mkdir()
        scripts.drawn_cifar(data, train=256, test=64)
        whole = Path(temporary, "undisturbed")
        whole.mkdir()
        process = _Process(data, whole)
        start = time.monotonic()
        process.ended_well()
        length, expected = time.monotonic() - start, _ending(whole)
        while sum(places.values()) < kills or runs == 0:
            runs += 1
            folder = Path(temporary, f"run{runs}")
            folder.mkdir()
            _run_with_kills(data, folder, rng, kills, length, places, log)
            _compare(_ending(folder), expected)
            if _half_written(folder):
                raise AssertionError(f"half-written files are left: {_half_written(folder)}")
    log(f"{sum(places.values())} kills in {runs} runs ("
        + ", ".join(f"{count} while {place}" for place, count in places.most_common())
        + f"): every run was resumed and ended with the undisturbed one's bits "
          f"({len(expected)} files and folders compared)")
    return places


def _run_with_kills(data, folder, rng, kills, length, places, log):
    """Bring one run to its end, with kills until there are enough."""
    while True:
        process = _Process(data, folder)
        if sum(places.values()) < kills:
            instant = time.monotonic() + rng.uniform(0, 0.7 * length)
            process.wait(lambda instant=instant: time.monotonic() > instant)
            if rng.random() < 0.5:
                process.wait(lambda: _half_written(folder))
                # A checkpoint takes some ten milliseconds, of which any may be the last.
                time.sleep(rng.uniform(0, 0.01))
            if process.process.poll() is None:
                process.kill()
                places[_place(folder)] += 1
                log(f"kill {sum(places.values())}: {_place(folder)}")
                continue
        process.ended_well()
        return


def _compare(found, expected):
    if found.keys() != expected.keys():
        raise AssertionError(f"other files: {sorted(found.keys() ^ expected.keys())}")
    differing = [name for name in expected if found[name] != expected[name]]
    if differing:
        raise AssertionError(f"different from the undisturbed run: {', '.join(differing)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="(default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    options = parser.parse_args()
    kill_test(options.kills, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
