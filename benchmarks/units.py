"""CPU time of a training step of each unit: plain, by graph.fast_cpu's rules, and of old.

    python benchmarks/units.py [--old FOLDER] [--rounds 5] [--units SE CBAM]

A network of b = 1 with that unit in all slots, batch 16, one thread; FOLDER is a checkout of an
older version. Time is the process's own (user), so other processes disturb little. Each round
runs each version once, in a process of its own; the table has medians.
"""
import argparse
import importlib
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

_UNITS = {
    **{name: {"activation": "relu", "attention": name} for name in ("SE", "CBAM", "MVAM", "ZAM",
                                                                   "BAM")},
    "ChaATAC": {"activation": "ChaATAC"},
    "ChaATAC, global": {"activation": "ChaATAC", "act_options": {"use_global": True}},
    "SeqATAC": {"activation": "SeqATAC"},
    "swish": {"activation": "swish"},
    "relu": {"activation": "relu"},
}
_BATCH, _WARMUP, _STEPS = 16, 10, 40
_ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MXNET_USE_OPERATOR_TUNING": "0",
                "MXNET_CPU_PARALLEL_SIZE": str(1 << 30)}


def work(root, unit, version):
    """Print the milliseconds of a step."""
    sys.path.insert(0, root)
    get_model = importlib.import_module("model").get_model    # makes MXNet importable

    import mxnet as mx
    import numpy as np
    from mxnet import autograd, nd

    mx.random.seed(0)
    net = get_model("resnet_v2_cifar", blocks=1, **_UNITS[unit])
    net.initialize(mx.init.Xavier())
    shape = (_BATCH, 3, 32, 32)
    if version == "plain":
        net.hybridize(static_alloc=True, static_shape=True)
    elif version == "old":
        from training.fusion import hybridize
        hybridize(net, shape, [mx.cpu()])
    else:
        from graph.fast_cpu import hybridize
        hybridize(net, shape, [mx.cpu()])
    if version != "old":
        from engines.input_statistics import keep_input_statistics
        keep_input_statistics(net)
    images = nd.array(np.random.default_rng(0).standard_normal(shape))
    labels = nd.arange(_BATCH) % 10
    trainer = mx.gluon.Trainer(net.collect_params(), "nag", {"learning_rate": 0.01})
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()

    def steps(count):
        for _ in range(count):
            with autograd.record():
                found = loss(net(images), labels)
            found.backward()
            trainer.step(_BATCH)
        nd.waitall()
        return resource.getrusage(resource.RUSAGE_SELF).ru_utime

    start = steps(_WARMUP)
    print(1000 * (steps(_STEPS) - start) / _STEPS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", metavar="FOLDER", help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--units", nargs="+", choices=_UNITS, default=list(_UNITS))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    versions = ["old"] * bool(options.old) + ["plain", "rules"]
    print("| ms CPU a step |", " | ".join(versions), "|\n|---|" + "---:|" * len(versions))
    for unit in options.units:
        found = {version: [] for version in versions}
        for _ in range(options.rounds):
            for version in versions:
                root = options.old if version == "old" else str(_ROOT)
                done = subprocess.run(
                    [sys.executable, __file__, "--work", root, unit, version], cwd=root, text=True,
                    stdout=subprocess.PIPE, check=True, env={**os.environ, **_ENVIRONMENT})
                found[version].append(float(done.stdout))
        cells = (f"{statistics.median(found[version]):.1f}" for version in versions)
        print(f"| {unit} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
