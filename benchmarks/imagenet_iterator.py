#!/usr/bin/env python3
"""Speed of the training iterator for record files, beside MXNet's own with the same settings.

    python benchmarks/imagenet_iterator.py FILE.rec [--input-size 224] [--batch-size 16] [-j 4]

Both read the same records in turns, several times; a round is one epoch of whole batches. The
bare one is ``ImageRecordIter`` as the authors' script has it: normalised floats, left in
MXNet's arrays. Ours gives the training loop uint8 arrays and labels, checked.
"""
import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import model.mxnet_compat  # noqa: E402, F401  (comes before mxnet)
import mxnet as mx  # noqa: E402

from common.errors import run_script  # noqa: E402
from data import DataError  # noqa: E402
from data.imagenet import MEAN, STD, RecordBatches, RecordFile  # noqa: E402


def bare(batches, epoch):
    """Seconds for an epoch of the bare iterator."""
    settings = {**batches.settings(epoch), "dtype": "float32"}
    for channel, mean, std in zip("rgb", MEAN, STD):
        settings.update({f"mean_{channel}": 255 * mean, f"std_{channel}": 255 * std})
    start = time.perf_counter()
    iterator = mx.io.ImageRecordIter(**settings)
    for _ in range(len(batches)):
        batch = iterator.next()
        batch.data[0].wait_to_read()
        batch.label[0].wait_to_read()
    return time.perf_counter() - start


def ours(batches, epoch):
    """Seconds for an epoch of the training iterator."""
    start = time.perf_counter()
    for _ in batches.epoch(epoch):
        pass
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rec", metavar="FILE.rec")
    parser.add_argument("--input-size", type=int, default=224, help="(default: 224)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("-j", "--num-workers", type=int, default=4, help="threads (default: 4)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    options = parser.parse_args()
    records = RecordFile(options.rec)
    batches = RecordBatches(records, options.batch_size, len(records.class_names()),
                            size=options.input_size, workers=options.num_workers)
    seconds = {bare: [], ours: []}
    for iterate in seconds:
        iterate(batches, 0)    # the file into the page cache, the code into memory
    for epoch in range(options.rounds):
        for iterate in (bare, ours) if epoch % 2 else (ours, bare):
            seconds[iterate].append(iterate(batches, epoch))
    print(f"{options.rec}: {batches.num_images:,} images an epoch at {options.input_size} pixels, "
          f"batch size {options.batch_size}, {options.num_workers} threads, "
          f"{options.rounds} rounds")
    rates = {}
    for iterate, values in seconds.items():
        rates[iterate] = batches.num_images / statistics.median(values)
        print(f"{iterate.__name__:5} {rates[iterate]:8.1f} images/s (median; fastest round "
              f"{batches.num_images / min(values):.1f})")
    print(f"ratio {rates[ours] / rates[bare]:.3f} of the medians, "
          f"{min(seconds[bare]) / min(seconds[ours]):.3f} of the fastest rounds")
    return 0


if __name__ == "__main__":
    run_script(main, DataError)
