"""Damage every kind of file that is read, in hundreds of ways, and read it.

    python -m tests.torture.fuzz_files --count 300 --seed 0

Each reading must end in a few seconds with one clear error line or a sound result: options
within their ranges, a network that can be built, images with valid labels. Parameter files have
a fuzzer of their own, `tests.torture.fuzz_params`.
"""
import argparse
import collections
import contextlib
import copy
import gzip
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np

import train_cifar
from common.errors import UserError
from data import DataError, get_dataset
from data.cifar import CIFAR10
from data.decoding import decode
from data.download import unpack
from data.imagenet import RecordBatches, RecordFile
from data.packing import pack
from data.photos import Decoding
from engines.interface import EngineState
from explain.networks import load_subjects
from model.structure import OPERATIONS, Structure
from runs.describe import describe, load_structure
from tests.data import cifar_files, photo_files
from tests.golden_cases import FOLDER
from training.checkpoint import CheckpointError, newest_checkpoint, save_checkpoint

SECONDS = 10
_VALUES = (None, True, False, 0, -1, 1, 2, 3, 7.5, 1e308, -1e-300, float("nan"), float("inf"),
           100_000, 2 ** 31, 10 ** 30, "", "x", "relu", "CBAM", "../../up", "\u202e\n\x00",
           "9" * 5000, [], {},
           [1, 2, 3], [None], ["block", 3], {"a": {"b": []}}, [[[[]]]])


# ---- mutations -------------------------------------------------------------------------------

def mutate_bytes(rng, content):
    """Flip, cut, repeat or put in some bytes."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(out))
        kind = rng.choice(("flip", "cut", "end", "put", "repeat", "zero"))
        if kind == "flip" and place < len(out):
            out[place] ^= 1 << rng.randint(0, 7)
        elif kind == "cut":
            del out[place:place + rng.randint(1, 600)]
        elif kind == "end":
            del out[place:]
        elif kind == "put":
            out[place:place] = rng.randbytes(rng.randint(1, 20))
        elif kind == "repeat":
            out[place:place] = out[place:place + rng.randint(1, 4000)]
        else:
            stop = min(place + rng.randint(1, 512), len(out))
            out[place:stop] = bytes(stop - place)
    return bytes(out)


def _places(value, path=()):
    """All places in a JSON value, as tuples of keys."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def mutate_json(rng, content):
    """Replace, remove or add values somewhere; or damage the text."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    if rng.random() < 0.02:
        return b'{"a":' * 100_000
    value = {"": json.loads(content)}
    for _ in range(rng.randint(1, 3)):
        *path, key = rng.choice(list(_places(value))[1:])
        inner = value
        for step in path:
            inner = inner[step]
        kind = rng.random()
        if kind < 0.7:
            inner[key] = copy.deepcopy(rng.choice(_VALUES))
        elif kind < 0.85 and path:
            del inner[key]
        elif isinstance(inner.get(key) if isinstance(inner, dict) else None, dict):
            inner[key][rng.choice(("more", "colour", "blocks", ""))] = rng.choice(_VALUES)
    return json.dumps(value.get("")).encode()


# ---- what is read: each yields (read, error types, file, content, mutate) ------------------------

def _config(folder):
    """A configuration, read as --config does."""
    def read(path):
        parser = train_cifar.make_parser()
        parser.load_config(path)
        options = parser.parse_args([])
        describe(options)
        assert options.num_epochs >= 1 and options.lr > 0 and 0 <= options.momentum < 1

    defaults = vars(train_cifar.make_parser().parse_args(["--act-type", "ChaATAC"]))
    content = {key: value for key, value in defaults.items()
               if key not in ("config", "resume", "overwrite", "summary")}
    return read, (UserError, ValueError), folder / "config.json", json.dumps(content).encode()


def _description(folder):
    """The description beside a parameter file, and the network that it describes."""
    name = "resnet20v2_chaatac_b1_cifar10"
    params = folder / "net.params"
    shutil.copy(FOLDER / f"{name}.params", params)

    # What a description lacks is looked for in the data: of a part nothing is downloaded.
    for part in ("data_batch_1.bin", "train.bin"):
        (folder / part).touch()
    where = SimpleNamespace(model=None, dataset=None, data_dir=folder, data_url=None)

    def read(path):
        load_subjects([params], where, mx.cpu())

    options = train_cifar.make_parser().parse_args(["--act-type", "ChaATAC", "--blocks", "1"])
    content = {**describe(options), "epoch": 3, "val_name": "test",
               "figures": {"val_accuracy": 0.5, "val_loss": 1.5},
               "dataset": {"name": "cifar10", "classes": 10, "outputs": 10,
                           "class_names": ["a"] * 10, "mean": [0.5] * 3, "std": [0.2] * 3,
                           "image_size": 32}}
    return read, (UserError,), folder / "net.json", json.dumps(content).encode()


def _structure(folder):
    """A searched structure, and units of it."""
    def read(path):
        for factory in load_structure(path).attention()[:8]:
            if factory is not None:
                factory(16).initialize()

    content = Structure("resnet20", "CBAM", OPERATIONS, {"reduction": 4, "kernel_size": 3},
                        {"seed": 0, "epochs": 3}).content()
    return read, (ValueError,), folder / "structure.json", json.dumps(content).encode()


def _state(folder):
    """The state of a checkpoint: the true one, or none at all."""
    state = EngineState({"weight": np.ones((2, 3), np.float32)}, {}, {"weight": 0}, [0])
    path = save_checkpoint(folder, 1, state, {
        "epoch": 3, "rows": [{"epoch": 0, "lr": 0.1}], "best": None, "finished": False})
    expected = newest_checkpoint(folder, print)[1]

    def read(path):
        assert newest_checkpoint(folder, lambda line: None)[1] == expected
    return read, (CheckpointError,), path / "state.json", (path / "state.json").read_bytes()


def _binary(folder):
    """One of CIFAR-10's files."""
    cifar_files.write_set(folder, CIFAR10, per_file=3)

    def read(path):
        dataset = get_dataset("cifar10", folder)
        for images in (dataset.train, dataset.test):
            assert images.labels.min() >= 0 and images.labels.max() < 10
            assert images.images.shape == (len(images.labels), 3, 32, 32)

    path = folder / CIFAR10.train_files[2]
    return read, (UserError,), path, path.read_bytes()


