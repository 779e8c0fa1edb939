"""One progress bar an epoch on a terminal, plain lines elsewhere."""
import math
import sys
import time

from .screen import printable

__all__ = ["Progress", "format_seconds"]

_BAR_WIDTH = 24
_BAR_PERIOD_S, _LINE_PERIOD_S = 0.1, 30.0


def format_seconds(seconds):
    """h:mm:ss, or m:ss below an hour."""
    seconds = int(round(seconds))
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Shows how far a stage of `total` steps is.

    Parameters
    ----------
    title : str
        What stands before the bar.
    total : int
        Steps of this stage.
    later : int, default 0
        Steps of the whole run after this stage; they count for the ETA.
    stream : file, default standard error
        On a terminal one line is redrawn; elsewhere a plain line is written every half minute.
    workers : int, default 1
        How many do such steps at the same time; they count for the rate.
    unit : str, default 'images'
        What a step has so many of.
    """

    def __init__(self, title, total, later=0, stream=None, workers=1, unit="images"):
        self.title, self.total, self.later, self.workers = title, total, later, workers
        self.unit = unit
        stream = stream or sys.stderr
        self.stream = getattr(stream, "controls", stream)
        self._terminal = self.stream.isatty()
        self._start = self._shown = time.monotonic()
        self._first = None

    def update(self, done, per_step, figures=""):
        """Show that `done` steps are done; `figures` stands behind the bar."""
        now = time.monotonic()
        if self._first is None:
            # The first steps compile and allocate: they would spoil the rate.
            self._first = (done, now)
        if now - self._shown < (_BAR_PERIOD_S if self._terminal else _LINE_PERIOD_S):
            return
        self._shown = now
        self._write(self._line(done, now, per_step, figures))

    def _line(self, done, now, per_step, figures):
        first, since = self._first
        rate = (done - first) / (now - since) if done > first and now > since else 0.0
        eta = format_seconds((self.total - done + self.later) / rate) if rate else "?"
        filled = _BAR_WIDTH * done // max(self.total, 1)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        return (f"{self.title} [{bar}] {100 * done // max(self.total, 1):3d} % {figures} "
                f"{rate * per_step * self.workers:,.0f} {self.unit}/s, ETA {eta}")

    def _write(self, line):
        line = printable(line)
        self.stream.write(f"\r{line}\x1b[K" if self._terminal else line + "\n")
        self.stream.flush()

    def close(self):
        """Remove the bar, so that a line can take its place; `update` draws it again."""
        if self._terminal:
            self._shown = -math.inf
            self.stream.write("\r\x1b[K")
            self.stream.flush()
