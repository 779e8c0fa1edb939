"""Records read and written here are those of MXNet's reader and writer."""
import io
import struct

import model.mxnet_compat  # noqa: F401  (comes before mxnet)
import mxnet as mx
import numpy as np
import pytest

from common.errors import DataError
from data import recordio

MAGIC = struct.pack("<I", 0xCED7230A)
CONTENTS = [b"", b"a", b"abcd", MAGIC, b"ab" + MAGIC + b"cd", b"abcd" + MAGIC + b"efg",
            MAGIC * 3, b"abcd" + MAGIC * 2 + b"x" * 5 + MAGIC, b"\x0a" * 9 + MAGIC + b"1234",
            np.random.default_rng(0).bytes(1001)]


@pytest.fixture
def records(tmp_path):
    """A file of image records by our writer, their places, and the open file."""
    with open(tmp_path / "ours.rec", "wb") as stream:
        places = [recordio.write_record(stream, recordio.image_record(k % 3, k, content))
                  for k, content in enumerate(CONTENTS)]
    with open(tmp_path / "ours.rec", "rb") as stream:
        yield tmp_path / "ours.rec", places, stream.fileno()


def test_the_writer_writes_the_bytes_of_mxnet_s(records):
    path, places, _ = records
    theirs = path.with_name("theirs.rec")
    writer = mx.recordio.MXIndexedRecordIO(str(theirs.with_suffix(".idx")), str(theirs), "w")
    for k, content in enumerate(CONTENTS):
        header = mx.recordio.IRHeader(0, float(k % 3), k, 0)
        writer.write_idx(k, mx.recordio.pack(header, content))
    writer.close()
    assert path.read_bytes() == theirs.read_bytes()
    lines = theirs.with_suffix(".idx").read_text().splitlines()
    assert [int(line.split("\t")[1]) for line in lines] == places


def test_the_reader_reads_what_was_written(records):
    path, places, descriptor = records
    ends = [*places[1:], path.stat().st_size]
    for k, (content, place, end) in enumerate(zip(CONTENTS, places, ends)):
        header, image = recordio.read_image_record(descriptor, place)
        assert (header.label, header.number, image) == (k % 3, k, content)
        assert recordio.read_head(descriptor, place) == (header, end)


def test_labels_in_a_row_give_the_first(tmp_path):
    record = mx.recordio.pack(mx.recordio.IRHeader(0, [7.0, 2.0], 5, 0), b"image")
    with open(tmp_path / "x.rec", "w+b") as stream:
        recordio.write_record(stream, record)
        stream.flush()
        header, image = recordio.read_image_record(stream.fileno(), 0)
    assert (header.label, header.number, image) == (7, 5, b"image")


@pytest.mark.parametrize("label", [float("nan"), float("inf"), -1.0, 1.5, 2.0 ** 24])
def test_labels_that_are_none(label, tmp_path):
    with open(tmp_path / "x.rec", "w+b") as stream:
        recordio.write_record(stream, recordio.image_record(label, 0, b"image"))
        stream.flush()
        for read in (recordio.read_head, recordio.read_image_record):
            with pytest.raises(DataError, match="its label is"):
                read(stream.fileno(), 0)


def _part(kind, content):
    stream = io.BytesIO()
    recordio._write_part(stream, kind, content)
    return stream.getvalue()


@pytest.mark.parametrize("content, place, message", [
    (b"", 0, "no record starts"),
    (_part(0, bytes(40)), 4, "no record starts"),
    (_part(2, bytes(40)), 0, "no record starts"),
    (_part(1, bytes(40)), 0, "no record starts at byte 48"),
    (_part(1, bytes(40)) + _part(0, bytes(40)), 0, "no record starts at byte 48"),
    (_part(0, bytes(40))[:-8], 0, "the file ends within"),
    (MAGIC + struct.pack("<I", (1 << 29) - 1), 0, "the file ends within"),
    (_part(0, b"short"), 0, "too short for its header"),
    (_part(0, struct.pack("<IfQQ", 1 << 31, 0, 0, 0)), 0, "too short for its labels"),
])
def test_what_is_no_record(content, place, message, tmp_path):
    (tmp_path / "x.rec").write_bytes(content)
    with open(tmp_path / "x.rec", "rb") as stream:
        for read in (recordio.read_head, recordio.read_image_record):
            with pytest.raises(DataError, match=message):
                read(stream.fileno(), place)
