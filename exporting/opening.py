"""ONNX files read as what they are: content from elsewhere.

A file is read once, and refused if it points to other files, holds control flow, functions or
operators outside the standard, or describes tensors of absurd size. What is left is tried by a
child process first (`exporting.probe`), with bounded memory and time: where ONNX or a runtime
crashes on it, that takes the child along and nothing else.
"""
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_bytes
from runs.description import check_description

from .checks import check_contents
from .packages import require

__all__ = ["OnnxFile", "open_file"]

_ROOT = Path(__file__).resolve().parents[1]
_MOST_BYTES, _MOST_OUTPUTS = 1 << 30, 1 << 20
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
    opset : int
    """

    path: Path
    content: bytes
    input_name: str
    pixels: bool
    image_size: int
    outputs: int
    description: dict
    opset: int


def open_file(path, runtime="onnxruntime", precision="float32"):
    """Read, check and try an ONNX file.

    Raises
    ------
    UserError
        If it is damaged, asks for more than is good, or does not run; one line.
    """
    onnx = require("onnx")
    require(runtime)
    path = Path(path)
    content = _read(path)
    model = _parse(onnx, content, path)
    try:
        input_name, pixels, image_size = check_contents(onnx, model)
    except ValueError as error:
        raise UserError(f"{path} is refused: {error}") from None
    outputs = _probe(content, path, runtime, precision, (input_name, pixels, image_size))
    description = _description(model, path, image_size)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return OnnxFile(path, content, input_name, pixels, image_size, outputs, description, opset)


def _read(path):
    return read_bytes(path, _MOST_BYTES)


def _parse(onnx, content, path):
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is damaged or no ONNX file: it cannot be parsed") from None
    if not model.HasField("graph") or not model.graph.node:
        raise UserError(f"{path} is no ONNX file: it holds no network")
    return model


def _probe(content, path, runtime, precision, described):
    """Have a child process run the file on two images.

    Returns
    -------
    int
        The number of outputs.

    Raises
    ------
    UserError
        If it does not run, or gives no logits.
    """
    command = [sys.executable, "-m", "exporting.probe", runtime, precision,
               json.dumps(described)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, cwd=_ROOT,
                              timeout=_PROBE_SECONDS)
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
    if len(answer["shape"]) != 2 or answer["shape"][0] != 2 or not (
            1 <= answer["shape"][1] <= _MOST_OUTPUTS):
        raise UserError(f"{path} is no image classifier: two images give an output of the shape "
                        f"{tuple(answer['shape'])}")
    return answer["shape"][1]


def _description(model, path, image_size):
    """The description in our metadata, or None."""
    from .onnx_file import PREFIX

    entries = [entry.value for entry in model.metadata_props if entry.key == PREFIX + "network"]
    if not entries:
        return None
    try:
        description = json.loads(entries[0])
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise UserError(f"{path}: the description of its network is damaged")
    check_description(description, path)
    description["dataset"]["image_size"] = image_size
    return description
