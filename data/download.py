"""Fetch an archive over the network and unpack the files that are expected in it.

Neither trusts the other end: a transfer is bounded in time and size and checked against
an MD5 sum before anything is read from it, and unpacking reads a bounded number of plain
members, none larger than it is known to be, and writes the expected names only, into one folder.
"""
import contextlib
import hashlib
import http.client
import io
import os
import re
import tarfile
import threading
import time
import urllib.parse
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

from common.errors import DataError, UserError
from common.files import open_file
from common.progress import Progress

__all__ = ["fetch", "unpack"]

TIMEOUT_S = 30
DEADLINE_S = 3600
MAX_ARCHIVE_BYTES = 1 << 30
MAX_MEMBERS = 100
_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 512              # of tar
_MAX_NOTE_BYTES = 1 << 16       # of what the formats after the first one added to a member
_SPARE_BYTES = 1 << 24          # of members that are not expected, together
_NOTES = frozenset((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
                    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK))
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


def fetch(url, md5, path, log=print, timeout_s=TIMEOUT_S, deadline_s=DEADLINE_S):
    """Download `url` to `path` and check it.

    Parameters
    ----------
    url : str
        http, https or file. A fragment ``#md5=HEX`` replaces `md5`: that is how a mirror
        of another archive states its own sum.
    md5 : str
        Expected MD5 sum, 32 hexadecimal digits.
    path : path
        File to write. On an error it may be left incomplete; use a temporary folder.
    log : callable, default print
        Receives a line at the end.
    timeout_s : float, default 30
        Longest wait for the connection and for each piece of data.
    deadline_s : float, default 3600
        Longest time for all of it, however small and slow its pieces.

    Raises
    ------
    DataError, FileError
        With the reason alone; the caller knows what it was for.
    """
    url, md5 = _split_sum(url, md5)
    transfer = _Transfer(url, path, log, timeout_s)
    transfer.start()
    try:
        transfer.join(deadline_s)
    finally:
        transfer.given_up.set()
    if transfer.is_alive():
        raise DataError(f"the transfer took more than {deadline_s:,} s")
    if transfer.error is not None:
        raise transfer.error
    if transfer.digest.hexdigest() != md5:
        raise DataError(f"the {transfer.received:,} bytes received have the MD5 sum "
                        f"{transfer.digest.hexdigest()} instead of {md5}: a wrong or damaged file")


class _Transfer(threading.Thread):
    """A download that can be left: a server may send a header's bytes one by one, for hours."""

    def __init__(self, url, path, log, timeout_s):
        super().__init__(name="download", daemon=True)
        self._url, self._path, self._log, self._timeout_s = url, path, log, timeout_s
        self.digest, self.received = hashlib.md5(usedforsecurity=False), 0
        self.error, self.given_up = None, threading.Event()

    def run(self):
        try:
            with _open(self._url, self._timeout_s) as (response, total), \
                    open(self._path, "wb") as out:
                self._receive(response, total, out)
            if total and self.received < total:
                self.error = DataError(f"the transfer broke off after {self.received:,} of "
                                       f"{total:,} bytes")
        except UserError as error:
            self.error = error
        # HTTPError, URLError, timeouts and full disks are OSErrors; ValueError is a bad URL.
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            self.error = DataError(" ".join(str(reason).split()))
        except BaseException as error:      # the caller's to see
            self.error = error

    def _receive(self, response, total, out):
        started = time.monotonic()
        stream = None if total else io.StringIO()       # of an unknown size there is no bar
        with contextlib.closing(Progress("download", total, stream=stream, unit="kB")) as progress:
            # read1: what there is, so that no piece is waited for as a whole.
            for chunk in iter(lambda: response.read1(_CHUNK_BYTES), b""):
                if self.given_up.is_set():
                    return
                out.write(chunk)
                self.digest.update(chunk)
                self.received += len(chunk)
                if self.received > MAX_ARCHIVE_BYTES:
                    raise DataError(f"more than {MAX_ARCHIVE_BYTES:,} bytes came; this is "
                                    "not the archive")
                progress.update(self.received, 1e-3)
        megabytes = self.received / 1e6
        self._log(f"download: {megabytes:,.1f} MB, "
                  f"{megabytes / max(time.monotonic() - started, 1e-3):,.1f} MB/s")


