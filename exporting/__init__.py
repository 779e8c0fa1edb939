"""Networks for other runtimes: written as ONNX files, checked, and run.

`onnx_file` writes what `graph.onnx` makes of a network, `opening` and `runtimes` read and run,
`comparison` puts runtimes side by side. ONNX and the runtimes are optional; `packages` says
what to install.
"""
