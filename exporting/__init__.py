"""Networks for other runtimes: written as files of ONNX or PyTorch, checked, and run.

`onnx_file` and `pytorch_file` write what `graph` makes of a network, `opening` and `runtimes`
read and run ONNX files, `comparison` puts runtimes side by side. ONNX, PyTorch and the runtimes
are optional; `packages` says what to install.
"""
