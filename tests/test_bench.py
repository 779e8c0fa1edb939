"""The benchmarks: that they run, on real images, and say what they measured; not how fast."""
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.workloads import GROUPS, WORKLOADS
from tests.scripts import ROOT, wait_for


def _bench(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmarks.bench", *map(str, arguments)],
                          cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.realdata
def test_contestants_take_turns(real_cifar10, tmp_path):
    result = _bench("--only", "data", "--rounds", 2, "--data-dir", real_cifar10, "--out", tmp_path,
                    "--torch-python", "missing")
    assert result.returncode == 0, result.stderr
    assert "PyTorch is left out" in result.stderr
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["contestant"] for row in rows] == ["ours"] * 2 + ["reference style"] * 2
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert "| reference style |" in (tmp_path / "results.md").read_text()


def test_a_contestant_that_fails_is_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(b"")    # of a part nothing is downloaded
    result = _bench("--only", "data", "--rounds", 1, "--data-dir", tmp_path, "--out",
                    tmp_path, "--torch-python", "missing")
    assert result.returncode == 0, result.stderr
    assert "CIFAR-10" in (tmp_path / "results.md").read_text()
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1


@pytest.mark.realdata
@pytest.mark.parametrize("moment, number, patience", [
    # What is being started at that instant ends by itself.
    ("preparing reference style", signal.SIGTERM, 30),
    ("round 2", signal.SIGHUP, 0)])
def test_no_contestant_outlives_the_benchmark(real_cifar10, tmp_path, moment, number, patience):
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bench", "--only", "data",
                                "--rounds", "500", "--data-dir", str(real_cifar10), "--out",
                                str(tmp_path), "--torch-python", "missing"], cwd=ROOT,
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while moment not in process.stderr.readline():
        assert process.poll() is None
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: len(listed.read_text().split()) >= 2)
    children = listed.read_text().split()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert len(children) == 2
    deadline = time.monotonic() + patience
    while [each for each in children if Path(f"/proc/{each}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_signal_does_not_break_off_the_end():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            bench._end(signal.SIGTERM, None)
        assert ended.value.code == 143
        os.kill(os.getpid(), signal.SIGTERM)    # would end this process
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_unknown_group():
    result = _bench("--only", "speed")
    assert result.returncode == 2
    assert "--only knows pipeline, step" in result.stderr
    assert "Traceback" not in result.stderr


def test_ratios_are_ours_to_theirs():
    ours = bench.Contestant("ours", num_params=7, rates=[90.0, 100.0, 300.0])
    other = bench.Contestant("PyTorch eager", num_params=7, rates=[40.0, 50.0])
    text = re.sub(" +", " ", bench.markdown("step", [ours, other]))
    assert "7 trained parameters each" in text
    assert "| PyTorch eager | 45.0 | 40.0 to 50.0 | 2.22 x |" in text


def test_what_is_left_beside_a_busy_process():
    rates = {("ours", False): [400.0], ("ours", True): [300.0], ("PyTorch eager", False): [500.0],
             ("PyTorch eager", True): [100.0]}
    text = re.sub(" +", " ", bench.beside_markdown(
        "training", [bench.Contestant(*which, rates=found) for which, found in rates.items()]))
    assert "| ours | 400 | 300 | 75% | 1.00 x |" in text
    assert "| PyTorch eager | 500 | 100 | 20% | 3.00 x |" in text


@pytest.mark.realdata
def test_a_busy_process_runs_only_beside_its_contestant(real_cifar10):
    def state(process):
        return Path(f"/proc/{process.pid}/stat").read_text().split()[2]

    contestant = bench.Contestant("ours", beside=True)
    try:
        contestant.start("data", bench.make_parser().parse_args(["--data-dir",
                                                                 str(real_cifar10)]))
        assert contestant.problem == ""
        processes = contestant.processes
        wait_for(lambda: [state(each) for each in processes] == ["T", "T"], seconds=10)
        contestant._signal(signal.SIGCONT)
        wait_for(lambda: state(processes[0]) == "R", seconds=10)
        contestant.round()
        assert len(contestant.rates) == 1
        wait_for(lambda: [state(each) for each in processes] == ["T", "T"], seconds=10)
    finally:
        contestant.stop()
    assert all(process.returncode == -signal.SIGKILL for process in processes)


def test_workloads_are_named_once():
    assert len(WORKLOADS) == sum(map(len, GROUPS.values()))


def test_training_that_cannot_start_ends_the_measurement(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    result = _bench("--only", "start-up", "--rounds", 1, "--data-dir", tmp_path, "--out", tmp_path,
                    "--torch-python", "missing")
    assert result.returncode == 2
    assert "ended before its first step: error: CIFAR-10" in result.stderr


def test_latency_of_units_beside_the_plain_network():
    pytest.importorskip("onnxruntime")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.latency", "--units", "ChaATAC,SE", "--rounds", "1"],
        cwd=ROOT, capture_output=True, text=True)
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines()]
    table = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows[2:]}
    assert list(table) == ["relu", "ChaATAC", "SE"]
    assert table["relu"][0] == "11,689,512" and table["relu"][2] == "1.00"
    milliseconds = {name: float(row[1]) for name, row in table.items()}
    for name, (_, _, times) in table.items():
        assert float(times) == pytest.approx(milliseconds[name] / milliseconds["relu"], abs=0.02)


def test_latency_of_an_unknown_unit():
    result = subprocess.run([sys.executable, "-m", "benchmarks.latency", "--units", "SEE"],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --units knows ChaATAC, ")


def test_a_runtime_that_is_missing_has_a_line_in_place_of_its_table(tmp_path, monkeypatch):
    for name in ("onnxruntime", "openvino"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    text = bench.latency(bench.make_parser().parse_args(["--rounds", "1"]))
    title, *runtimes = text.split("\n\n")
    assert title == "### latency" and runtimes[::2] == ["ONNX Runtime:", "OpenVINO:"]
    assert all(line.startswith("error: ") and "\n" not in line for line in runtimes[1::2])
