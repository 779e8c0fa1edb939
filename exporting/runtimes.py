"""Runtimes for ONNX files, by name.

Each maps a batch, (N, 3, H, W), to logits (N, classes), both NumPy arrays. All use as many
threads as OMP_NUM_THREADS says.
"""
import os

import numpy as np

from common.threads import physical_cores

from .packages import require

__all__ = ["RUNTIMES", "OnnxRuntime", "OpenVino"]


def _threads():
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(text) if text.isdigit() and int(text) else physical_cores()


class OnnxRuntime:
    """ONNX Runtime on the CPU. It has no bfloat16 kernels there: `precision` is the file's."""

    precisions = ("float32",)

    def __init__(self, content, input_name, precision="float32"):
        onnxruntime = require("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = _threads(), 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(content, options,
                                                     providers=["CPUExecutionProvider"])
        self._input_name = input_name

    def __call__(self, batch):
        return self._session.run(None, {self._input_name: batch})[0]


class OpenVino:
    """OpenVINO on the CPU, in float32 or, where the CPU computes in it, bfloat16."""

    precisions = ("float32", "bfloat16")

    def __init__(self, content, input_name, precision="float32"):
        openvino = require("openvino")
        core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in core.get_property(
                "CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError("this CPU does not compute in bfloat16")
        self._model = core.compile_model(
            core.read_model(content), "CPU",
            {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
             "INFERENCE_NUM_THREADS": _threads(), "NUM_STREAMS": 1})
        self._input_name = input_name

    def __call__(self, batch):
        return np.array(self._model({self._input_name: batch})[0])


RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
