"""MXNet's .params files, read and written without MXNet.

MXNet's parser believes what a file says: a shape that the file does not hold makes it allocate
or abort, a repeated name silently wins. Here every number is checked against the size of the
file before anything is allocated; what passes is read with NumPy.

The format, all numbers little-endian:

    uint64  0x112, uint64 0, uint64 count, then `count` records:
        uint32  0xF993FAC9 (MXNet 0.12 and later), or 0xF993FACA (NumPy semantics)
        int32   storage: 0 is dense
        int32   ndim, int64 shape[ndim]
        int32   device type, int32 device number
        int32   dtype
        the values
    uint64  count of names, then for each: uint64 length, UTF-8 text

Records of MXNet 0.11 (0xF993FAC8) have no storage; before that, a record began with
uint32 ndim, uint32 shape[ndim].
"""
import io
import math
import os
import struct
from collections import namedtuple

import numpy as np

from .errors import FileError, UserError
from .files import open_file, reason, replacing

__all__ = ["ParamsError", "Record", "check_params", "difference", "parse_params",
           "read_params", "write_params"]

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = tuple(map(np.dtype, ("float32", "float64", "float16", "uint8", "int32", "int8",
                               "int64", "bool")))
_DEVICES = {1, 2, 3, 5}         # CPU, GPU, pinned and shared CPU memory
# Far beyond any network, and so that a hostile file cannot take long.
_MAX_ARRAYS = 100_000
_MAX_DIMS = 16
_MAX_NAME_BYTES = 1024
_MAX_BYTES = 1 << 34

# Where an array's values are in a file; `name` is None where the file names no arrays.
Record = namedtuple("Record", "name dtype shape offset")


class ParamsError(UserError):
    """A file is no sound .params file; one line that says why, without the path."""


def check_params(path):
    """Check a whole .params file, of which only the headers are read.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    list of Record

    Raises
    ------
    ParamsError
        If the file cannot be read or is not what it should be to the last byte.
    """
    return _opened(path, lambda stream: _check(_Reader(stream)))


def read_params(path):
    """Check a .params file and read it.

    Returns
    -------
    dict of str to numpy.ndarray
        Empty if the file holds nothing.

    Raises
    ------
    ParamsError
        As `check_params`; also if the arrays have no names.
    """
    return _opened(path, _read)


def _opened(path, read):
    try:
        with open_file(path, _MAX_BYTES) as stream:
            return read(stream)
    except (FileError, OSError) as error:
        raise ParamsError(reason(error.__cause__ or error)) from None


def parse_params(content):
    """As `read_params`, from the bytes of a file."""
    return _read(io.BytesIO(content))


def _read(stream):
    records = _check(_Reader(stream))
    if records and records[0].name is None:
        raise ParamsError("its arrays have no names; it was not written by save_parameters")
    return {record.name: _values(stream, record) for record in records}


def _values(stream, record):
    stream.seek(record.offset)
    values = np.empty(record.shape, record.dtype)
    stream.readinto(memoryview(values.reshape(-1).view(np.uint8)))
    return values


def write_params(path, arrays):
    """Write a .params file as MXNet's ``save_parameters`` does, atomically.

    Parameters
    ----------
    path : str or pathlib.Path
    arrays : dict of str to numpy.ndarray
        Of the types that the format has; of at least one dimension.
    """
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(struct.pack("<QQQ", _MAGIC, 0, len(arrays)))
        for array in arrays.values():
            shape, flag = array.shape, _DTYPES.index(array.dtype)
            stream.write(struct.pack(f"<Iii{len(shape)}qiii", _V2, 0, len(shape), *shape, 1, 0,
                                     flag))
            stream.write(np.ascontiguousarray(array).data)
        stream.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            content = name.encode()
            stream.write(struct.pack("<Q", len(content)) + content)


class _Reader:
    """Reads numbers, and knows where the file ends."""

    def __init__(self, stream):
        self.stream, self.size = stream, stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self.where = "header"

    @property
    def left(self):
        return self.size - self.stream.tell()

    def bytes(self, count):
        content = self.stream.read(count) if count <= self.left else b""
        if len(content) != count:
            raise ParamsError(f"it ends inside its {self.where}, after {self.size:,} bytes")
        return content

    def numbers(self, layout):
        return struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))

    def number(self, layout):
        return self.numbers(layout)[0]

    def skip(self, count):
        self.stream.seek(count, os.SEEK_CUR)


