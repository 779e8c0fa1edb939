"""RecordIO files, byte by byte: what MXNet's reader and writer do, without their ways to fail.

A record is one part or several, each a magic number, a word (kind in the upper 3 bits, length
in the others), so many bytes, and zeros up to a multiple of 4. Where the magic number stands in
the content, at a multiple of 4, the content is cut and the number left out: kind 1 begins such a
record, 2 goes on, 3 ends it; kind 0 is a record of one part. An image record's content is the
header of MXNet's `IRHeader`, its labels if they are several, and the image file.

MXNet's own reader ends the process where a record is not what it expects.
"""
import os
import struct
from dataclasses import dataclass

from common.errors import DataError
from data.decoding import MOST_BYTES

__all__ = ["Header", "image_record", "read_head", "read_image_record", "write_record"]

_MAGIC = b"\x0a\x23\xd7\xce"
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")     # number of labels (0: the next), label, two identities
_LENGTH_BITS = 29


@dataclass(frozen=True)
class Header:
    """What precedes the image in a record: its (first) label, and the number it was packed as."""

    label: float
    number: int


def image_record(label, number, content):
    """The content of a record: an image file with its label."""
    return _HEADER.pack(0, label, number, 0) + content


def write_record(stream, content):
    """Append a record; returns where it begins."""
    place, start, cut = stream.tell(), 0, content.find(_MAGIC)
    while cut >= 0:
        if cut % 4 == 0:
            _write_part(stream, 1 if start == 0 else 2, content[start:cut])
            start = cut + 4
        cut = content.find(_MAGIC, max(start, cut + 1))
    _write_part(stream, 3 if start else 0, content[start:])
    return place


def _write_part(stream, kind, content):
    stream.write(_PART.pack(_MAGIC, kind << _LENGTH_BITS | len(content)))
    stream.write(content)
    stream.write(bytes(-len(content) % 4))


def _parts(descriptor, place):
    """Yield (place, length) of the bytes of each part of the record at `place`."""
    size, expected = os.fstat(descriptor).st_size, (0, 1)
    while expected:
        head = os.pread(descriptor, _PART.size, place)
        magic, word = _PART.unpack(head.ljust(_PART.size, b"\0"))
        kind, length = word >> _LENGTH_BITS, word & (1 << _LENGTH_BITS) - 1
        if magic != _MAGIC or kind not in expected:
            raise DataError(f"no record starts at byte {place:,}")
        if place + _PART.size + length > size:
            raise DataError(f"the file ends within the record at byte {place:,}")
        yield place + _PART.size, length
        place += _PART.size + length + -length % 4
        expected = (2, 3) if kind in (1, 2) else ()


def _header(content, length):
    """Header of a record from its first bytes, and where its image begins."""
    if length < _HEADER.size:
        raise DataError("the record is too short for its header")
    several, label, number, _ = _HEADER.unpack_from(content)
    start = _HEADER.size + 4 * several
    if several:
        if length < start:
            raise DataError("the record is too short for its labels")
        label, = struct.unpack_from("<f", content, _HEADER.size)
    if not 0 <= label < 1 << 24 or label != int(label):
        raise DataError(f"its label is {label}")
    return Header(int(label), number), start


def read_head(descriptor, place):
    """Header of the image record at `place`, and where the next record begins.

    Raises
    ------
    DataError
        If there is no image record; the text leaves the file's name to the caller.
    """
    (first, length), *others = _parts(descriptor, place)
    end, count = others[-1] if others else (first, length)
    head = os.pread(descriptor, min(length, _HEADER.size + 4), first)
    total = length + sum(4 + part for _, part in others)
    header, _ = _header(head.ljust(_HEADER.size + 4, b"\0"), total)
    return header, end + count + -count % 4


def read_image_record(descriptor, place):
    """Header and image file of the record at `place`; errors as those of `read_head`."""
    parts, total = [], 0
    for start, length in _parts(descriptor, place):
        total += length + 4
        if total > MOST_BYTES:
            raise DataError(f"the record at byte {place:,} has more than {MOST_BYTES:,} bytes")
        parts.append(os.pread(descriptor, length, start))
    content = _MAGIC.join(parts)
    header, start = _header(content, len(content))
    return header, content[start:]
