"""One process at a time in a run's folder."""
import fcntl
import json
import os
import socket

from .errors import UserError

__all__ = ["lock"]


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
    stream = open(path, "a+", encoding="utf-8")     # noqa: SIM115  (closed by the system)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(stream)
        stream.close()
        raise UserError(f"{path.parent} is in use by {owner}; wait for it, end it, or choose "
                        "another --name") from None
    except OSError:
        # Some network file systems know no locks. To train without is better than not at all.
        return stream
    stream.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname()}, stream)
    stream.flush()
    return stream


def _owner(stream):
    try:
        stream.seek(0)
        owner = json.load(stream)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
