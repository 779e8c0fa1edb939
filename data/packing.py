"""Folders of images -> RecordIO files, and their verification: the command of data.imagenet.

MXNet's own im2rec.py packs what OpenCV decodes and prints a trace for the rest, leaves EXIF
rotation and truncated files to chance, and writes in place. So the images are decoded here,
and MXNet only writes the records.
"""
import argparse
import contextlib
import io
import os
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.dataset import DataError
from data.imagenet import RecordFile
from data.photos import decode, list_photos
from data.streams import permutation
from training.options import int32, seed

__all__ = ["pack", "verify", "make_index", "main"]

_REPORT_PERIOD_S = 5.0


def main(argv=None):
    """``python -m data.imagenet``; returns the exit code."""
    options = make_parser().parse_args(argv)
    return options.action(options)


def make_parser():
    parser = argparse.ArgumentParser(prog="python -m data.imagenet", allow_abbrev=False,
                                     description="RecordIO files of images.")
    commands = parser.add_subparsers(required=True, metavar="pack|verify|index")

    command = commands.add_parser("pack", help="pack FOLDER/train/<class>/ and FOLDER/val/<class>/")
    command.add_argument("folder", metavar="FOLDER", help="holds train/ and, usually, val/")
    command.add_argument("out", metavar="OUT", help="folder to make: train.rec, val.rec, "
                         "their .idx and .lst, synset.txt; skipped.txt if need be")
    command.add_argument("--resize", type=int32, default=480, metavar="PX",
                         help="shrink the shorter side to this; never enlarges; 0 keeps the "
                              "size (default: 480)")
    command.add_argument("--quality", type=int, default=95, metavar="Q", choices=range(1, 101),
                         help="of the JPEGs, 1 to 100 (default: 95)")
    command.add_argument("-j", "--num-workers", type=int32, default=4, metavar="N",
                         help="threads (default: 4)")
    command.add_argument("--seed", type=seed, default=0, metavar="N",
                         help="of the training records' order")
    command.set_defaults(action=lambda o: pack(o.folder, o.out, o.resize, o.quality,
                                               o.num_workers, o.seed))

    command = commands.add_parser("verify", help="read and decode record by record")
    command.add_argument("out", metavar="OUT", help="folder with .rec files, or one .rec file")
    command.add_argument("-j", "--num-workers", type=int32, default=4, metavar="N",
                         help="threads (default: 4)")
    command.set_defaults(action=lambda o: verify(o.out, o.num_workers))

    command = commands.add_parser("index", help="write the missing .idx of a record file")
    command.add_argument("rec", metavar="FILE.rec")
    command.set_defaults(action=lambda o: make_index(o.rec))
    return parser


@contextlib.contextmanager
def _writing(folder):
    """Turn whatever a full or read-only disk makes of the block into a DataError."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    from mxnet import MXNetError

    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from None
    except MXNetError:
        raise DataError(f"cannot write to {folder}: a record is not on the disk as a whole; is "
                        "it full?") from None


class _Report:
    """A line now and then: how many of how many, how fast."""

    def __init__(self, what, total, log):
        self.what, self.total, self.log = what, total, log
        self.start = self.shown = time.monotonic()

    def __call__(self, done, last=False):
        now = time.monotonic()
        if last or now - self.shown >= _REPORT_PERIOD_S:
            self.shown = now
            rate = done / max(now - self.start, 1e-9)
            self.log(f"{self.what}: {done:,} of {self.total:,} images, {rate:,.0f} images/s")


def _results(function, items, workers):
    """``function(item)`` of each item, in order, by threads that run only a little ahead.

    Threads serve: Pillow decodes, resizes and encodes without holding Python's lock.
    """
    items = iter(items)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 8 * max(workers, 1):
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


# ---- pack --------------------------------------------------------------------------------------

def pack(folder, out, resize=480, quality=95, workers=4, seed=0, log=print):
    """Pack a folder of images.

    The training records are shuffled once, so that every part of the file, which may become
    one worker's, has all classes.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``train/<class>/...`` and, usually, ``val/<class>/...``.
    out : str or pathlib.Path
        Folder to make; appears when all is done.
    resize : int, default 480
        Longest permitted shorter side in pixels; 0 permits all.
    quality : int, default 95
        JPEG quality.
    workers : int, default 4
        Threads.
    seed : int, default 0
        Of the order of the training records.
    log : callable, default print
        Receives lines of text.

    Returns
    -------
    int
        0.

    Raises
    ------
    DataError
        If there is nothing to pack, `out` is in use, or it cannot be written.
    """
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    if not (folder / "train").is_dir():
        raise DataError(f"there is no folder {folder / 'train'}: the images belong into "
                        f"{folder}/train/<class>/ and {folder}/val/<class>/")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already; choose another folder or delete it")
    wnids, train = list_photos(folder / "train")
    sets = {"train": [train[k] for k in permutation(len(train), seed, "pack")]}
    if (folder / "val").is_dir():
        val_wnids, sets["val"] = list_photos(folder / "val")
        strange = sorted(set(val_wnids) - set(wnids))
        if strange:
            raise DataError(f"{folder / 'val'} has {len(strange)} classes that train/ lacks "
                            f"({', '.join(strange[:3])} ...)")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with _writing(out.parent):
            partial.mkdir(parents=True)
            _write_all(folder, partial, wnids, sets, (resize, quality), workers, log)
            if out.is_dir():
                out.rmdir()
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log(f"packed into {out}")
    return 0


def _write_all(folder, partial, wnids, sets, settings, workers, log):
    (partial / "synset.txt").write_text("".join(f"{wnid}\n" for wnid in wnids), encoding="utf-8")
    skipped = []
    for name, photos in sets.items():
        if not photos:
            raise DataError(f"{folder / name} holds no images")
        skipped += _write_records(folder / name, partial / name, wnids, photos, settings,
                                  workers, log)
    if skipped:
        (partial / "skipped.txt").write_text("".join(f"{line}\n" for line in skipped),
                                             encoding="utf-8")
        for line in skipped[:10]:
            log(f"skipped {line}")
        log(f"{len(skipped):,} images could not be decoded and were skipped; skipped.txt lists "
            "them")


def _write_records(source, target, wnids, photos, settings, workers, log):
    """Write target.rec, .idx and .lst; returns a line for each image that was skipped."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    from mxnet import recordio

    labels = {wnid: k for k, wnid in enumerate(wnids)}
    report, skipped, number = _Report(source.name, len(photos), log), [], 0
    writer = recordio.MXIndexedRecordIO(f"{target}.idx", f"{target}.rec", "w")
    encoded = _results(lambda photo: _encode(source / photo[1], *settings), photos, workers)
    with contextlib.closing(writer), open(f"{target}.lst", "w", encoding="utf-8") as listing:
        for done, ((wnid, path), (content, problem)) in enumerate(zip(photos, encoded), 1):
            if problem:
                skipped.append(f"{source.name}/{path}: {problem}")
            else:
                header = recordio.IRHeader(0, float(labels[wnid]), number, 0)
                writer.write_idx(number, recordio.pack(header, content))
                listing.write(f"{number}\t{labels[wnid]}\t{path}\n")
                number += 1
            report(done, last=done == len(photos))
    if not number:
        raise DataError(f"none of the images in {source} can be decoded: {skipped[0]}")
    for suffix in ("rec", "idx", "lst"):
        with open(f"{target}.{suffix}", "rb+") as stream:
            os.fsync(stream.fileno())
    return skipped


