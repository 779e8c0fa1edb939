#!/usr/bin/env python3
"""Check what the tests on a CPU cannot: float16 training on one or two GPUs.

    python -m tests.torture.check_gpu        # or: make check-gpu

Packs drawn images, trains twenty steps in float16 through RecordIO, goes back to a checkpoint
and resumes, and evaluates the saved file in float16, in float32 and on the CPU.
Exit code 0: all is well; 1: something failed; 2: there is no usable GPU, nothing was checked.
"""
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from data import packing
from tests import scripts
from tests.data.photo_files import write_tree

_PROBE = """
import model.mxnet_compat, mxnet as mx
count = mx.context.num_gpus()
for k in range(min(count, 2)):
    x = mx.nd.ones((2, 8, 8, 8), ctx=mx.gpu(k), dtype="float16")
    w = mx.nd.ones((8, 8, 3, 3), ctx=mx.gpu(k), dtype="float16")
    mx.nd.Convolution(x, w, kernel=(3, 3), num_filter=8, no_bias=True).asnumpy()
print("usable", min(count, 2))
"""


def run(script, *arguments, folder):
    """What a script of this project prints; what it prints on failure is shown."""
    result = scripts.run(script, *arguments, cwd=folder, timeout=900)
    if result.returncode:
        print(result.stdout[-2000:], result.stderr[-2000:], sep="\n")
        sys.exit(f"FAILED: {script} {arguments[0]} (exit code {result.returncode})")
    return result.stdout


def usable_gpus():
    """How many of the first two GPUs compute a float16 convolution, and why not if none."""
    try:
        result = subprocess.run([sys.executable, "-c", _PROBE], cwd=scripts.ROOT, timeout=600,
                                capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return 0, "the first operation on it did not end within ten minutes"
    found = re.search(r"usable (\d+)", result.stdout)
    if found:
        return int(found.group(1)), "MXNet finds none (is its GPU build installed?)"
    lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    return 0, lines[-1][:300]


def check(gpus, folder, dtype="float16", size=64):
    """Train, resume, evaluate. (Without GPUs and in float32, the check can be checked.)

    `size` is the images'.
    """
    write_tree(folder, classes=4, train=40, val=5)
    packing.main(["pack", str(folder), str(folder / "rec")])
    batch = 16 // max(gpus, 1)
    common = ("--use-rec", "--rec-train", folder / "rec/train.rec", "--rec-val",
              folder / "rec/val.rec", "--model", "resnet18_v1b", "--input-size", size,
              "--batch-size", batch, "--dtype", dtype, "--num-gpus", gpus, "--last-gamma",
              "--no-wd", "--label-smoothing", "--lr", 0.05, "--lr-mode", "constant",
              "--name", "check", "--num-epochs", 2, "--checkpoint-every", 5)
    run("train_imagenet.py", *common, folder=folder)
    print(f"trained twenty steps in {dtype} on {gpus} GPU(s)")
    row = scripts.metrics(folder / "logs/check")[-1]
    if not all(math.isfinite(float(row[name])) for name in ("train_loss", "val_loss")):
        sys.exit(f"FAILED: the loss is not finite: {row}")
    print(f"loss {float(row['train_loss']):.3f}, validation loss {float(row['val_loss']):.3f}")
    shutil.rmtree(sorted((folder / "params/check/checkpoints").iterdir())[-1])
    if "resumed from" not in run("train_imagenet.py", "--resume", "logs/check", folder=folder):
        sys.exit("FAILED: the run was not resumed")
    print("went back to a checkpoint and resumed")
    if gpus > 1:
        run("train_imagenet.py", *common, "--name", "nccl", "--num-epochs", 1, "--kv-store",
            "nccl", folder=folder)
        print("trained ten steps with --kv-store nccl")
    places = [("the CPU", ("--num-gpus", 0))]
    if gpus:
        places += [("float16 on a GPU", ("--dtype", "float16", "--num-gpus", 1)),
                   ("float32 on a GPU", ("--num-gpus", 1))]
    # Of the network that was trained: the saved file must be the same.
    last = scripts.metrics(folder / "logs/check")[-1]
    losses = {"training": float(last["val_loss"])}
    for where, extra in places:
        text = run("evaluate.py", "--params", "params/check/last.params", "--use-rec",
                   "--rec-val", folder / "rec/val.rec", *extra, folder=folder)
        losses[where] = float(re.search(r"loss ([-.\w]+)", text).group(1))
        print(f"evaluated, {where}: loss {losses[where]:.4f}")
    if not max(losses.values()) - min(losses.values()) < 0.05 * max(1, *losses.values()):
        sys.exit(f"FAILED: the evaluations differ: {losses}")


def main():
    gpus, reason = usable_gpus()
    if not gpus:
        print(f"no usable GPU: {reason}. Nothing was checked.")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        check(gpus, Path(folder))
    print(f"all is well on {gpus} GPU(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
