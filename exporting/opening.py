"""ONNX files read as what they are: content from elsewhere.

A file is read once and tried by a child process (`exporting.probe`), with bounded memory and
time, which says what the file is or why it is refused: where ONNX or a runtime crashes on it,
that takes the child along and nothing else.
"""
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_bytes
from runs.trained import check_description

from .packages import require

__all__ = ["OnnxFile", "open_file"]

_ROOT = Path(__file__).resolve().parents[1]
_MOST_BYTES = 1 << 30
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class OnnxFile:
    """A file that passed all checks.

    Attributes
    ----------
    content : bytes
    input_name : str
    pixels : bool
        Whether it takes uint8 pixels and normalises by itself.
    image_size : int
    outputs : int
    description : dict or None
        What our metadata say; None for a file of others.
    """

    path: Path
    content: bytes
    input_name: str
    pixels: bool
    image_size: int
    outputs: int
    description: dict


def open_file(path, runtime="onnxruntime"):
    """Read, check and try an ONNX file.

    Raises
    ------
    UserError
        If it is damaged, asks for more than is good, or does not run; one line.
    """
    for package in ("onnx", runtime):
        require(package)
    content = read_bytes(path, _MOST_BYTES)
    file = OnnxFile(Path(path), content, **_probe(content, path, runtime))
    if file.description is not None:
        check_description(file.description, path)
        file.description["dataset"]["image_size"] = file.image_size
    return file


def _probe(content, path, runtime):
    """What the child process says of a file; raises UserError if the file is refused."""
    try:
        done = subprocess.run([sys.executable, "-m", "exporting.probe", runtime], input=content,
                              capture_output=True, cwd=_ROOT, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path} is refused: two images take it more than {_PROBE_SECONDS} "
                        "seconds") from None
    try:
        answer = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = (f"crashed ({signal.Signals(-done.returncode).name})" if done.returncode < 0
                  else f"ended with exit code {done.returncode}")
        raise UserError(f"{path} is refused: the process that tried it in {runtime} {reason}"
                        ) from None
    if "error" in answer:
        raise UserError(f"{path} is refused: {answer['error']}")
    return answer
