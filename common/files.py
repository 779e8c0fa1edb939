"""Files: the one way to open them, and writing that leaves them complete or absent."""
import codecs
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from .errors import FileError, MissingFile

__all__ = ["home_path", "open_file", "open_to_append", "read_bytes", "read_text", "append_rows",
           "replacing", "scratch_folder", "write_bytes", "write_text", "write_json", "read_json",
           "sha256", "sync_folder", "leftover_of", "check_not_input", "make_writable", "reason",
           "writing"]

_MOST_JSON_BYTES = 1 << 26

_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp(\.\w+)?")
_SCRATCH = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.partial")


def leftover_of(name):
    """What was to be, where `name` is that of a half-written file or folder; else None."""
    found = _TEMPORARY.fullmatch(name) or _SCRATCH.fullmatch(name)
    return found and found.group(1)


def sync_folder(folder):
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path; when the block ends, it becomes `path` in one step.

    The content is flushed to the disk before the rename. If the block raises, the temporary
    file is removed and `path` stays as it was. What processes that were killed here left of
    the same file is removed first.
    """
    path = Path(path)
    _remove_left(path.parent, lambda name: leftover_of(name) == path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        with contextlib.ExitStack() as stack:
            while True:
                stack.enter_context(_locked(temporary, os.O_CREAT | os.O_RDWR))
                if temporary.exists():    # no other process took it for left behind before
                    break
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(parent, name):
    """Make a hidden folder beside what it will become; it is removed when the block ends.

    Such folders of processes that were killed are removed from `parent` first.

    Parameters
    ----------
    parent : pathlib.Path
        Made if absent.
    name : str
        Of what is made in it.

    Yields
    ------
    pathlib.Path
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_left(parent, _SCRATCH.fullmatch)
    folder = None
    with contextlib.ExitStack() as stack:
        # Another process may take it for left behind before it is locked.
        while folder is None or not folder.exists():
            folder = parent / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
            folder.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                stack.enter_context(_locked(folder))
        yield folder


@contextlib.contextmanager
def _opened(path, flags=os.O_RDONLY):
    """The descriptor of a file or folder."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path, flags=os.O_RDONLY):
    """Hold the lock of a file or folder, which the system gives up when the process ends."""
    with _opened(path, flags) as descriptor:
        with contextlib.suppress(OSError):      # some network file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _remove_left(folder, ours):
    """Remove the files and folders of names that are `ours`, and that no process has locked."""
    with contextlib.suppress(OSError):
        for left in [entry for entry in folder.iterdir() if ours(entry.name)]:
            with contextlib.suppress(OSError), _opened(left) as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_bytes(path, content):
    """Write a file, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path, text):
    """Write a text file, atomically."""
    write_bytes(path, text.encode())


def write_json(path, content):
    """Write a JSON file, atomically. Floats keep every bit."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def home_path(path, option=""):
    """A path in which a leading ``~`` stands for the home folder.

    Raises
    ------
    FileError
        If there is no home folder; names the `option` that can do without.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileError(f"{option} {path}: there is no home folder that ~ could stand for; name "
                        "the folder itself".lstrip()) from None


def open_file(path, most_bytes=None, option=""):
    """Open a regular file for reading; every file of a user's is opened here.

    A pipe or a device is not waited for, and a file that is larger than it can rightly be is
    not read.

    Parameters
    ----------
    path : str or pathlib.Path
    most_bytes : int, optional
        The largest size that is accepted; any if not given.
    option : str, default ''
        The option that names the file, for errors.

    Returns
    -------
    binary file

    Raises
    ------
    MissingFile
        If there is none.
    FileError
        If it is unreadable, larger, or no regular file.
    """
    name = f"{option} {path}".lstrip()
    try:
        stream = os.fdopen(_open_regular(path, os.O_RDONLY), "rb")
    except FileNotFoundError as error:
        raise MissingFile(f"cannot read {name}: {reason(error)}") from error
    except (OSError, ValueError) as error:      # ValueError: a NUL in the path
        raise FileError(f"cannot read {name}: {reason(error)}") from error
    size = os.fstat(stream.fileno()).st_size
    if most_bytes is not None and size > most_bytes:
        stream.close()
        raise FileError(f"cannot read {name}: it has {size:,} bytes, more than the "
                        f"{most_bytes:,} that are accepted")
    return stream


