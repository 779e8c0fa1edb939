"""Files that are complete or absent."""
import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

__all__ = ["replacing", "write_text", "write_json", "read_json", "sha256", "sync_folder",
           "temporary_path", "is_leftover"]

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")


def temporary_path(path):
    """Where this process writes what will become `path`: beside it, hidden."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")


def is_leftover(name):
    """Whether a file's name is that of something half-written."""
    return _TEMPORARY.fullmatch(name) is not None


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
    file is removed and `path` stays as it was.
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, content):
    """Write a JSON file, atomically. Floats keep every bit."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path):
    """Read a JSON object.

    Raises
    ------
    ValueError
        If the file is not JSON or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def sha256(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
