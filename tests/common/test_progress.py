"""The progress bar, on a terminal and elsewhere."""
import io

import pytest

from common.progress import Progress, format_seconds


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_it_disappears(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("common.progress.time.monotonic", lambda: now[0])
    stream = _Terminal()
    progress = Progress("epoch 1/2", 10, later=10, stream=stream)
    for seconds, done, figures in ((0.2, 1, "loss 2.0"), (0.25, 3, "too early"),
                                   (0.4, 5, "loss 1.0")):
        now[0] = seconds
        progress.update(done, 100, figures)
    shown = stream.getvalue()
    assert "too early" not in shown
    assert "epoch 1/2 [############............]  50 % loss 1.0" in shown
    assert "images/s, ETA 0:0" in shown
    progress.close()
    assert stream.getvalue().endswith("\r\x1b[K")
    progress.update(6, 100, "drawn again")
    assert "drawn again" in stream.getvalue()


def test_a_download_has_a_bar_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("common.progress.time.monotonic", lambda: now[0])
    stream = _Terminal()
    progress = Progress("download", 170_000_000, stream=stream, unit="kB")
    for seconds in (1, 2, 3):
        now[0] = seconds
        progress.update(seconds * 17_000_000, 1e-3)
    assert "download [#######.................]  30 %  17,000 kB/s, ETA 0:07" in stream.getvalue()


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
