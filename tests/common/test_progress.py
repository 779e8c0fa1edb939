"""The progress bar, on a terminal and elsewhere."""
import io

import pytest

from common.progress import Progress, format_seconds


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_it_disappears():
    stream = _Terminal()
    progress = Progress("epoch 1/2", 10, later=10, stream=stream)
    progress.update(1, 100, "loss 2.0")
    progress.update(5, 100, "loss 1.0")
    shown = stream.getvalue()
    assert "epoch 1/2 [############............]  50 % loss 1.0" in shown
    assert "images/s, ETA 0:0" in shown
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_no_terminal_gets_plain_lines_at_intervals(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("common.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("epoch 1/1", 100, stream=stream)
    for done in range(1, 101):
        now[0] += 1
        progress.update(done, 10)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in stream.getvalue()
    assert lines[0].endswith("10 images/s, ETA 1:10")


def test_later_stages_count_for_the_eta(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("common.progress.time.monotonic", lambda: now[0])
    stream = _Terminal()
    progress = Progress("epoch 1/3", 10, later=20, stream=stream)
    for now[0] in (1, 2):
        progress.update(int(now[0]), 10)
    assert "ETA 0:28" in stream.getvalue()


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"),
                                           (3725, "1:02:05")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
