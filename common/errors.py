"""The project's errors, and how scripts tell their user: one line, and an exit code.

`UserError` and its kinds are raised where the fault is found, with the line that the user is
to read; only `run_script` turns them into an exit code.

    0    done
    1    a bug, with its traceback; or a comparison that found a difference or a failed run
    2    something that the user can put right, a loss that is not finite among it
    3    trained to the end, but the end could not be saved (`training.loop.SaveFailed`)
    4    one of several machines is gone (`machines.warden.LOST`)
    129  stopped by SIGHUP, of a terminal that was closed (`common.interruption`)
    130  stopped by Ctrl-C
    143  stopped by SIGTERM
"""
import sys
import traceback

from model.registry import UserError

from .screen import guard_streams, printable

# What `make env` installs for all scripts.
_PACKAGES = ("mxnet", "gluoncv", "numpy", "matplotlib", "PIL")

__all__ = ["DataError", "FileError", "MissingFile", "UserError", "run_script"]


class _NamesPaths(UserError):
    """A path or name of any origin in the text is shown harmlessly: see `printable`."""

    def __init__(self, text):
        super().__init__(printable(text))


class FileError(_NamesPaths):
    """A file that is missing, unreadable, too large or no regular file; names its path."""


class MissingFile(FileError):
    """There is no such file."""


class DataError(_NamesPaths):
    """Images, labels or archives that are missing, damaged or not what they should be."""


def _alone(code, reason=None, text=""):
    """How a process ends that no others train with."""
    if text:
        print(text, end="", file=sys.stderr)
    sys.exit(code)


def run_script(main, leave=_alone, result="screen"):
    """Run a script's `main` and exit with its code.

    A `UserError`, or what the system refuses (an `OSError`), becomes one line on standard error
    and its exit code. Anything else is a bug and keeps its traceback.

    Parameters
    ----------
    main : callable
        Returns the exit code.
    leave : callable, optional
        ``leave(code, reason, text)`` writes `text` to standard error and ends the process;
        `reason` is None at an end that was to come. See `machines.client.leave`.
    result : {'screen', 'files'}
        Where the script's result goes. On the screen it is lost if standard output cannot be
        written (a full disk, say): that is an error, unless the reader of a pipe has gone.
    """
    guard_streams()
    try:
        code, reason, text = main(), None, ""
    except UserError as error:
        reason = " ".join(str(error).split())
        code, text = getattr(error, "code", 2), f"error: {reason}\n"
    except OSError as error:    # a full disk, say
        reason = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        code, text = 2, f"error: {reason}\n"
    except KeyboardInterrupt:
        code, reason, text = 130, "interrupted", "interrupted\n"
    except SystemExit as end:    # --help
        code, reason, text = end.code or 0, None, ""
    except Exception as error:
        code, reason, text = 1, f"{type(error).__name__}: {error}", traceback.format_exc()
        if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
            code, text = 2, (f"error: {error.name} is not installed for {sys.executable}: run "
                             "`make env`, then `source .venv/bin/activate`\n")
    sys.stdout.flush()
    lost = sys.stdout.fault
    if lost and not code and not isinstance(lost, BrokenPipeError):
        code = 2 if result == "screen" else 0
        text = f"{'error' if code else 'warning'}: cannot write standard output: {lost.strerror}\n"
    leave(code, reason, text)
