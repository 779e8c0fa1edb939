"""One process at a time in a run's folder."""
import contextlib
import fcntl
import json
import os
import socket

from .errors import FileError, UserError
from .files import open_file, open_to_append

_MOST_BYTES = 1 << 12

__all__ = ["lock", "holder", "wait_for"]


def lock(path):
    """Take the lock file `path` for the rest of this process.

    The system gives the lock up when the process ends, however it ends; so a lock file that
    is left behind locks nothing.

    Returns
    -------
    file
        Keep it: the lock lives as long as the file is open.

    Raises
    ------
    UserError
        If another process has it; names that process and its host.
    """
    stream = open_to_append(path)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(stream)
        stream.close()
        raise UserError(f"{path.parent} is in use by {_named(owner)}; wait for it, end it, or "
                        "choose another --name") from None
    except OSError:
        # Some network file systems know no locks. To train without is better than not at all.
        return stream
    if os.fstat(stream.fileno()).st_size and _owner(stream) is None:
        stream.close()
        raise FileError(f"{path} is no lock of a run's, and would be overwritten: choose another "
                        "--name, or move it away")
    stream.truncate(0)
    stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    stream.flush()
    return stream


def holder(path):
    """Who has the lock file `path`, in words; None if nobody has, or there is none."""
    with contextlib.suppress(FileError, OSError), open_file(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(_owner(stream))
    return None


def wait_for(path):
    """Wait until nobody has the lock file `path`."""
    with open_file(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


def _owner(stream):
    """(process, host) that a lock file names, or None."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        stream.seek(0)
        owner = json.loads(stream.read(_MOST_BYTES))
        return int(owner["pid"]), str(owner["host"])


def _named(owner):
    return "process {} on {}".format(*owner) if owner else "another process"
