"""The optional packages, and one line for whoever lacks them."""
import importlib

from common.errors import UserError

__all__ = ["require"]

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
