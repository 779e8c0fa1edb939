#!/usr/bin/env python3
"""Check what the tests on a CPU cannot: float16 training on one or two GPUs.

    python tools/check_gpu.py        # or: make check-gpu

Packs drawn images, trains twenty steps in float16 through RecordIO, goes back to a checkpoint
and resumes, and evaluates the saved file in float16, in float32 and on the CPU.
Exit code 0: all is well; 1: something failed; 2: there is no usable GPU, nothing was checked.
"""
import csv
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_PROBE = """
import model.mxnet_compat, mxnet as mx
count = mx.context.num_gpus()
for k in range(min(count, 2)):
    x = mx.nd.ones((2, 8, 8, 8), ctx=mx.gpu(k), dtype="float16")
    w = mx.nd.ones((8, 8, 3, 3), ctx=mx.gpu(k), dtype="float16")
    mx.nd.Convolution(x, w, kernel=(3, 3), num_filter=8, no_bias=True).asnumpy()
print("usable", min(count, 2))
"""


def run(*arguments, cwd=ROOT, timeout=900):
    """A command of this project; its output on failure is the user's."""
    result = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, timeout=timeout,
                            capture_output=True, text=True)
    if result.returncode:
        print(result.stdout[-2000:], result.stderr[-2000:], sep="\n")
        sys.exit(f"FAILED: {' '.join(map(str, arguments[:2]))} (exit code {result.returncode})")
    return result.stdout


def usable_gpus():
    """How many of the first two GPUs compute a float16 convolution, and why not if none."""
    try:
        result = subprocess.run([sys.executable, "-c", _PROBE], cwd=ROOT, timeout=600,
                                capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return 0, "the first operation on it did not end within ten minutes"
    found = re.search(r"usable (\d+)", result.stdout)
    if found:
        return int(found.group(1)), "MXNet finds none (is its GPU build installed?)"
    lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
    return 0, lines[-1][:300]


def draw_images(folder, classes=4, each=40):
    """train/ and val/ with noise in one colour for each class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", each), ("val", 5)):
        for label in range(classes):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for k in range(count):
                noise = rng.integers(0, 60, (96, 96, 3))
                noise[..., label % 3] += 60 * (1 + label // 3)
                Image.fromarray(noise.astype(np.uint8)).save(place / f"{k}.png")


def last_row(folder, name):
    """The figures of a run's last epoch."""
    with open(folder / f"logs/{name}/metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))[-1]


def check(gpus, folder, dtype="float16", size=64):
    """Train, resume, evaluate. (Without GPUs and in float32, the check can be checked.)

    `size` is the images'.
    """
    draw_images(folder)
    run("-m", "data.imagenet", "pack", folder, folder / "rec")
    batch = 16 // max(gpus, 1)
    common = ("--use-rec", "--rec-train", folder / "rec/train.rec", "--rec-val",
              folder / "rec/val.rec", "--model", "resnet18_v1b", "--input-size", size,
              "--batch-size", batch, "--dtype", dtype, "--num-gpus", gpus, "--last-gamma",
              "--no-wd", "--label-smoothing", "--lr", 0.05, "--lr-mode", "constant",
              "--name", "check", "--num-epochs", 2, "--checkpoint-every", 5)
    train = ROOT / "train_imagenet.py"
    run(train, *common, cwd=folder)
    print(f"trained twenty steps in {dtype} on {gpus} GPU(s)")
    row = last_row(folder, "check")
    if not all(math.isfinite(float(row[name])) for name in ("train_loss", "val_loss")):
        sys.exit(f"FAILED: the loss is not finite: {row}")
    print(f"loss {float(row['train_loss']):.3f}, validation loss {float(row['val_loss']):.3f}")
    shutil.rmtree(sorted((folder / "params/check/checkpoints").iterdir())[-1])
    if "resumed from" not in run(train, "--resume", "logs/check", cwd=folder):
        sys.exit("FAILED: the run was not resumed")
    print("went back to a checkpoint and resumed")
    if gpus > 1:
        run(train, *common, "--name", "nccl", "--num-epochs", 1, "--kv-store", "nccl", cwd=folder)
        print("trained ten steps with --kv-store nccl")
    places = [("the CPU", ("--num-gpus", 0))]
    if gpus:
        places += [("float16 on a GPU", ("--dtype", "float16", "--num-gpus", 1)),
                   ("float32 on a GPU", ("--num-gpus", 1))]
    # Of the network that was trained: the saved file must be the same.
    losses = {"training": float(last_row(folder, "check")["val_loss"])}
    for where, extra in places:
        text = run(ROOT / "evaluate.py", "--params", "params/check/last.params", "--use-rec",
                   "--rec-val", folder / "rec/val.rec", *extra, cwd=folder)
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
