"""Damage real .params files in thousands of ways and load each.

    python -m tests.torture.fuzz_params --count 5000 --seed 0

Every load happens in a process of its own kind, which is watched: it must end in less than a
second, with the arrays that MXNet itself reads or with one clear line, and its memory must not
grow by more than twice the file (and 8 MiB, the grain of the allocators).
"""
import argparse
import collections
import json
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common.params import check_params
from tests.golden_cases import FOLDER
from tests.torture.fuzzing import (
    Opener,
    cut_out,
    flip_bits,
    noise,
    put_in,
    repeat_a_part,
    truncate,
)

SECONDS, GRAIN, HANG_SECONDS = 1.0, 8 << 20, 20
_EXTREMES = (0, 1, 2 ** 7, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 62, 2 ** 63,
             2 ** 64 - 1)


# ---- mutations: each maps (generator, content, records) to new content -------------------------

def _header_position(rng, content, records):
    """A position that is not among an array's values."""
    ends = [24] + [r.offset + r.dtype.itemsize * int(np.prod(r.shape)) for r in records]
    starts = [r.offset for r in records] + [len(content)]
    if rng.random() < 0.2:
        return int(rng.integers(0, 24))
    k = int(rng.integers(0, len(ends)))
    return int(rng.integers(ends[k], max(starts[k], ends[k] + 1)))


def _names_position(records):
    last = records[-1]
    return last.offset + last.dtype.itemsize * int(np.prod(last.shape)) + 8


def truncate_in_headers(rng, content, records):
    return content[:_header_position(rng, content, records)]


def flip_headers(rng, content, records):
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        position = min(_header_position(rng, content, records), len(out) - 1)
        out[position] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def extreme_number(rng, content, records):
    """A 4- or 8-byte number of a header, replaced."""
    width = int(rng.choice((4, 8)))
    position = min(_header_position(rng, content, records), len(content) - width)
    value = int(_EXTREMES[int(rng.integers(0, len(_EXTREMES)))]) % (1 << 8 * width)
    return content[:position] + value.to_bytes(width, "little") + content[position + width:]


def huge_shape(rng, content, records):
    record = records[int(rng.integers(0, len(records)))]
    start = record.offset - 12 - 8 * len(record.shape)
    shape = [int(rng.choice((1, 2 ** 16, 2 ** 31, 2 ** 40, 2 ** 62, -1, 0))) for _ in record.shape]
    return content[:start] + struct.pack(f"<{len(shape)}q", *shape) + content[record.offset - 12:]


def many_dimensions(rng, content, records):
    record = records[int(rng.integers(0, len(records)))]
    start = record.offset - 16 - 8 * len(record.shape)
    ndim = int(rng.choice((0, -1, 5, 17, 2 ** 16, 2 ** 31 - 1)))
    return content[:start] + struct.pack("<i", ndim) + content[start + 4:]


def regrouped_shape(rng, content, records):
    """Another shape of as many values, or nearly."""
    record = records[int(rng.integers(0, len(records)))]
    start = record.offset - 12 - 8 * len(record.shape)
    shape = rng.permutation(record.shape) + rng.integers(0, 2, len(record.shape))
    return content[:start] + struct.pack(f"<{len(shape)}q", *shape) + content[record.offset - 12:]


def _with_names(content, records, names):
    start = _names_position(records) - 8
    return content[:start] + struct.pack("<Q", len(names)) + b"".join(
        struct.pack("<Q", len(name)) + name for name in names)


def overlapping_names(rng, content, records):
    names = [record.name.encode() for record in records]
    names[int(rng.integers(0, len(names)))] = names[int(rng.integers(0, len(names)))]
    return _with_names(content, records, names)


def strange_names(rng, content, records):
    """Names of random bytes, of none, or of very many."""
    names = [record.name.encode() for record in records]
    for _ in range(int(rng.integers(1, 5))):
        names[int(rng.integers(0, len(names)))] = rng.bytes(int(rng.choice((0, 1, 7, 40, 5000))))
    return _with_names(content, records, names)


def other_number_of_names(rng, content, records):
    names = [record.name.encode() for record in records]
    names = names[:int(rng.integers(0, len(names)))] if rng.random() < 0.5 else names + [b"more"]
    return _with_names(content, records, names)


def lying_name_length(rng, content, records):
    position = _names_position(records)
    for record in records[:int(rng.integers(0, len(records)))]:
        position += 8 + len(record.name.encode())
    length = int(_EXTREMES[int(rng.integers(0, len(_EXTREMES)))])
    return content[:position] + struct.pack("<Q", length) + content[position + 8:]


