#!/usr/bin/env python3
"""Speed of training and prediction, side by side: this project, the reference's style, PyTorch.

    python -m benchmarks.bench [--only pipeline,step,...] [--rounds 5]

The group ``beside`` tells what is left of the speed beside a process that keeps a core busy.

Every contestant is a process of its own with both of the machine's caches warm. They take
turns, a round each, and all but one are stopped (SIGSTOP) while it runs, so that whatever
slows the machine down hits all alike. Figures are medians over the rounds.
"""
import datetime
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workloads import GROUPS
from common.arguments import Parser, check_known, names, positive_int, replaced
from common.errors import UserError, run_script
from common.files import write_text
from common.interruption import stopping
from common.tables import csv_text, markdown_table
from common.threads import physical_cores

_ROOT = Path(__file__).resolve().parents[1]
# Each contestant sets its own threads; the caller's settings would reach them all.
_SETTINGS = ("OMP_", "MXNET_", "KMP_", "GOMP_", "MKL_", "DNNL_", "TORCH_")

# What the scripts' own choice is measured against: every core, and GNU's OpenMP as it is.
_ENVIRONMENTS = {"ours, spinning": {"OMP_NUM_THREADS": str(physical_cores()),
                                    "GOMP_SPINCOUNT": "300000"}}
_BUSY = (sys.executable, "-c", "while True: pass")

_TORCH_FLOAT32 = ("PyTorch eager", "PyTorch channels_last", "PyTorch compiled",
                  "PyTorch compiled channels_last")
_TORCH = (*_TORCH_FLOAT32, "PyTorch bf16", "PyTorch compiled bf16")
_OURS_ON_TORCH = ("ours, PyTorch", "ours, PyTorch bf16")
_EXPORTED = ("ours, ONNX Runtime", "ours, OpenVINO", "ours, OpenVINO bf16")
_LINE_UP = {
    "pipeline": ("ours", "step alone", "ours, PyTorch", "step alone, PyTorch", "reference style",
                 *_TORCH_FLOAT32),
    "step": ("ours", *_OURS_ON_TORCH, "reference style", *_TORCH),
    "inference": ("ours", *_EXPORTED, *_TORCH),
    "data": ("ours", "reference style", "PyTorch eager"),
}
_BESIDE = ("ours", "ours, spinning", "ours, PyTorch", "PyTorch eager",
           "PyTorch compiled channels_last")


@dataclass
class Contestant:
    """A running contestant and its rounds; perhaps beside a process that keeps a core busy."""

    name: str
    beside: bool = False
    processes: list = field(default_factory=list)    # its own is the last
    num_params: int = 0
    rates: list = field(default_factory=list)    # images/s
    peak_mib: float = 0.0
    problem: str = ""

    def start(self, workload, options):
        python = options.torch_python if "PyTorch" in self.name else sys.executable
        environ = {key: value for key, value in os.environ.items()
                   if not key.startswith(_SETTINGS)}
        if self.beside:
            self._start(_BUSY)
        self._start([python, "-m", "benchmarks.contestant", self.name, workload,
                     options.data_dir], env={**environ, **_ENVIRONMENTS.get(self.name, {})},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        answer = self._answer()
        if answer:
            self.num_params = answer["num_params"]
            self._signal(signal.SIGSTOP)

    def _start(self, command, **options):
        self.processes.append(subprocess.Popen(command, cwd=_ROOT, text=True,
                                               start_new_session=True, **options))

    def round(self):
        self._signal(signal.SIGCONT)
        stream = self.processes[-1].stdin
        stream.write("go\n")
        stream.flush()
        answer = self._answer()
        if answer:
            self.rates.append(answer["images"] / answer["seconds"])
            self.peak_mib = answer["peak_mib"]
            self._signal(signal.SIGSTOP)

    def stop(self):
        self._signal(signal.SIGKILL)
        for process in self.processes:
            with process:    # closes its pipes and waits for it
                pass
        self.processes = []

    def _signal(self, number):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, number)    # with its worker processes

    def _answer(self):
        line = self.processes[-1].stdout.readline()
        if line:
            return json.loads(line)
        lines = self.processes[-1].stderr.read().strip().splitlines()
        self.problem = lines[-1] if lines else "ended without a word"
        self.stop()
        return None

    @property
    def shown(self):
        """Its name in tables."""
        return self.name + " beside" * self.beside

    @property
    def median(self):
        return statistics.median(self.rates) if self.rates else float("nan")