def _open_regular(path, flags):
    """A descriptor of a regular file; OSError if it is something else."""
    # Without O_NONBLOCK, to open a pipe is to wait for somebody at its other end.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(None, "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    return descriptor


def open_to_append(path, option=""):
    """Open a regular file for reading and appending; it is made if there is none.

    A link is followed, and the file keeps its permissions. Parameters as those of `open_file`.

    Returns
    -------
    binary file

    Raises
    ------
    FileError
        If it cannot be written, or is no regular file.
    """
    try:
        return os.fdopen(_open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+b")
    except (OSError, ValueError) as error:
        raise _unwritten(path, option, error) from error


def append_rows(path, header, rows, option=""):
    """Append lines to a table, of which several processes may be writing.

    Parameters
    ----------
    path : str or pathlib.Path
    header : str
        The table's first line, which an empty file gets and any other must have.
    rows : str
        Whole lines.
    option : str, default ''
        The option that names the file, for errors.

    Raises
    ------
    FileError
        If the file is another table or cannot be written; it is then as it was.
    """
    with open_to_append(path, option) as stream:
        with contextlib.suppress(OSError):      # some network file systems know no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if size and stream.readline(len(header) + 2).rstrip(b"\r\n") != header.encode():
            raise FileError(f"{option} {path} is another table: its first line is not {header}"
                            .lstrip())
        try:
            stream.seek(max(size - 1, 0))
            cut_short = size and stream.read(1) != b"\n"
            text = ("\n" if cut_short else "") + rows if size else f"{header}\n{rows}"
            _write_all(stream.fileno(), text.encode())
            os.fsync(stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(stream.fileno(), size)
            raise _unwritten(path, option, error) from error


def _write_all(descriptor, content):
    """Write without a buffer, of which a rest would be written when the file is closed."""
    while content:
        content = content[os.write(descriptor, content):]


def _unwritten(path, option, error):
    return FileError(f"cannot write {f'{option} {path}'.lstrip()}: {reason(error)}")


@contextlib.contextmanager
def writing(place, hint=""):
    """Raise FileError, which names the place, if the block cannot write: a full disk, say."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write to {place}: {reason(error)}{hint}") from error


def make_writable(folder):
    """Make a folder, and see that files can be made in it; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{os.getpid()}"
    probe.touch(exist_ok=False)
    probe.unlink()


def reason(error):
    """Why a file could not be opened, without its name."""
    return getattr(error, "strerror", None) or str(error)


def check_not_input(output, *inputs):
    """Raise FileError if what is to be written is one of the files that are read."""
    for path in inputs:
        if _is_same(output, path):
            raise FileError(f"{output} is read, and cannot be written, too: name another file")


def _is_same(path, other):
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):       # one of them is not there
        return False


def read_bytes(path, most_bytes, option=""):
    """Content of a regular file; parameters and errors as those of `open_file`."""
    with open_file(path, most_bytes, option) as stream:
        try:
            return stream.read(most_bytes)
        except OSError as error:
            raise FileError(f"cannot read {path}: {reason(error)}") from error


def read_text(path, most_bytes, option=""):
    """Text of a UTF-8 file, with or without a byte order mark; the rest as `open_file`."""
    content = read_bytes(path, most_bytes, option)
    utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in content[:2]
    try:
        if not utf16:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    found = "UTF-16" if utf16 else "another encoding, such as Latin-1 or Windows-1252"
    raise FileError(f"{path} is not UTF-8 text but {found}: save it as UTF-8")


def read_json(path, option=""):
    """Read a JSON object; parameters as those of `open_file`.

    Raises
    ------
    FileError
        If the file cannot be read, is not JSON or not an object.
    """
    text = read_text(path, _MOST_JSON_BYTES, option)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:    # ValueError: a number of 5,000 digits, too
        raise FileError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(content, dict):
        raise FileError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def sha256(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
