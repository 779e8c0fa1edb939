"""What scripts show: harmless to a terminal, and no reason to end where it cannot be shown."""
import contextlib
import os
import re
import sys

__all__ = ["Screen", "guard_streams", "printable"]

# Control characters but for line breaks and tabs, what turns the direction of writing or breaks
# lines unseen, and halves of characters, which stand for bytes of a file name.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
                     "\ud800-\udfff]")


def printable(text):
    """Text of any origin with ``\\x1b`` and its like spelt out; line breaks and tabs stay."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


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
        self.controls.write(printable(text))
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
