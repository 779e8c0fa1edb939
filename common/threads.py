"""Threads of MXNet and of OpenMP: how many, and what the environment may say of them."""
import math
import os
from pathlib import Path

from .errors import UserError

__all__ = ["physical_cores", "set_threads"]

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def _usable_cpus():
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota_cores(path):
    """CPU time this control group may use, in cores; infinite where no limit is set."""
    try:
        quota, period = path.read_text().split()[:2]
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def physical_cores(cpu_folder=_CPU_FOLDER, quota_file=_CPU_QUOTA):
    """Number of physical cores that this process may use, at least 1.

    Hyper-threads of one core count once; a container's CPU quota bounds the number.
    """
    siblings = set()
    for cpu in _usable_cpus():
        try:
            topology = cpu_folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            siblings.add(topology.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return max(1, math.ceil(min(len(siblings), _quota_cores(quota_file))))


# What MXNet, or its OpenMP, takes for a number: any other text makes it abort or hang, as do too
# few or too many. Smallest and largest value.
_NUMBERS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MXNET_CPU_WORKER_NTHREADS", "MXNET_CPU_PRIORITY_NTHREADS",
                     "MXNET_MP_WORKER_NTHREADS", "MXNET_GPU_WORKER_NTHREADS",
                     "MXNET_GPU_COPY_NTHREADS", "MXNET_CPU_TEMP_COPY", "MXNET_GPU_TEMP_COPY",
                     "MXNET_CPU_PARALLEL_RAND_COPY", "MXNET_GPU_PARALLEL_RAND_COPY",
                     "MXNET_KVSTORE_REDUCTION_NTHREADS"), (1, 1024)),
    **dict.fromkeys(("MXNET_CPU_PARALLEL_SIZE", "MXNET_OMP_MAX_THREADS",
                     "MXNET_KVSTORE_BIGARRAY_BOUND", "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN",
                     "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD",
                     "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD", "MXNET_MP_OPENCV_NUM_THREADS",
                     "MXNET_MKLDNN_CACHE_NUM", "PS_VERBOSE"), (0, 2 ** 31 - 1)),
}
_CHOICES = {
    "MXNET_ENGINE_TYPE": ("NaiveEngine", "ThreadedEngine", "ThreadedEnginePerDevice"),
    **dict.fromkeys(("MXNET_EXEC_BULK_EXEC_TRAIN", "MXNET_EXEC_BULK_EXEC_INFERENCE",
                     "MXNET_MKLDNN_ENABLED", "MXNET_USE_NUM_CORES_OPERATOR_TUNING",
                     "MXNET_BACKWARD_DO_MIRROR", "MXNET_ENABLE_GPU_P2P"), ("0", "1")),
}


def _check_variables(environ):
    for name, (low, high) in _NUMBERS.items():
        text = environ.get(name, "")
        fits = text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high
        if text and not fits:
            raise UserError(f"the environment variable {name} must be a whole number from {low} "
                            f"to {high}, not '{text}'")
    for name, values in _CHOICES.items():
        text = environ.get(name)
        if text and text not in values:
            raise UserError(f"the environment variable {name} must be {' or '.join(values)}, not "
                            f"'{text}'")


def set_threads(environ=os.environ, takes_part=False):
    """Give MXNet's operators one thread a physical core, unless the user has said otherwise.

    Must run before MXNet is imported. Left alone, MXNet takes half of the logical CPUs,
    which idles half of a machine without hyper-threading; and its operator tuning, a
    benchmark at import, finds element-wise operators of any size faster on one thread (a
    product of two 8 MiB maps then takes three times as long as on two). A copy in the main
    thread must not start OpenMP either: it would get threads of its own, and GNU's OpenMP,
    with more threads than cores, lets all of them sleep between operators (15 % of a step).

    Parameters
    ----------
    takes_part : bool, default False
        Whether the script may be one of several machines' processes; see `machines.client`.

    Returns
    -------
    str
        The number of threads in force, as OMP_NUM_THREADS has it.

    Raises
    ------
    UserError
        If a variable would make MXNet abort or hang.
    """
    if environ.get("DMLC_ROLE") and not takes_part:
        raise UserError(f"DMLC_ROLE is '{environ['DMLC_ROLE']}', but only train_cifar.py and "
                        "train_imagenet.py run on several machines: unset it")
    _check_variables(environ)
    for name, value in (("MXNET_USE_OPERATOR_TUNING", "0"),
                        ("MXNET_CPU_PARALLEL_SIZE", str(1 << 30)),    # elements
                        ("OMP_NUM_THREADS", str(physical_cores()))):
        environ[name] = environ.get(name) or value    # an empty one says nothing
    return environ["OMP_NUM_THREADS"]
