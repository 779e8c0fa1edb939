"""Folders of images -> RecordIO files, and their verification: the command of data.imagenet.

MXNet's own im2rec.py packs what OpenCV decodes and prints a trace for the rest, leaves EXIF
rotation and truncated files to chance, and writes in place.
"""
import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from common.arguments import Parser, natural, seed, threads, whole_number
from common.errors import DataError, UserError
from common.files import home_path, open_file, read_bytes, scratch_folder, write_text, writing
from common.progress import Progress
from common.screen import printable
from data.decoding import MOST_BYTES, decode, turned_in_evaluation_alone
from data.imagenet import RecordFile
from data.photos import list_photos
from data.recordio import image_record, read_head, write_record
from data.streams import permutation

__all__ = ["pack", "verify", "make_index", "main"]

_LONGEST_JPEG_SIDE = 65_500     # of libjpeg


def main(argv=None):
    """``python -m data.imagenet``; returns the exit code."""
    options = make_parser().parse_args(argv)
    return options.action(options)


def make_parser():
    parser = Parser(prog="python -m data.imagenet", description="RecordIO files of images.")
    commands = parser.add_subparsers(required=True, metavar="pack|verify|index")

    command = commands.add_parser("pack", help="pack FOLDER/train/<class>/ and FOLDER/val/<class>/")
    command.add_argument("folder", metavar="FOLDER", help="holds train/ and, usually, val/")
    command.add_argument("out", metavar="OUT", help="folder to make: train.rec, val.rec, "
                         "their .idx and .lst, synset.txt; skipped.txt if need be")
    command.add_argument("--resize", type=natural, default=480, metavar="PX",
                         help="shrink the shorter side to this; never enlarges; 0 keeps the size")
    command.add_argument("--quality", type=whole_number(1, 100), default=95, metavar="Q",
                         help="of the JPEGs, 1 to 100")
    command.add_argument("-j", "--num-workers", type=threads, default=4, metavar="N",
                         help="threads")
    command.add_argument("--seed", type=seed, default=0, metavar="N",
                         help="of the training records' order")
    command.set_defaults(action=lambda o: pack(o.folder, o.out, o.resize, o.quality,
                                               o.num_workers, o.seed))

    command = commands.add_parser("verify", help="read and decode record by record")
    command.add_argument("out", metavar="OUT", help="folder with .rec files, or one .rec file")
    command.add_argument("-j", "--num-workers", type=threads, default=4, metavar="N",
                         help="threads")
    command.set_defaults(action=lambda o: verify(o.out, o.num_workers))

    command = commands.add_parser("index", help="write the missing .idx of a record file")
    command.add_argument("rec", metavar="FILE.rec")
    command.set_defaults(action=lambda o: make_index(o.rec))
    return parser