def contest(name, workload, options):
    """Let the contestants of one workload take turns.

    Returns
    -------
    list of Contestant
        With what they did, or why they could not.
    """
    line_up = [Contestant(each, beside)
               for each in (_BESIDE if workload.beside else _LINE_UP[workload.kind])
               for beside in (False, True)[:1 + workload.beside]
               if options.torch_python or "PyTorch" not in each]
    contestants = []
    try:
        for each in line_up:
            show(f"{name}: preparing {each.shown}")
            contestants.append(each)    # before it starts: it may be broken off there
            each.start(name, options)
        for number in range(options.rounds):
            for each in contestants[number % len(contestants):] + \
                    contestants[:number % len(contestants)]:
                if not each.problem:
                    show(f"{name}: round {number + 1} of {options.rounds}, {each.shown}")
                    each.round()
    finally:
        for each in contestants:
            each.stop()
    return contestants


def show(text):
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty()
          else "\n", file=sys.stderr, flush=True)


def _end(number, _):
    """End in order, or stopped contestants would outlive this process."""
    # make passes on the signal that it gets: the second must not break off what the first began.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


# ---- start-up and latency -----------------------------------------------------------------------

def start_up(options):
    """The table of seconds to `--help`, and to the end of the first training step of b = 3."""
    script = str(_ROOT / "train_cifar.py")
    seconds = {"--help": _median_seconds([sys.executable, script, "--help"], options.rounds),
               "first step of b = 3": _first_step([sys.executable, script], options)}
    if options.torch_python:
        torch = [options.torch_python, script, "--engine", "pytorch"]
        seconds["the same with --engine pytorch --no-compile"] = _first_step(
            [*torch, "--no-compile"], options)
        _first_step(torch, replaced(options, rounds=1))    # compiles for the first time
        seconds["the same with --engine pytorch, compiled before"] = _first_step(torch, options)
    return _part("start-up", markdown_table(["<until", "seconds"], [
        [what, f"{each:.2f}"] for what, each in seconds.items()]))


def latency(options):
    """The table of what each unit costs, for each runtime; or why there is none."""
    tables = []
    for title, runtime in (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
        child = subprocess.run([sys.executable, "-m", "benchmarks.latency", "--runtime", runtime,
                                "--rounds", str(options.rounds)], cwd=_ROOT, text=True,
                               capture_output=True)
        tables += [f"{title}:", child.stdout if child.returncode == 0 else
                   child.stderr.strip().splitlines()[-1]]
    return _part("latency", *tables)


def _median_seconds(command, rounds):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _first_step(script, options):
    """From the command to the first line that tells a loss, with a line a step."""
    import pty
    import tempfile

    seconds = []
    for _ in range(options.rounds):
        terminal, other = pty.openpty()    # elsewhere a line comes each half minute
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            process = subprocess.Popen(
                [*script, "--blocks", "3", "--data-dir", options.data_dir, "--log-interval", "1",
                 "--save-dir", folder, "--log-dir", folder], stdout=other, stderr=other)
            os.close(other)    # so that the end of the process ends what is read
            try:
                _read_until(b"loss ", terminal)
                seconds.append(time.perf_counter() - start)
            finally:
                process.kill()
                process.wait()
                os.close(terminal)
    return statistics.median(seconds)


def _read_until(wanted, terminal):
    """Read a terminal until it shows `wanted`; raises UserError if its process ends before."""
    text = b""
    while wanted not in text:
        try:
            part = os.read(terminal, 4096)
        except OSError:    # what a terminal says when nobody holds its other end
            part = b""
        if not part:
            lines = text.decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
            raise UserError(f"train_cifar.py ended before its first step: {last}")
        text += part


# ---- what is written --------------------------------------------------------------------------

def _part(title, *blocks):
    return "\n\n".join([f"### {title}", *blocks])


def markdown(name, contestants):
    """A table of one workload: medians, spread, ratio of our best to each."""
    ours = max((each for each in contestants if each.name.startswith("ours") and each.rates),
               key=lambda each: each.median, default=contestants[0])
    sizes = f"{ours.num_params:,} trained parameters each" if all(
        each.num_params == ours.num_params for each in contestants if not each.problem) \
        else "trained parameters: " + ", ".join(f"{each.name} {each.num_params:,}"
                                                for each in contestants)
    return _part(name, sizes, markdown_table(
        ["<contestant", "images/s", "lowest to highest", f"{ours.name} is", "peak MiB"],
        [[each.name, each.problem[:90], "", "", ""] if each.problem else
         [each.name, _rate(each.median), f"{_rate(min(each.rates))} to {_rate(max(each.rates))}",
          f"{ours.median / each.median:.2f} x", f"{each.peak_mib:,.0f}"]
         for each in contestants]))


def beside_markdown(name, contestants):
    """A table of one workload: medians alone and beside a busy process."""
    ours, rows = contestants[1], []
    for alone, beside in zip(contestants[::2], contestants[1::2]):
        problem = alone.problem or beside.problem
        rows.append([alone.name, problem[:90], "", "", ""] if problem else [
            alone.name, _rate(alone.median), _rate(beside.median),
            f"{beside.median / alone.median:.0%}", f"{ours.median / beside.median:.2f} x"])
    return _part(f"{name}, beside a process that keeps a core busy", markdown_table(
        ["<contestant", "images/s alone", "beside", "of that is left", "ours beside is"], rows))


def _rate(images_per_s):
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.1f}"