def swapped_parts(rng, content, records):
    a, b, c = sorted(int(v) for v in rng.integers(0, len(content), 3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


MUTATIONS = (truncate, truncate_in_headers, flip_bits, flip_headers, extreme_number, huge_shape,
             many_dimensions, regrouped_shape, overlapping_names, strange_names,
             other_number_of_names, lying_name_length, cut_out, put_in, repeat_a_part,
             swapped_parts, noise)


# ---- the process that loads ----------------------------------------------------------------------

def _status(field):
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith(field))


def _load(path, read_weights, error_type):
    """Load once; what happened, the seconds, and by how much the memory grew at most."""
    Path("/proc/self/clear_refs").write_text("5")        # from now on VmHWM is this load's
    before, start = _status("VmRSS"), time.perf_counter()
    try:
        arrays, line = read_weights(path), None
    except error_type as error:
        arrays, line = None, str(error)
    for array in (arrays or {}).values():
        array.wait_to_read()
    seconds, grown = time.perf_counter() - start, _status("VmHWM") - before
    return arrays, {"line": line, "seconds": seconds, "grown": grown}


def _differences(arrays, path, mx, translate):
    """Whether MXNet itself reads something else; None where it refuses the file."""
    try:
        theirs = mx.nd.load(path)
    except mx.MXNetError:
        return None
    theirs = {translate(name): array for name, array in theirs.items()}
    return arrays.keys() != theirs.keys() or any(
        array.asnumpy().tobytes() != theirs[name].asnumpy().tobytes()
        for name, array in arrays.items())


def _serve():
    """Load the files that standard input names; answer each with a line of JSON."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    from model.resnet_v2_cifar import translate_reference_key
    from runs.weights import WeightsError, read_weights

    # More than a load may take, so that a runaway ends here and not with the machine.
    limit = _status("VmSize") + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for request in sys.stdin:
        path = request.rstrip("\n")
        arrays, answer = _load(path, read_weights, WeightsError)
        if arrays is not None:
            answer["differs"] = _differences(arrays, path, mx, translate_reference_key)
        print(json.dumps(answer), flush=True)


# ---- counting ------------------------------------------------------------------------------------

def _verdict(answer, size):
    """One word for what a load came to, and whether that is as it must be."""
    if answer is None:
        return "crashed or hung", False
    if answer["seconds"] >= SECONDS:
        return "too slow", False
    if answer["grown"] > 2 * size + GRAIN:
        return "too much memory", False
    if answer["line"] is None:
        return ("loaded wrongly", False) if answer["differs"] else ("loaded", True)
    if "\n" in answer["line"] or len(answer["line"]) > 2000:
        return "unclear line", False
    return "refused", True


def fuzz(count, seed=0, log=print):
    """Try `count` mutations.

    Returns
    -------
    (collections.Counter, int)
        How many loads came to what, and how many of them were not as they must be.
    """
    originals = [(path.read_bytes(), check_params(path))
                 for path in sorted(FOLDER.glob("*.params"))]
    rng = np.random.default_rng(seed)
    counts, bad, slowest, most = collections.Counter(), 0, 0.0, 0
    loader = Opener("tests.torture.fuzz_params", HANG_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.params")
        path.write_bytes(originals[0][0])
        loader(path)                               # the first load has MXNet start its threads
        for number in range(count):
            mutate = MUTATIONS[number % len(MUTATIONS)]
            content = mutate(rng, *originals[int(rng.integers(0, len(originals)))])
            path.write_bytes(content)
            answer = loader(path)
            verdict, good = _verdict(answer, len(content))
            counts[verdict] += 1
            if answer:
                slowest, most = max(slowest, answer["seconds"]), max(most, answer["grown"])
            if not good:
                bad += 1
                log(f"mutation {number} ({mutate.__name__}, seed {seed}): {verdict}: {answer}")
    loader.close()
    log(f"{count:,} mutations of {len(originals)} files: "
        + ", ".join(f"{number:,} {verdict}" for verdict, number in counts.most_common())
        + f"; slowest {1000 * slowest:.0f} ms, memory grew by at most {most / 2 ** 20:.1f} MiB")
    return counts, bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="mutations (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
        return 0
    return 1 if fuzz(options.count, options.seed)[1] else 0


if __name__ == "__main__":
    sys.exit(main())