def _results(function, items, workers):
    """``function(item)`` of each item, in order, by threads that run only a little ahead.

    Threads serve: Pillow decodes, resizes and encodes without holding Python's lock.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * max(workers, 1):
                yield waiting.popleft().result()
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
    folder, out = home_path(folder), home_path(out)
    if not os.path.isdir(folder / "train"):
        raise DataError(f"there is no folder {folder / 'train'}: the images belong into "
                        f"{folder}/train/<class>/ and {folder}/val/<class>/")
    with writing(out):
        in_use = os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir()))
    if in_use:
        raise DataError(f"{out} is there already; choose another folder or delete it")
    wnids, train, unused = list_photos(folder / "train", log)
    sets = {"train": [train[k] for k in permutation(len(train), seed, "pack")]}
    skipped = [f"train/{line}" for line in unused]
    if os.path.isdir(folder / "val"):
        val_wnids, sets["val"], unused = list_photos(folder / "val", log)
        skipped += [f"val/{line}" for line in unused]
        strange = sorted(set(val_wnids) - set(wnids))
        if strange:
            raise DataError(f"{folder / 'val'} has {len(strange)} classes that train/ lacks "
                            f"({', '.join(strange[:3])} ...)")
    with writing(out.parent), scratch_folder(out.parent, out.name) as partial:
        _write_all(folder, partial, wnids, sets, skipped, (resize, quality), workers, log)
        if out.is_dir():
            out.rmdir()
        os.replace(partial, out)
    log(f"packed into {out}")
    return 0


def _write_all(folder, partial, wnids, sets, skipped, settings, workers, log):
    (partial / "synset.txt").write_text("".join(f"{wnid}\n" for wnid in wnids), encoding="utf-8")
    undecoded = []
    for name, photos in sets.items():
        if not photos:
            raise DataError(f"{folder / name} holds no images")
        undecoded += _write_records(folder / name, partial / name, wnids, photos, settings,
                                    workers, log)
    for line in undecoded[:10]:
        log(f"skipped {line}")
    if undecoded:
        log(f"{len(undecoded):,} images could not be decoded and were skipped")
    if undecoded or skipped:
        (partial / "skipped.txt").write_text(
            "".join(f"{line}\n" for line in undecoded + skipped), encoding="utf-8")
        log("skipped.txt lists what was not packed")


def _write_records(source, target, wnids, photos, settings, workers, log):
    """Write target.rec, .idx and .lst; returns a line for each image that was skipped."""
    labels = {wnid: k for k, wnid in enumerate(wnids)}
    skipped, number = [], 0
    encoded = _results(lambda photo: _encode(source / photo[1], *settings), photos, workers)
    with (open(f"{target}.rec", "wb") as records,
          open(f"{target}.idx", "w", encoding="utf-8") as index,
          open(f"{target}.lst", "w", encoding="utf-8") as listing,
          closing(Progress(source.name, len(photos))) as progress):
        for done, ((wnid, path), (content, problem)) in enumerate(zip(photos, encoded), 1):
            name = printable(path)      # on one line, whatever it holds
            if problem:
                skipped.append(f"{source.name}/{name}: {problem}")
            else:
                place = write_record(records, image_record(labels[wnid], number, content))
                index.write(f"{number}\t{place}\n")
                listing.write(f"{number}\t{labels[wnid]}\t{name}\n")
                number += 1
            progress.update(done, 1)
        if not number:
            raise DataError(f"none of the images in {source} can be decoded: {skipped[0]}")
        for stream in (records, index, listing):
            stream.flush()
            os.fsync(stream.fileno())
    log(f"{source.name}: {number:,} of {len(photos):,} images")
    return skipped


def _encode(path, resize, quality):
    """(JPEG bytes, None), or (None, why not)."""
    from PIL import Image

    try:
        image = decode(read_bytes(path, MOST_BYTES))
        if resize and min(image.size) > resize:
            scale = resize / min(image.size)
            image = image.resize(tuple(max(round(side * scale), resize) for side in image.size),
                                 Image.Resampling.BICUBIC)
        if max(image.size) > _LONGEST_JPEG_SIDE:
            raise DataError(f"its {image.width:,} x {image.height:,} pixels are too long for a "
                            f"JPEG, which has at most {_LONGEST_JPEG_SIDE:,} on a side")
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
    except UserError as error:
        return None, str(error)
    except MemoryError:
        return None, "not enough memory"
    return content.getvalue(), None


# ---- verify and index --------------------------------------------------------------------------

def verify(out, workers=4, log=print):
    """Read and decode every record of the .rec files in a folder, or of one file.

    Returns
    -------
    int
        0 if all are sound, 1 if not; the unsound ones are logged.
    """
    out = home_path(out)
    files = [out] if out.suffix == ".rec" else (
        sorted(out.glob("*.rec")) if os.path.isdir(out) else [])
    if not files:
        raise DataError(f"there are no .rec files in {out}")
    problems = 0
    for path in files:
        try:
            problems += _verify_file(path, workers, log)
        except UserError as error:      # of one file, which costs the others nothing
            log(str(error))
            problems += 1
    log(f"{problems:,} problems" if problems else "all records are sound")
    return 1 if problems else 0


def _verify_file(path, workers, log):
    """The number of problems of a record file; they are logged."""
    records = RecordFile(path)
    classes, problems = len(records.class_names()), 0
    checks = _results(lambda k: _problem(records, k, classes), range(len(records)), workers)
    with closing(Progress(path.name, len(records))) as progress:
        for done, problem in enumerate(checks, 1):
            if problem:
                problems += 1
                progress.close()    # its bar makes room
                log(f"{records.name(done - 1)}: {problem}")
            progress.update(done, 1)
    if records.listing and len(records.listing) != len(records):
        problems += 1
        log(f"{path.with_suffix('.lst')} lists {len(records.listing):,} images, the index "
            f"{len(records):,}")
    log(f"{path.name}: {len(records):,} records, {classes:,} classes")
    return problems


def _problem(records, number, classes):
    """What is wrong with a record, or None."""
    try:
        header, content = records.unpack(number)
        decode(content)
        turned = turned_in_evaluation_alone(content)
    except DataError as error:
        return str(error)
    key = int(records.keys[number])
    if header.label >= classes:
        return f"its label is {header.label}, but there are {classes} classes"
    if header.number not in (key, 0):       # some packers number none
        return f"it calls itself record {header.number}"
    if key in records.listing and records.listing[key][0] != header.label:
        return f"its label is {header.label}, the list says {records.listing[key][0]}"
    if turned:
        return ("its orientation is noted where evaluation heeds it and training does not; pack "
                "the images anew")
    return None


def make_index(rec, log=print):
    """Write the .idx file of a record file, atomically; returns 0.

    Records have the numbers that they were packed as, unless one comes twice: some packers give
    all of them 0. Then they are counted.

    Raises
    ------
    DataError
        If the record file is missing or damaged, or the index cannot be written.
    """
    rec = home_path(rec)
    place, places, numbers = 0, [], []
    with open_file(rec) as stream:
        size = os.fstat(stream.fileno()).st_size
        while place < size:
            try:
                header, after = read_head(stream.fileno(), place)
            except DataError as error:
                raise DataError(f"{rec} is damaged after {len(places):,} records: {error}"
                                ) from None
            places.append(place)
            numbers.append(header.number)
            place = after
    if len(set(numbers)) < len(numbers):
        numbers = range(len(places))
    target = rec.with_suffix(".idx")
    with writing(target.parent):
        write_text(target, "".join(f"{key}\t{start}\n" for key, start in zip(numbers, places)))
    log(f"{target}: {len(places):,} records")
    return 0
