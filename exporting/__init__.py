"""Networks for other runtimes: written as ONNX files, checked, and run.

`translate` and `onnx_file` write, `opening` and `runtimes` read and run, `comparison` puts
runtimes side by side. ONNX and the runtimes are optional; `packages` says what to install.
"""