def _encode(path, resize, quality):
    """(JPEG bytes, None), or (None, why not)."""
    from PIL import Image

    try:
        image = decode(path.read_bytes())
    except (OSError, ValueError) as error:
        return None, str(error)
    if resize and min(image.size) > resize:
        scale = resize / min(image.size)
        image = image.resize(tuple(max(round(side * scale), resize) for side in image.size),
                             Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue(), None


# ---- verify and index --------------------------------------------------------------------------

def verify(out, workers=4, log=print):
    """Read and decode every record of the .rec files in a folder, or of one file.

    Returns
    -------
    int
        0 if all are sound, 1 if not; the unsound ones are logged.
    """
    out = Path(out).expanduser()
    files = [out] if out.suffix == ".rec" else sorted(out.glob("*.rec"))
    if not files:
        raise DataError(f"there are no .rec files in {out}")
    problems = 0
    for path in files:
        records = RecordFile(path)
        classes = len(records.class_names())
        report = _Report(path.name, len(records), log)
        checks = _results(lambda k, r=records, c=classes: _problem(r, k, c),
                          range(len(records)), workers)
        for done, problem in enumerate(checks, 1):
            if problem:
                problems += 1
                log(f"{records.name(done - 1)}: {problem}")
            report(done, last=done == len(records))
        if records.listing and len(records.listing) != len(records):
            problems += 1
            log(f"{path.with_suffix('.lst')} lists {len(records.listing):,} images, the index "
                f"{len(records):,}")
        log(f"{path.name}: {len(records):,} records, {classes:,} classes")
    log(f"{problems:,} problems" if problems else "all records are sound")
    return 1 if problems else 0


def _problem(records, number, classes):
    """What is wrong with a record, or None."""
    try:
        header, content = records.unpack(number)
        label = int(header.label if header.flag == 0 else header.label[0])
        decode(content)
    except ValueError as error:
        return str(error)
    if not 0 <= label < classes:
        return f"its label is {label}, but there are {classes} classes"
    key = int(records.keys[number])
    if header.id != key:
        return f"it calls itself record {header.id}"
    if key in records.listing and records.listing[key][0] != label:
        return f"its label is {label}, the list says {records.listing[key][0]}"
    return None


def make_index(rec, log=print):
    """Write the .idx file of a record file, atomically; returns 0.

    Raises
    ------
    DataError
        If the record file is missing or damaged, or the index cannot be written.
    """
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    rec = Path(rec).expanduser()
    if not rec.is_file():
        raise DataError(f"there is no file {rec}")
    reader = mx.recordio.MXRecordIO(str(rec), "r")
    place, lines = mx.base.ctypes.c_size_t(), []
    try:
        while True:
            mx.base.check_call(mx.base._LIB.MXRecordIOReaderTell(
                reader.handle, mx.base.ctypes.byref(place)))
            record = reader.read()
            if record is None:
                break
            lines.append(f"{mx.recordio.unpack(record)[0].id}\t{place.value}\n")
    except (mx.MXNetError, struct.error) as error:
        raise DataError(f"{rec} is damaged after {len(lines):,} records: "
                        f"{str(error).strip().splitlines()[-1]}") from None
    finally:
        reader.close()
    target = rec.with_suffix(".idx")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _writing(target.parent):
            temporary.write_text("".join(lines))
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    log(f"{target}: {len(lines):,} records")
    return 0
