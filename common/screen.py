"""What scripts show: harmless to a terminal, and no reason to end where it cannot be shown."""
import contextlib
import os
import sys

__all__ = ["LINES", "Screen", "guard_streams", "printable"]

LINES = "\n\t"


def printable(text, keep=""):
    """A path or text of any origin as it can be shown: control characters, unseen ones and those
    that stand for bytes of a file name are spelt out, such as ``\\x1b``.

    Parameters
    ----------
    text : str or path
    keep : str, optional
        Characters that stay: `LINES` where there may be several lines.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1]
                   for c in os.fspath(text))


class _Guarded:
    """A stream that notes the first failure to write in `fault`, and from then on is silent."""

    def __init__(self, stream):
        self._stream, self.fault = stream, None

    def write(self, text):
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self):
        self._attempt(self._stream.flush)

    def _attempt(self, function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            self.fault = self.fault or error
            # What is still in its buffer goes nowhere, else each flush would fail again.
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name):
        return getattr(self._stream, name)


class Screen:
    """Standard output or error: a full disk or a closed pipe ends nothing, `printable` is
    applied to all text.

    Parameters
    ----------
    stream : text file

    Attributes
    ----------
    controls
        The same stream for those who draw: control characters are passed on.
    fault : OSError or None
        Why something could not be written.
    """

    def __init__(self, stream):
        self.controls = _Guarded(stream)

    def write(self, text):
        self.controls.write(printable(text, LINES))
        return len(text)

    def __getattr__(self, name):
        return getattr(self.controls, name)


def guard_streams():
    """Make `Screen`s of standard output and error, and open them if they are closed.

    Must come before any file is opened: it would get the number of a closed one, and what
    libraries write to standard error would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)    # noqa: SIM115
        if not isinstance(stream, Screen):
            # A character that the encoding lacks is spelt out.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Screen(stream))
