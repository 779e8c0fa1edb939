"""Fetch an archive over the network and unpack the files that are expected in it.

Neither trusts the other end: a transfer is bounded in time and size and checked against
an MD5 sum before anything is read from it, and unpacking writes the expected names only,
into one folder, each no larger than it is known to be.
"""
import contextlib
import hashlib
import http.client
import re
import shutil
import sys
import tarfile
import time
import urllib.parse
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

from data.dataset import DataError

__all__ = ["fetch", "unpack"]

TIMEOUT_S = 30
MAX_ARCHIVE_BYTES = 1 << 30
MAX_MEMBERS = 100
_CHUNK_BYTES = 1 << 18


def fetch(url, md5, path, log=print, timeout_s=TIMEOUT_S):
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
        Receives lines of progress where the screen is no terminal.
    timeout_s : float, default 30
        Longest wait for the connection and for each piece of data.

    Raises
    ------
    DataError
        With the reason alone; the caller knows what it was for.
    """
    url, md5 = _split_sum(url, md5)
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response, \
                open(path, "wb") as out:
            total = int(response.headers.get("Content-Length") or 0)
            with _progress(total, log) as advance:
                for chunk in iter(lambda: response.read(_CHUNK_BYTES), b""):
                    out.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    if received > MAX_ARCHIVE_BYTES:
                        raise DataError(f"more than {MAX_ARCHIVE_BYTES:,} bytes came; this is "
                                        "not the archive")
                    advance(len(chunk))
    except DataError:
        raise
    # HTTPError, URLError, timeouts and full disks are OSErrors; ValueError is a bad URL.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise DataError(_one_line(reason)) from error
    if total and received < total:
        raise DataError(f"the transfer broke off after {received:,} of {total:,} bytes")
    if digest.hexdigest() != md5:
        raise DataError(f"the {received:,} bytes received have the MD5 sum "
                        f"{digest.hexdigest()} instead of {md5}: a wrong or damaged file")


def unpack(archive, folder, max_bytes, optional=()):
    """Write the expected members of a .tar.gz flat into `folder`.

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
    DataError
        If the archive is damaged, lacks a file, or holds what such an archive never does:
        a path that leads out of it, a link or device, a file twice or larger than known.
    """
    largest = max(max_bytes.values())
    found = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for count, member in enumerate(tar):
                name = _checked_name(member, largest)
                if count >= MAX_MEMBERS:
                    raise DataError(f"it holds more than {MAX_MEMBERS} members")
                if not member.isreg() or name not in max_bytes:
                    continue
                if name in found:
                    raise DataError(f"it holds {name} twice")
                if member.size > max_bytes[name]:
                    raise DataError(f"{name} in it has {member.size:,} bytes, more than the "
                                    f"{max_bytes[name]:,} it can have")
                with tar.extractfile(member) as source, \
                        open(Path(folder) / name, "xb") as out:
                    shutil.copyfileobj(source, out)
                found.add(name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"it cannot be unpacked ({_one_line(error)})") from error
    missing = sorted(set(max_bytes) - found - set(optional))
    if missing:
        raise DataError(f"it lacks {', '.join(missing)}")


def _checked_name(member, largest):
    """The bare file name of a harmless member."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise DataError(f"it holds a path that leads out of it: {member.name!r}")
    if not (member.isreg() or member.isdir()):
        raise DataError(f"it holds a link or device: {member.name!r}")
    # Checked for every member: to pass one over is to decompress it.
    if member.size > largest:
        raise DataError(f"it holds a member of {member.size:,} bytes: {member.name!r}")
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


@contextlib.contextmanager
def _progress(total, log):
    """Yield a function that is told the bytes of each piece: a bar, or a line in ten percent."""
    if sys.stderr.isatty():
        from tqdm import tqdm
        with tqdm(total=total or None, unit="B", unit_scale=True, desc="download") as bar:
            yield bar.update
        return
    started, received, next_line = time.monotonic(), 0, 0.1

    def advance(count):
        nonlocal received, next_line
        received += count
        if total and received / total >= next_line:
            seconds = max(time.monotonic() - started, 1e-3)
            log(f"download: {received / 1e6:,.1f} of {total / 1e6:,.1f} MB, "
                f"{received / 1e6 / seconds:,.1f} MB/s")
            next_line = received / total + 0.1
    yield advance


def _one_line(what):
    return " ".join(str(what).split())
