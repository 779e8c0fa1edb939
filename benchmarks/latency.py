#!/usr/bin/env python3
"""What each unit costs where a network predicts: ResNet-18 v1b, one image of 224 pixels.

    python -m benchmarks.latency [--units ChaATAC,SE] [--runtime onnxruntime] [--rounds 5]

An activation stands in every block of all four stages, an attention block in every block. The
exported networks take turns, a round of ten images each; medians over the rounds.
"""
import statistics
import sys
import time

from common.arguments import Parser, check_known, names, positive_int
from common.errors import run_script
from common.tables import records_table
from common.threads import set_threads

_IMAGES = 10    # in a round


def prepared(options, runtime):
    """Number of parameters, and a function that predicts one image."""
    import numpy as np

    from benchmarks.networks import exported, initialized
    from model import zoo

    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    net, num_params = initialized(zoo.build(
        {"model": "resnet18_v1b", "options": {"act_layers": 4, **options}}, 1000))
    predict = exported(net, image, runtime)
    return num_params, lambda: predict(image)


def measure(units, runtime, rounds):
    """Yield a row of the table for the plain network, and for each unit in it."""
    from model import list_activations, list_attentions

    kinds = {**dict.fromkeys(list_activations(), "activation"),
             **dict.fromkeys(list_attentions(), "attention")}
    units, networks = units or kinds, {}
    check_known("--units", units, kinds)
    for name in dict.fromkeys(("relu", *units)):
        options = {kinds[name]: name}
        print(f"preparing {name}", file=sys.stderr)
        networks[name] = prepared(options, runtime)
        networks[name][1]()
    seconds = {name: [] for name in networks}
    for _ in range(rounds):
        for name, (_, predict) in networks.items():
            start = time.perf_counter()
            for _ in range(_IMAGES):
                predict()
            seconds[name].append((time.perf_counter() - start) / _IMAGES)
    plain = statistics.median(seconds["relu"])
    for name, (num_params, _) in networks.items():
        median = statistics.median(seconds[name])
        yield {"unit": name, "parameters": f"{num_params:,}", "ms": f"{1000 * median:.1f}",
               "times the plain": f"{median / plain:.2f}"}


def make_parser():
    parser = Parser(prog="benchmarks.latency", description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=names, metavar="A,B", help="of all units (default: all)")
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    return parser


def main(argv=None):
    options = make_parser().parse_args(argv)
    set_threads()
    print(records_table(list(measure(options.units, options.runtime, options.rounds))))
    return 0


if __name__ == "__main__":
    run_script(main)
