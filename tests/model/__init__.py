"""Tests of the package `model`."""
import model.mxnet_compat  # noqa: F401  (before mxnet, which the tests import)
