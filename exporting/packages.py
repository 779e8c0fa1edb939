"""The optional packages: where one is missing, or raises an error, one line says so."""
import importlib

from common.errors import UserError
from common.screen import printable

__all__ = ["first_line", "require"]

_EXTRAS = {"onnx": "export", "onnxruntime": "export", "openvino": "openvino",
           "torch": "pytorch"}


def require(name):
    """Import one of the optional packages.

    Raises
    ------
    UserError
        If it is not installed, or does not import.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = "is not installed" if getattr(error, "name", None) == name.partition(".")[0] \
            else f"does not import ({error})"
    package = name.partition(".")[0]
    raise UserError(f"{package} {reason}; install it with: make env EXTRAS={_EXTRAS[package]} "
                    f"(or pip install {package})")


def first_line(error):
    """What an error of theirs says, as one printable line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__)[:300]
