"""What a step costs with several workers: time, and bytes that the workers send and receive.

    python -m benchmarks.machines --workers 1,2 --steps 20

Each case is a run of its own, with one server and one thread for each process, on one machine,
in a network namespace of its own where one can be made, so that nothing else is counted. The
bytes are those of the loopback device: what one process sends another receives, counted once.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common.arguments import positive_int
from common.errors import UserError, run_script
from machines.client import join, leave

_NETWORKS = {"resnet_v2_cifar b=1": {"blocks": 1}, "resnet_v2_cifar b=3": {"blocks": 3},
             "resnet_v2_cifar b=9": {"blocks": 9}}
_WARM_UP = 5


def _bytes():
    """Bytes that have gone through the loopback device."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    return 0


def work(options):
    """One worker: prints a JSON line, if it is the first."""
    join(60)
    import numpy as np

    from engines.distributed import connect
    from engines.gluon import GluonEngine
    from engines.interface import Group, Loss, Settings
    from model.zoo import get_model
    from runs.networks import initial_weights

    def build(devices):
        return get_model("resnet_v2_cifar", classes=10, activation="ChaATAC",
                         **_NETWORKS[options.network])

    workers = connect(options.kv_store, options.join_timeout, on_cpu=True)
    engine = GluonEngine(
        build, initial_weights(build, 0, (3, 32, 32)),
        Settings({"weights": Group("nag")}, Loss(10), (0.5,) * 3, (0.2,) * 3,
                 (options.batch_size, 3, 32, 32)), workers)
    images = np.zeros((options.batch_size, 3, 32, 32), np.uint8)
    labels = np.zeros(options.batch_size, np.int32)
    for index in range(_WARM_UP + options.steps):
        if index == _WARM_UP:
            engine.collect()
            workers.gather(None)
            start, before = time.monotonic(), _bytes()
        engine.learn((images, labels), (0, index), {"weights": 0.01})
    engine.collect()
    workers.gather(None)
    if workers.first:
        print(json.dumps({
            "ms": 1000 * (time.monotonic() - start) / options.steps,
            "bytes": (_bytes() - before) / options.steps,
            "parameters": engine.num_trained}))
    return 0


def measure(network, workers, options):
    """The figures of one case: dict of ms, bytes and parameters."""
    script = [__file__, "--network", network, "--steps", options.steps, "--batch-size",
              options.batch_size]
    command = [sys.executable, *script]
    if workers:
        command = [sys.executable, "-m", "machines.launch", "-n", workers, "-s", 1, "--", *script,
                   "--kv-store", "dist_sync"]
    root = Path(__file__).resolve().parents[1]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
               "PYTHONPATH": str(root)}
    result = subprocess.run(list(map(str, command)), env=environ, text=True, capture_output=True)
    if result.returncode:
        raise UserError(f"{network} with {workers or 'no'} workers failed: "
                        f"{result.stderr.strip().splitlines()[-1]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def _isolate(argv):
    """Start again in a network namespace of its own, if that can be done."""
    inner = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if os.environ.get("ISOLATED") or not (shutil.which("unshare") and shutil.which("ip")):
        return
    if subprocess.run([*inner, "true"], capture_output=True).returncode == 0:
        os.environ["ISOLATED"] = "1"
        os.execvp(inner[0], [*inner, sys.executable, "-m", "benchmarks.machines", *argv])


def _counts(text):
    return [positive_int(part) for part in text.split(",")]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machines",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=_counts, default=[1, 2], metavar="N,N")
    parser.add_argument("--steps", type=positive_int, default=20, metavar="N")
    parser.add_argument("--batch-size", type=positive_int, default=32, metavar="N",
                        help="images per step and worker")
    parser.add_argument("--network", choices=_NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--kv-store", default="device", help=argparse.SUPPRESS)
    parser.set_defaults(join_timeout=60)
    options = parser.parse_args(argv)
    if options.network:
        return work(options)
    _isolate(sys.argv[1:] if argv is None else argv)
    print("| network | parameters | workers | ms a step | images/s | MB a step | "
          "bytes per parameter and worker |\n|---|---:|---:|---:|---:|---:|---:|")
    for network in _NETWORKS:
        for workers in (0, *options.workers):
            found, count = measure(network, workers, options), max(workers, 1)
            print(f"| {network} | {found['parameters']:,} | {workers or 'no store'} | "
                  f"{found['ms']:.1f} | {1000 * count * options.batch_size / found['ms']:.0f} | "
                  f"{found['bytes'] / 1e6:.2f} | "
                  f"{found['bytes'] / found['parameters'] / count:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main, leave=leave)
