"""The child process that tries an ONNX file: ``python -m exporting.probe``, file on stdin.

Prints the shape of the output for two images as JSON, or an error. Crashes and endless loops
are the parent's to notice; memory and processor time are bounded here.
"""
import json
import resource
import sys

import numpy as np
import onnx

from .checks import check_soundness, first_line
from .runtimes import RUNTIMES

_MEMORY, _SECONDS = 6 << 30, 100


def _run(run, pixels, size):
    """What a runtime makes of two images."""
    logits = run(np.zeros((2, 3, size, size), np.uint8 if pixels else np.float32))
    if logits.dtype != np.float32:
        return {"error": f"its output is {logits.dtype}, not float32"}
    return {"shape": list(logits.shape)}


def main():
    runtime, precision, described = sys.argv[1:]
    input_name, pixels, size = json.loads(described)
    content = sys.stdin.buffer.read()
    memory = _MEMORY + 8 * len(content)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check_soundness(onnx, onnx.load_model_from_string(content))
        answer = _run(RUNTIMES[runtime](content, input_name, precision), pixels, size)
    except ValueError as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever a runtime says of a file is for the parent to show
        answer = {"error": f"it does not run in {runtime}: {first_line(error)}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
