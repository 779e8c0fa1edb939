"""What the scripts that damage files share: damage to any bytes, and a process that opens them."""
import json
import select
import subprocess
import sys

from tests.scripts import ROOT

__all__ = ["Opener", "truncate", "flip_bits", "cut_out", "put_in", "repeat_a_part", "noise"]


# ---- mutations of bytes: (generator, content, ...) -> new content ------------------------------

def truncate(rng, content, *_):
    return content[:int(rng.integers(0, len(content)))]


def flip_bits(rng, content, *_):
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        out[int(rng.integers(0, len(out)))] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def cut_out(rng, content, *_):
    start = int(rng.integers(0, len(content)))
    return content[:start] + content[start + int(rng.integers(1, 4000)):]


def put_in(rng, content, *_):
    start = int(rng.integers(0, len(content) + 1))
    return content[:start] + rng.bytes(int(rng.integers(1, 200))) + content[start:]


def repeat_a_part(rng, content, *_):
    start, stop = sorted(int(v) for v in rng.integers(0, len(content), 2))
    return content[:stop] + content[start:]


def noise(rng, content, *_):
    return content[:24 * int(rng.integers(0, 2))] + rng.bytes(int(rng.integers(0, 3000)))


# ---- the process that opens --------------------------------------------------------------------

class Opener:
    """A process that opens files, started anew when it is gone.

    Parameters
    ----------
    module : str
        Run with ``--serve``, it answers each path on standard input with a line of JSON.
    patience : float
        Seconds after which it is taken to hang.
    """

    def __init__(self, module, patience):
        self._module, self._patience = module, patience
        self._process = None

    def __call__(self, path):
        """What the process answers; None if it crashed or hangs."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "--serve"], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], self._patience)
        answer = self._process.stdout.readline() if ready else ""
        if not answer:
            self.close()
            return None
        return json.loads(answer)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None
