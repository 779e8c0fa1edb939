"""What is shown, and what happens where it cannot be shown: real streams of real processes."""
import subprocess
import sys
from pathlib import Path

import pytest

from common.params import read_params
from common.screen import LINES, printable
from tests import scripts

_SAYS = """
import sys
from common.errors import UserError, run_script
def main():
    print("ä ± \\x1b[31mred\\x07\\r \\u202e \\udcff\\ttab")
    if sys.argv[2] == "fails":
        raise UserError("a \\x1b]0;title\\x07 name\\nin two lines")
    if sys.argv[2] == "breaks":
        raise RuntimeError("\\x1b[2J")
    with open("written", "w") as stream:
        print(*range(3000), file=sys.stderr)
        print(*range(3000))
        stream.write(str(stream.fileno()))
    return 0
run_script(main, result=sys.argv[1])
"""


def test_the_wrong_python_is_told_which_is_right(tmp_path):
    """As a system's Python is, which has no MXNet."""
    done = subprocess.run(scripts.command("evaluate.py", "--params", "x", "--num-gpus", 1,
                                          first="sys.modules['mxnet'] = None"),
                          cwd=tmp_path, capture_output=True, text=True)
    scripts.assert_user_error(done, "mxnet is not installed for", "source .venv/bin/activate")


def _say(folder, redirection, result="screen", what="works", **variables):
    """Run the script above in a shell."""
    script = folder / "say.py"
    script.write_text(_SAYS)
    line = f'"{sys.executable}" "{script}" {result} {what} {redirection}'
    return subprocess.run(["sh", "-c", line], cwd=folder, timeout=60, capture_output=True,
                          env={**scripts.os.environ, "PYTHONPATH": str(scripts.ROOT), **variables})


@pytest.mark.parametrize("variables", [
    {"PYTHONUTF8": "1"}, {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_what_is_shown_is_harmless_in_every_encoding(tmp_path, variables):
    result = _say(tmp_path, "", **variables)
    assert result.returncode == 0, result.stderr
    first = result.stdout.splitlines()[0].decode()
    assert first.endswith(r"\x1b[31mred\x07\r \u202e \udcff" + "\ttab")
    assert first.startswith("ä ±" if variables.keys() == {"PYTHONUTF8"} else r"\xe4 \xb1")


def test_errors_are_one_line_and_tracebacks_are_harmless(tmp_path):
    result = _say(tmp_path, "", what="fails")
    assert result.returncode == 2
    assert result.stderr == b"error: a \\x1b]0;title\\x07 name in two lines\n"
    result = _say(tmp_path, "", what="breaks")
    assert result.returncode == 1 and b"\x1b" not in result.stderr
    assert b"Traceback" in result.stderr and rb"\x1b[2J" in result.stderr


@pytest.mark.parametrize("redirection, codes, line", [
    (">/dev/full", (2, 0), b": cannot write standard output: No space left on device"),
    ("2>/dev/full", (0, 0), b""),
    (">/dev/full 2>&1", (2, 0), b""),
    (">&-", (0, 0), b""), ("2>&-", (0, 0), b""), (">&- 2>&- <&-", (0, 0), b""),
])
def test_a_full_or_closed_stream_ends_nothing(tmp_path, redirection, codes, line):
    for result, code in zip(("screen", "files"), codes):
        done = _say(tmp_path, redirection, result)
        assert done.returncode == code
        last = done.stderr.splitlines()[-1:] if line else []
        assert last == ([(b"error" if code else b"warning") + line] if line else []), done.stderr
        assert b"Traceback" not in done.stderr + done.stdout
        # A file must not get the number of a closed stream, into which libraries write.
        assert int((tmp_path / "written").read_text()) > 2


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    done = _say(tmp_path, "| head -c 1", what="works; echo $? >&2")
    assert done.stderr.endswith(b"\n0\n") and b"BrokenPipe" not in done.stderr


def test_help_onto_a_full_disk(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(scripts.command("evaluate.py", "--help"), cwd=tmp_path, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write standard output: No space left on device\n"


def test_a_run_without_a_screen_is_trained(tmp_path):
    files = scripts.drawn_cifar(tmp_path / "files", train=64, test=10)
    line = " ".join(scripts.command(
        "train_cifar.py", "--data-dir", files, "--blocks", 1, "--batch-size", 32,
        "--num-epochs", 1, "-j", 0, "--name", "run"))
    done = subprocess.run(["sh", "-c", f"{line} >/dev/full 2>&-"], cwd=tmp_path, timeout=120)
    assert done.returncode == 0
    assert len(scripts.metrics(tmp_path / "logs/run")) == 1
    assert read_params(tmp_path / "params/run/last.params")


def test_text_of_every_kind():
    assert printable("plain ä 漢 🙂\n\ttext", LINES) == "plain ä 漢 🙂\n\ttext"
    assert printable(Path("a\n\tb")) == r"a\n\tb"
    assert printable("\x00\x1b\x7f\x9b\u2028\u2066") == r"\x00\x1b\x7f\x9b\u2028\u2066"