def _class_names(folder):
    """The list of class names beside them."""
    read, errors, _, _ = _binary(folder)
    return read, errors, folder / CIFAR10.names_file, cifar_files.names_text(CIFAR10)


def _archive(folder):
    """The archive of CIFAR-10, damaged before or after it is compressed."""
    content, _ = cifar_files.archive(cifar_files.good_members(CIFAR10))
    out = folder / "in" / "out"
    optional = CIFAR10.max_bytes.keys() - set(CIFAR10.files)

    def read(path):
        shutil.rmtree(folder / "in", ignore_errors=True)
        out.mkdir(parents=True)
        try:
            unpack(path, out, CIFAR10.max_bytes, optional=optional)
        finally:
            written = list(folder.rglob("*"))
            assert not [p for p in written if p.is_symlink() and p != path]
            assert {p for p in written if p.is_file()} - {path} == set(out.iterdir())
            assert all(p.stat().st_size <= CIFAR10.max_bytes[p.name] for p in out.iterdir())
    return read, (UserError,), folder / "archive.tar.gz", content


def _records(folder, damaged="val.rec"):
    """A record file of photographs, or what lies beside it."""
    photo_files.write_tree(folder / "photos", train=1)
    pack(folder / "photos", folder / "rec", resize=40, workers=1, log=lambda line: None)

    def read(path):
        records = RecordFile(folder / "rec/val.rec")
        assert all(label >= 0 for label in records.labels)
        assert records.class_names()
        for number in range(len(records)):
            try:
                decode(records.content(number))
            except DataError as error:          # of which the readers make a line with the name
                assert str(error).strip()
        # To MXNet's own reader, which ends the process where it meets what it does not expect.
        batches = RecordBatches(records, 1, Decoding(24, workers=1))
        assert sum(len(labels) for _, labels, _ in batches.epoch(0)) == len(records)

    (folder / "rec/synset.txt").unlink()        # so that the list has a say
    path = folder / "rec" / damaged
    return read, (UserError,), path, path.read_bytes()


