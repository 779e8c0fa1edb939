"""Fuzzers and kill tests, run by hand (``make torture``); the tests run short forms of them."""
