"""What makes a process fast on a CPU, in which MXNet defines networks and PyTorch computes."""
import contextlib
import ctypes
import os

__all__ = ["leave_cpu_to_pytorch"]

# glibc's numbers of its settings, and the largest values that it takes.
_TRIM_THRESHOLD, _MOST_KEPT = -1, 2 ** 31 - 1
_MMAP_THRESHOLD, _LARGEST_KEPT = -3, 32 << 20


def leave_cpu_to_pytorch():
    """Prepare this process for PyTorch; to be called before MXNet computes anything.

    benchmarks/NOTES.md tells what it brings: up to half of a training step.
    """
    _keep_freed_memory()
    _keep_mxnet_to_one_thread()


def _keep_freed_memory():
    """Have memory that PyTorch gives back stay in the process, for the next step.

    Otherwise Linux takes it, and fills all of it with zeros when the next step asks for it.
    """
    with contextlib.suppress(OSError, AttributeError):    # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)


def _keep_mxnet_to_one_thread():
    """Have MXNet, which only draws weights here, compute in the thread that calls it.

    Its own threads would each hold OpenMP threads, and where there are more of these than
    cores, GNU's OpenMP lets PyTorch's sleep between any two operators.
    """
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet as mx

    name = "MXNET_ENGINE_TYPE"
    if os.environ.get(name):
        return
    os.environ[name] = "NaiveEngine"
    try:
        with _no_standard_error():    # where MXNet would tell it
            mx.nd.waitall()    # its engine starts now
    finally:
        del os.environ[name]    # a child process may compute with MXNet


@contextlib.contextmanager
def _no_standard_error():
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