def _check(reader):
    _refuse_others(reader)
    magic, reserved, count = reader.numbers("QQQ")
    if magic != _MAGIC:
        raise ParamsError("it is not a .params file: it does not begin as MXNet's files do")
    if reserved:
        raise ParamsError(f"its header is damaged (reserved field {reserved:#x})")
    if count > _MAX_ARRAYS:
        raise ParamsError(f"it claims to hold {count:,} arrays; the most accepted is "
                          f"{_MAX_ARRAYS:,}")
    records = [_check_record(reader, number) for number in range(count)]
    names = _check_names(reader, count)
    if reader.left:
        raise ParamsError(f"{reader.left:,} bytes follow its end")
    return [record._replace(name=name) for record, name in zip(records, names)]


def _refuse_others(reader):
    """Say what a file is that users may mistake for a .params file."""
    start = reader.stream.read(2)
    reader.stream.seek(0)
    if start[:1] == b"\x80":
        raise ParamsError(
            "it is a Python pickle, as MXNet's .states files are: loading one can run any "
            "program hidden in it, so none is ever loaded. Go on with --resume, whose "
            "checkpoints hold the optimizer as plain arrays, or start from a .params file")
    if start == b"PK":
        raise ParamsError("it is a ZIP archive, as those of NumPy and PyTorch are, not a "
                          ".params file of MXNet")


def _check_record(reader, number):
    reader.where = f"array {number}"
    shape = _check_shape(reader, number)
    device, _, flag = reader.numbers("iii")
    if device not in _DEVICES:
        raise ParamsError(f"array {number} is of an unknown device (type {device})")
    if not 0 <= flag < len(_DTYPES):
        raise ParamsError(f"array {number} is of an unknown type ({flag})")
    dtype = _DTYPES[flag]
    length = math.prod(shape) * dtype.itemsize
    if length > reader.left:
        raise ParamsError(f"array {number}, {dtype} of shape {shape}, has {length:,} bytes, but "
                          f"{reader.left:,} are left in the file")
    record = Record(None, dtype, shape, reader.stream.tell())
    reader.skip(length)
    return record


def _check_shape(reader, number):
    magic = reader.number("I")
    if magic in (_V1, _V2, _V3):
        storage = 0 if magic == _V1 else reader.number("i")
        if storage != 0:
            raise ParamsError(f"array {number} is not stored densely (storage type {storage})")
        ndim, unit = reader.number("i"), "q"
    else:
        ndim, unit = magic, "I"
    if not 1 <= ndim <= _MAX_DIMS:
        raise ParamsError(f"array {number} has {ndim} dimensions; 1 to {_MAX_DIMS} are possible")
    shape = reader.numbers(f"{ndim}{unit}")
    if min(shape) < 1:
        raise ParamsError(f"array {number} has the impossible shape {shape}")
    return shape


def _check_names(reader, arrays):
    """The arrays' names, or Nones if there are no names at all."""
    reader.where = "list of names"
    count = reader.number("Q")
    if count == 0:
        return [None] * arrays
    if count != arrays:
        raise ParamsError(f"it holds {arrays:,} arrays, but {count:,} names")
    names = {}
    for number in range(count):
        name = _check_name(reader, number)
        if name in names:
            raise ParamsError(f"it holds {name!r} twice, as arrays {names[name]} and {number}")
        names[name] = number
    return list(names)


def _check_name(reader, number):
    length = reader.number("Q")
    if not 1 <= length <= _MAX_NAME_BYTES:
        raise ParamsError(f"the name of array {number} has {length:,} bytes; 1 to "
                          f"{_MAX_NAME_BYTES:,} are possible")
    try:
        name = reader.bytes(length).decode("utf-8")
    except UnicodeDecodeError:
        raise ParamsError(f"the name of array {number} is not UTF-8 text") from None
    if not name.isprintable():
        raise ParamsError(f"the name of array {number} is not printable: {name!r}")
    return name


def difference(shapes, arrays):
    """How arrays first differ, by name, from those of a network.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        The network's.
    arrays : dict of str to array

    Returns
    -------
    str or None
        A clause of which "it" is what holds the arrays; None if names and shapes are the same.
    """
    for name in sorted(shapes.keys() | arrays.keys()):
        if name not in arrays:
            return f"{name} is not in it"
        if name not in shapes:
            return f"the network has no {name}"
        if arrays[name].shape != tuple(shapes[name]):
            return f"{name} is {arrays[name].shape}, not {tuple(shapes[name])}"
    return None