@contextlib.contextmanager
def _open(url, timeout_s):
    """Yield the readable answer and its number of bytes, 0 if that is not known."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        with open_file(urllib.request.url2pathname(parts.path), MAX_ARCHIVE_BYTES) as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    else:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            yield response, int(response.headers.get("Content-Length") or 0)


# ---- unpacking ---------------------------------------------------------------------------------

def unpack(archive, folder, max_bytes, optional=()):
    """Write the expected members of a .tar.gz flat into `folder`.

    Of what later formats add to a member (its long name, its time to the nanosecond) nothing
    is heeded.

    Parameters
    ----------
    archive, folder : path
        The folder must exist.
    max_bytes : dict of str to int
        File name -> its largest size; members of other names are passed over.
    optional : collection of str
        Names that may be absent.

    Raises
    ------
    DataError, FileError
        If the archive is damaged, lacks a file, or holds what such an archive never does:
        a path that leads out of it, a link, device or sparse file, a file twice or larger than
        known, too much of anything.
    """
    found = set()
    try:
        with open_file(archive, MAX_ARCHIVE_BYTES) as stream:
            plain = _Plain(stream, sum(max_bytes.values()) + _SPARE_BYTES)
            for member, name in _members(plain, max(max_bytes.values())):
                if member.type not in _FILES or name not in max_bytes:
                    plain.copy(member.size)
                    continue
                if name in found:
                    raise DataError(f"it holds {name} twice")
                if member.size > max_bytes[name]:
                    raise DataError(f"{name} in it has {member.size:,} bytes, more than the "
                                    f"{max_bytes[name]:,} it can have")
                with open(Path(folder) / name, "xb") as out:
                    plain.copy(member.size, out)
                found.add(name)
    except (tarfile.TarError, zlib.error, OSError) as error:
        raise DataError(f"it cannot be unpacked ({error})") from error
    missing = sorted(set(max_bytes) - found - set(optional))
    if missing:
        raise DataError(f"it lacks {', '.join(missing)}")


class _Plain:
    """The content of a .gz file, read on and on, in pieces of a bounded size."""

    def __init__(self, stream, most):
        self._stream, self._left = stream, most
        self._gzip = zlib.decompressobj(wbits=31)

    def read(self, count):
        """The next `count` bytes; fewer at the end."""
        self._left -= count
        if self._left < 0:
            raise DataError("it holds more than the files that are expected in it")
        pieces = []
        while count and not self._gzip.eof:
            packed = self._gzip.unconsumed_tail or self._stream.read(_CHUNK_BYTES)
            piece = self._gzip.decompress(packed, count)
            if not packed and not piece:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def copy(self, count, out=None):
        """Write `count` bytes to `out`, or nowhere, and pass over what fills the last block."""
        for start in range(0, count, _CHUNK_BYTES):
            wanted = min(_CHUNK_BYTES, count - start)
            piece = self.read(wanted)
            if len(piece) < wanted:
                raise tarfile.ReadError("it breaks off within a member")
            if out is not None:
                out.write(piece)
        self.read(-count % _BLOCK_BYTES)


def _members(plain, largest):
    """Yield (header, bare name) of each member; the caller reads its content.

    Headers are read one by one: tarfile follows chains of them, into memory's end.
    """
    for _ in range(MAX_MEMBERS):
        block = plain.read(_BLOCK_BYTES)
        if not block.strip(b"\0"):
            return
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type in _NOTES:
            if not 0 <= member.size <= _MAX_NOTE_BYTES:
                raise DataError(f"it holds an extended header of {member.size:,} bytes")
            plain.copy(member.size)
        else:
            yield member, _checked_name(member, largest)
    if plain.read(_BLOCK_BYTES).strip(b"\0"):
        raise DataError(f"it holds more than {MAX_MEMBERS} members")


def _checked_name(member, largest):
    """The bare file name of a harmless member."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise DataError(f"it holds a path that leads out of it: {member.name!a}")
    if member.type not in (*_FILES, tarfile.DIRTYPE):
        raise DataError(f"it holds a link or device or sparse file: {member.name!a}")
    # Checked for every member: to pass one over is to decompress it.
    if not 0 <= member.size <= largest:
        raise DataError(f"it holds a member of {member.size:,} bytes: {member.name!a}")
    return path.name


def _split_sum(url, md5):
    """`url` without its fragment, and the MD5 sum that the fragment states, or `md5`."""
    url, fragment = urllib.parse.urldefrag(url)
    if not fragment:
        return url, md5
    match = re.fullmatch(r"md5=([0-9a-fA-F]{32})", fragment)
    if not match:
        raise DataError(f"the URL ends in '#{fragment}', which is not '#md5=' and 32 "
                        "hexadecimal digits")
    return url, match.group(1).lower()
