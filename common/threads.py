"""Threads of MXNet and of OpenMP: how many, and what the environment may say of them."""
import math
import os
import time
from pathlib import Path

from .errors import UserError

__all__ = ["MOST_THREADS", "busy_shares", "free_cores", "own_environment", "physical_cores",
           "set_threads"]

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_TIMES = Path("/proc/stat")
_BY_SESSIONS = Path("/proc/sys/kernel/sched_autogroup_enabled")
_SAMPLE_S = 0.1    # ten of the ticks in which Linux counts


def _usable_cpus():
    return os.sched_getaffinity(0)


def _quota_cores(path):
    """CPU time this control group may use, in cores; infinite where no limit is set."""
    try:
        quota, period = path.read_text().split()[:2]
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _cores(cpu_folder):
    """The physical cores that this process may use, each as a set of its CPUs' numbers."""
    cores = {}
    for cpu in _usable_cpus():
        try:
            topology = cpu_folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            siblings = topology.read_text().strip()
        except OSError:
            siblings = str(cpu)
        cores.setdefault(siblings, set()).add(cpu)
    return list(cores.values())


def _threads_on(cores, quota_file):
    return max(1, math.ceil(min(round(cores), _quota_cores(quota_file))))


def physical_cores(cpu_folder=_CPU_FOLDER, quota_file=_CPU_QUOTA):
    """Number of physical cores that this process may use, at least 1.

    Hyper-threads of one core count once; a container's CPU quota bounds the number.
    """
    return _threads_on(len(_cores(cpu_folder)), quota_file)


def busy_shares(before, after, niced=False):
    """What part of the time each CPU was busy.

    Parameters
    ----------
    before, after : str
        /proc/stat at the beginning and at the end.
    niced : bool, default False
        Whether work of a lower priority (``nice``) counts.

    Returns
    -------
    dict of int to float
        By the number of the CPU.
    """
    first, last = _cpu_times(before), _cpu_times(after)
    shares = {}
    for cpu in first.keys() & last.keys():
        # user, nice, system, idle, waiting for disks, interrupts (2), other virtual machines
        times = [now - then for then, now in zip(first[cpu][:8], last[cpu][:8])]
        busy = times[0] + times[2] + sum(times[5:]) + (times[1] if niced else 0)
        shares[cpu] = busy / max(sum(times), 1)
    return shares


def _cpu_times(text):
    rows = (line.split() for line in text.splitlines() if line.startswith("cpu"))
    return {int(name[3:]): list(map(int, times)) for name, *times in rows if name != "cpu"}


def _nice_competes(by_sessions):
    """Whether work of a lower priority takes time from this process all the same."""
    try:
        # Linux then shares out the cores by sessions, and priorities only within each.
        if by_sessions.read_text().strip() == "1":
            return True
    except OSError:
        pass
    return os.nice(0) > 0


def free_cores(cpu_folder=_CPU_FOLDER, quota_file=_CPU_QUOTA, read=_CPU_TIMES.read_text,
               by_sessions=_BY_SESSIONS):
    """Number of physical cores that other processes leave free now, at least 1.

    Work of a lower priority does not count where it makes way for this process.
    """
    cores = _cores(cpu_folder)
    try:
        before = read()
        time.sleep(_SAMPLE_S)
        shares = busy_shares(before, read(), niced=_nice_competes(by_sessions))
    except OSError:    # no Linux
        shares = {}
    busy = sum(min(sum(shares.get(cpu, 0) for cpu in core), 1) for core in cores)
    return _threads_on(len(cores) - busy, quota_file)


# What MXNet, or its OpenMP, takes for a number: any other text makes it abort or hang, as do too
# few or too many. Smallest and largest value.
MOST_THREADS = 1024
_NUMBERS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MXNET_CPU_WORKER_NTHREADS", "MXNET_CPU_PRIORITY_NTHREADS",
                     "MXNET_MP_WORKER_NTHREADS", "MXNET_GPU_WORKER_NTHREADS",
                     "MXNET_GPU_COPY_NTHREADS", "MXNET_CPU_TEMP_COPY", "MXNET_GPU_TEMP_COPY",
                     "MXNET_CPU_PARALLEL_RAND_COPY", "MXNET_GPU_PARALLEL_RAND_COPY",
                     "MXNET_KVSTORE_REDUCTION_NTHREADS"), (1, MOST_THREADS)),
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


_chosen = {}    # what `set_threads` has added to this process's environment


def set_threads(environ=os.environ, takes_part=False, recorded=lambda: None):
    """Give the operators as many threads as cores are free, unless the user has said otherwise.

    Must run before MXNet or PyTorch is imported. Left alone, MXNet takes half of the logical
    CPUs, which idles half of a machine without hyper-threading; and its operator tuning, a
    benchmark at import, finds element-wise operators of any size faster on one thread (a
    product of two 8 MiB maps then takes three times as long as on two). A copy in the main
    thread must not start OpenMP either: it would get threads of its own, and GNU's OpenMP,
    with more threads than cores, lets all of them sleep between operators (15 % of a step).

    Where another process takes a core, each operator waits for the thread that shares it, and
    threads that wait by spinning take the core from the one that is waited for: so no more
    threads than free cores, and short spinning.

    Parameters
    ----------
    takes_part : bool, default False
        Whether the script may be one of several machines' processes (see `machines.client`).
        These get all cores: their machine is theirs, and nobody records each one's number.
    recorded : callable, optional
        ``recorded()`` -> the number of threads that the run to be resumed was begun with, on
        which its bits depend, or None.

    Returns
    -------
    str
        The number of threads in force, as OMP_NUM_THREADS has it.

    Raises
    ------
    UserError
        If a variable would make MXNet abort or hang.
    """
    role = environ.get("DMLC_ROLE")
    if role and not takes_part:
        raise UserError(f"DMLC_ROLE is '{role}', but only train_cifar.py and train_imagenet.py "
                        "run on several machines: unset it")
    _check_variables(environ)
    _choose(environ, "MXNET_USE_OPERATOR_TUNING", "0")
    _choose(environ, "MXNET_CPU_PARALLEL_SIZE", str(1 << 30))    # elements
    if not environ.get("OMP_NUM_THREADS"):
        several = role or (environ.get("WORLD_SIZE") or "1") != "1"    # MXNet's, or PyTorch's
        _choose(environ, "OMP_NUM_THREADS",
                str(physical_cores() if several else recorded() or free_cores()))
    if not environ.get("OMP_WAIT_POLICY"):
        _choose(environ, "GOMP_SPINCOUNT", "10000")    # GNU's own: 300,000 rounds of a loop
    return environ["OMP_NUM_THREADS"]


def _choose(environ, name, value):
    """Set a variable unless the user has; an empty one says nothing."""
    if not environ.get(name):
        environ[name] = value
        if environ is os.environ:
            _chosen[name] = value


def own_environment():
    """The environment without what `set_threads` has added: for a child that chooses itself."""
    return {name: value for name, value in os.environ.items() if _chosen.get(name) != value}
