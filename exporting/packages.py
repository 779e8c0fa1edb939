"""The optional packages, and one line for whoever lacks them."""
import importlib

from common.errors import UserError

__all__ = ["require"]

_FILES = {"onnx": "requirements-export.txt", "onnxruntime": "requirements-export.txt",
          "openvino": "requirements-openvino.txt"}


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
    raise UserError(f"{name.partition('.')[0]} {reason}; install it with: pip install --no-deps -r "
                    f"{_FILES[name.partition('.')[0]]}")