_HOSTILE_TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
                  tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE,
                  tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def mutate_archive(rng, content):
    kind = rng.random()
    if kind < 0.3:
        return mutate_bytes(rng, content)
    if kind < 0.7:
        return gzip.compress(mutate_bytes(rng, gzip.decompress(content)), 1)
    members = cifar_files.good_members(CIFAR10)
    name = rng.choice(("../escape", "/absolute", "cifar-10-batches-bin/data_batch_1.bin", "a\\b",
                       "cifar-10-batches-bin/../../x", "data_batch_1.bin", "x" * 300, "\udc80"))
    extra, text = cifar_files.member(name, b"evil", type=rng.choice(_HOSTILE_TYPES),
                                     linkname=rng.choice(("/etc/passwd", "..", "")))
    place = rng.randint(0, len(members))
    members[place:place] = [(extra, text)] * rng.choice((1, 1, 2, 3000))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=rng.choice((1, 2)),
                      errors="surrogateescape") as tar:
        for info, text in members:
            tar.addfile(info, io.BytesIO(text))
    if rng.random() < 0.5:
        return buffer.getvalue()
    content = bytearray(gzip.decompress(buffer.getvalue()))
    _claim(rng, content, 512 * rng.randrange(len(content) // 512))
    return gzip.compress(content, 1)


def _claim(rng, content, place):
    """Have a header at `place` say another size, under a sum that is right."""
    size = rng.choice((-1, 0, 511, 1 << 20, 8 ** 11 - 1, 1 << 40, 1 << 90))
    number = (b"%011o\0" % size if 0 <= size < 8 ** 11 else
              (b"\x80" if size > 0 else b"\xff") + (size % 256 ** 11).to_bytes(11, "big"))
    content[place + 124:place + 136] = number
    content[place + 148:place + 156] = b" " * 8
    content[place + 148:place + 156] = b"%06o\0 " % sum(content[place:place + 512])


KINDS = {"configurations": (_config, mutate_json),
         "network descriptions": (_description, mutate_json),
         "structures": (_structure, mutate_json),
         "checkpoint states": (_state, mutate_json),
         "CIFAR files": (_binary, mutate_bytes),
         "class names": (_class_names, mutate_bytes),
         "record files": (_records, mutate_bytes),
         **{f"{suffix} beside record files": (partial(_records, damaged=name), mutate_bytes)
            for suffix, name in (("indices", "val.idx"), ("lists", "val.lst"))},
         "archives": (_archive, mutate_archive)}


# ---- files that are no files -------------------------------------------------------------------

def _terabyte(path):
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)


# To open the first is to wait, to read the next two is to fill the memory.
SPECIAL = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"),
           "terabyte": _terabyte, "folder": Path.mkdir,
           "loop": lambda path: path.symlink_to(path)}


def special(kind, log=print):
    """Read what is no file in the place of one kind of file; a Counter as that of `fuzz`."""
    with tempfile.TemporaryDirectory() as folder:
        read, errors, path, content = KINDS[kind][0](Path(folder))
        counts = collections.Counter()
        for name, make in SPECIAL.items():
            path.unlink(missing_ok=True)
            make(path)
            with _patience():
                verdict, why = _verdict(read, errors, path)
            counts[verdict] += 1
            if verdict != "refused":
                log(f"{kind}, {name}: {verdict}: {why}")
            path.rmdir() if name == "folder" else path.unlink()
    return counts


# ---- counting ------------------------------------------------------------------------------------

def _too_slow(number, frame):
    raise TimeoutError(f"no end after {SECONDS} s")


@contextlib.contextmanager
def _patience():
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _verdict(read, errors, path):
    try:
        read(path)
    except errors as error:
        # As `run_script` prints it.
        line = " ".join(str(error).split())
        clear = line and len(line) < 20_000
        return ("refused", None) if clear else ("unclear line", repr(line[:200]))
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    return "read", None


def fuzz(kind, count, seed=0, log=print):
    """Try `count` mutations of one kind of file.

    Returns
    -------
    collections.Counter
        How many readings came to what; good are 'read' and 'refused' only.
    """
    prepare, mutate = KINDS[kind]
    rng, counts = random.Random(f"{kind} {seed}"), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        read, errors, path, content = prepare(Path(folder))
        path.write_bytes(content)
        read(path)
        for number in range(count):
            path.write_bytes(mutate(rng, content))
            with _patience():
                verdict, why = _verdict(read, errors, path)
            counts[verdict] += 1
            if why:
                log(f"{kind}, mutation {number} (seed {seed}): {verdict}: {why}")
    log(f"{count:,} mutations of {kind}: "
        + ", ".join(f"{number:,} {verdict}" for verdict, number in counts.most_common()))
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="mutations of each kind "
                                                               "(default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    options = parser.parse_args()
    bad = 0
    for kind in [options.kind] if options.kind else KINDS:
        counts = fuzz(kind, options.count, options.seed)
        counts += special(kind)
        bad += sum(counts.values()) - counts["read"] - counts["refused"]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
