#!/usr/bin/env python3
"""How the time of a training step grows with batch, blocks, channels and threads.

    python -m benchmarks.growth [--rounds 5]

ChaATAC in the paper's CIFAR network, the step alone on fixed data. The cases of one quantity
take turns, so that what slows the machine hits all alike; figures are medians. The exponent e
is that of the least-squares line through (log quantity, log time): time ~ quantity^e.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import time

from common.arguments import Parser, positive_int
from common.errors import run_script
from common.threads import physical_cores, set_threads

# Quantity -> its values; the others stay as `_BASE` has them.
_GROWING = {"batch_size": (32, 64, 128, 256), "blocks": (1, 2, 3, 5), "width": (1, 2, 4)}
_BASE = {"batch_size": 128, "blocks": 1, "width": 1}
_CHANNELS = (16, 16, 32, 64)
_STEPS = 3


def _trained_step(batch_size, blocks, width):
    """A function that does `_STEPS` steps of such a network and waits for their end."""
    set_threads()
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx
    import numpy as np

    from benchmarks.networks import fixed_steps
    from engines.input_statistics import keep_input_statistics
    from graph.fast_cpu import hybridize
    from model import get_model

    net = get_model("resnet_v2_cifar", activation="ChaATAC", blocks=blocks,
                    channels=[width * each for each in _CHANNELS])
    net.initialize(mx.init.Xavier())
    shape = (batch_size, 3, 32, 32)
    hybridize(net, shape, [mx.cpu()])
    keep_input_statistics(net)
    images = np.random.default_rng(0).standard_normal(shape)
    return fixed_steps(net, images, np.arange(batch_size) % 10, _STEPS)


def measure(cases, rounds):
    """Milliseconds of a step of each case, medians over rounds in which they take turns."""
    runs = [_trained_step(**{**_BASE, **case}) for case in cases]
    seconds = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, found in zip(runs, seconds):
            start = time.perf_counter()
            run()
            if number:    # the first one compiles and allocates
                found.append(time.perf_counter() - start)
    return [1000 * statistics.median(found) / _STEPS for found in seconds]


def in_own_process(cases, rounds, threads):
    """`measure`, with so many threads."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.growth", "--cases",
                           json.dumps(cases), "--rounds", str(rounds)], check=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                          stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def exponent(values, times):
    """Slope of the least-squares line through (log value, log time)."""
    x, y = ([math.log(each) for each in series] for series in (values, times))
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return (sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
            / sum((a - mean_x) ** 2 for a in x))


def main(argv=None):
    parser = Parser(prog="benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--cases", type=json.loads, help="print the times of these (JSON)")
    options = parser.parse_args(argv)
    if options.cases:
        print(json.dumps(measure(options.cases, options.rounds)))
        return 0
    cores = physical_cores()
    print("| grows | values | ms a step | exponent |\n|---|---|---|---:|", flush=True)
    for quantity, values in _GROWING.items():
        times = in_own_process([{quantity: value} for value in values], options.rounds, cores)
        print(_row(quantity, values, times), flush=True)
    threads = sorted({1, cores})
    print(_row("threads", threads, [in_own_process([{"blocks": 3}], options.rounds, each)[0]
                                    for each in threads]))
    return 0


def _row(quantity, values, times):
    slope = f"{exponent(values, times):.2f}" if len(values) > 1 else ""
    return (f"| {quantity} | {', '.join(map(str, values))} | "
            f"{', '.join(f'{each:.0f}' for each in times)} | {slope} |")


if __name__ == "__main__":
    run_script(main)