def machine(options):
    """One paragraph: what all of it was measured on."""
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search("^model name.*: (.*)", cpus, re.MULTILINE)
    wide = next((name for flag, name in (("amx_bf16", "AMX bf16"), ("avx512_bf16", "AVX-512 bf16"),
                                         ("avx512f", "AVX-512, no bf16"), ("avx2", "AVX2"))
                 if flag in cpus), "no AVX2")
    found = _versions(sys.executable, "mxnet numpy onnxruntime openvino")
    if options.torch_python:
        found += _versions(options.torch_python, "torch")
    return (f"{datetime.date.today()}; {physical_cores()} cores of "
            f"{model[1] if model else platform.processor()} ({wide}), "
            f"{platform.system()}, Python {platform.python_version()}, {', '.join(found)}; "
            f"{options.rounds} rounds.")


def _versions(python, packages):
    code = ("import importlib.metadata as m, sys\n"
            "for p in sys.argv[1].split():\n"
            "    try: print(p, m.version(p))\n"
            "    except m.PackageNotFoundError: pass")
    return subprocess.run([python, "-c", code, packages], capture_output=True, text=True,
                          check=True).stdout.splitlines()


def table_csv(results):
    """A row a round."""
    return csv_text(
        ("workload", "contestant", "round", "images_per_s", "num_params", "peak_mib"),
        *((name, each.shown, number, f"{rate:.2f}", each.num_params, f"{each.peak_mib:.0f}")
          for name, contestants in results.items() for each in contestants
          for number, rate in enumerate(each.rates, 1)))


# What has no contestants.
_ALONE = {"latency": latency, "start-up": start_up}
_EVERYTHING = (*GROUPS, *_ALONE)


def make_parser():
    parser = Parser(prog="benchmarks.bench", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", type=names, metavar="A,B", help=f"of {', '.join(_EVERYTHING)}")
    add("--rounds", type=positive_int, default=5)
    add("--data-dir", default="~/.mxnet/datasets/cifar10",
        help="folder of CIFAR-10's binary files")
    add("--torch-python", metavar="FILE", default=str(_ROOT / ".venv-torch" / "bin" / "python"),
        help="interpreter that has PyTorch (default: .venv-torch's, left out if it is missing)")
    add("--out", default="reports/bench", metavar="DIR")
    return parser


def measure(group, options, results):
    """Yield the parts of the report that a group makes; its rounds are added to `results`."""
    if group in _ALONE:
        yield _ALONE[group](options)
    for name, workload in GROUPS.get(group, {}).items():
        results[name] = contest(name, workload, options)
        yield (beside_markdown if workload.beside else markdown)(name, results[name])


def main(argv=None):
    options = make_parser().parse_args(argv)
    groups = options.only or _EVERYTHING
    check_known("--only", groups, _EVERYTHING)
    for number in {*stopping()} - {signal.SIGINT}:    # Ctrl-C ends in order by itself
        signal.signal(number, _end)
    if not Path(options.torch_python).is_file():
        show(f"PyTorch is left out: there is no {options.torch_python}; `make bench` installs it")
        options = replaced(options, torch_python=None)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    results, parts = {}, [machine(options)]
    for group in groups:
        for part in measure(group, options, results):
            parts.append(part + "\n")
            show("")
            print(parts[-1], flush=True)
        # After every group: a long run that is broken off leaves what it has.
        write_text(out / "results.md", "\n\n".join(parts))
        write_text(out / "results.csv", table_csv(results))
    print(f"written: {out / 'results.md'}, {out / 'results.csv'}")
    return 0


if __name__ == "__main__":
    run_script(main)
