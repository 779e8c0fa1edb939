"""One contestant in a process of its own: prepares, then runs a round whenever it is told to.

    python -m benchmarks.contestant NAME WORKLOAD DATA_DIR

Writes a JSON line when it is ready, with the number of trained parameters, and one after each
line that it reads: images, seconds and the largest resident size so far.
"""
import importlib
import json
import resource
import sys
import time

from benchmarks.workloads import WORKLOADS

__all__ = ["CONTESTANTS"]

# Name -> (module, its mode). The modules have ``prepare(mode, workload, data_dir)``, which
# returns (number of parameters, function that works through one round and waits for its end).
CONTESTANTS = {
    "ours": ("benchmarks.ours", "gluon"),
    "step alone": ("benchmarks.ours", "step"),    # ours; for what the pipeline costs on top of it
    "ours, spinning": ("benchmarks.ours", "gluon"),    # with threads as without `set_threads`
    "ours, PyTorch": ("benchmarks.ours", "pytorch float32"),    # by our engine, compiled
    "step alone, PyTorch": ("benchmarks.ours", "pytorch-step float32"),
    "ours, PyTorch bf16": ("benchmarks.ours", "pytorch bfloat16"),
    "ours, ONNX Runtime": ("benchmarks.ours", "onnxruntime"),
    "ours, OpenVINO": ("benchmarks.ours", "openvino"),
    "ours, OpenVINO bf16": ("benchmarks.ours", "openvino bfloat16"),
    "reference style": ("benchmarks.reference", "gluon"),
    "PyTorch eager": ("benchmarks.pytorch", "eager"),
    "PyTorch channels_last": ("benchmarks.pytorch", "channels_last"),
    "PyTorch compiled": ("benchmarks.pytorch", "compiled"),
    "PyTorch compiled channels_last": ("benchmarks.pytorch", "compiled channels_last"),
    "PyTorch bf16": ("benchmarks.pytorch", "bf16"),
    "PyTorch compiled bf16": ("benchmarks.pytorch", "compiled bf16"),
}


_ANSWERS = sys.stdout


def say(**fields):
    print(json.dumps(fields), file=_ANSWERS, flush=True)


def main(name, workload, data_dir):
    sys.stdout = sys.stderr    # what else is printed is no answer
    module, mode = CONTESTANTS[name]
    workload = WORKLOADS[workload]
    num_params, run = importlib.import_module(module).prepare(mode, workload, data_dir)
    run()    # compiles, allocates, reads the files
    say(ready=True, num_params=num_params)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        say(images=workload.steps * workload.batch_size, seconds=seconds,
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
