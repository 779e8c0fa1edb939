"""Start a script once for each process of a run on several machines.

    python -m machines.launch -n 2 -s 1 -- train_cifar.py --kv-store dist_sync ...
    python -m machines.launch -n 2 -s 1 -H hosts -- train_cifar.py --kv-store dist_sync ...

In another folder than the project's, name the files: python PROJECT/machines/launch.py ...
-- PROJECT/train_cifar.py ...

A front for the launcher in MXNet's wheel (``mxnet/tools/launch.py``): the same options, the
same variables for the processes (see `machines.client`). The wheel's own starts nothing on
Python 3.9 and later, since its tracker calls ``Thread.isAlive``; so this one starts the
processes itself, passes on what stops it, and returns the code of the first that failed.
"""
import argparse
import collections
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):    # started as a file, from any folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.arguments import Parser, positive_int
from common.errors import UserError, run_script
from common.files import read_text
from common.interruption import ends_with_parent, stopping
from common.threads import physical_cores
from machines.client import SECRET

__all__ = ["main", "Plan", "Start", "commands", "read_hosts"]

# What the others get to end by themselves when one has failed, or when all were asked to stop.
_GRACE_S = 45
_MOST_HOSTFILE_BYTES = 1 << 20
# Variables that a process on another machine should have, too.
_PASSED_ON = ("OMP_", "MXNET_", "PS_", "DMLC_INTERFACE")


def make_parser():
    parser = Parser(prog="python -m machines.launch", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-n", "--num-workers", type=positive_int, required=True, metavar="N",
        help="workers: processes that train")
    add("-s", "--num-servers", type=positive_int, metavar="N",
        help="servers: processes that add up gradients (default: as many as workers)")
    add("-H", "--hostfile", metavar="FILE",
        help="file with a machine a line (NAME or USER@NAME, :PORT of its ssh)")
    add("--launcher", choices=("local", "ssh", "mpi", "slurm"),
        help="how processes are started (default: ssh with -H, else local)")
    add("--host", metavar="ADDRESS",
        help="this machine's address, as the others reach it (default: the one that leads to "
             "the first of the hosts)")
    add("-p", "--port", type=positive_int, metavar="PORT",
        help="port of the scheduler; the next one is used, too (default: free ones)")
    add("--env", action="append", default=[], metavar="NAME=VALUE",
        help="set a variable for all processes; may be given several times")
    add("--python", default=sys.executable, metavar="FILE",
        help="interpreter on the machines (default: this one)")
    add("command", nargs=argparse.REMAINDER, metavar="-- SCRIPT OPTIONS",
        help="what each process runs")
    return parser


def read_hosts(path):
    """(name, ssh port or None) of each machine in a host file; # begins a comment.

    Raises
    ------
    UserError
        If it cannot be read or names nobody.
    """
    lines = read_text(path, _MOST_HOSTFILE_BYTES, "--hostfile").splitlines()
    words = [line.split("#")[0].split()[:1] for line in lines]
    hosts = []
    for name, _, port in (word[0].partition(":") for word in words if word):
        if not name or name.startswith("-") or not (port.isdigit() or not port):
            raise UserError(f"--hostfile {path}: '{name}:{port}' names no machine")
        hosts.append((name, port or None))
    if not hosts:
        raise UserError(f"--hostfile {path} names no machine")
    return hosts


class Plan:
    """What is to be started, and where.

    Parameters
    ----------
    options : argparse.Namespace
        Of `make_parser`.

    Raises
    ------
    UserError
        If options contradict each other.
    """

    def __init__(self, options):
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            raise UserError("say what to run: -- train_cifar.py OPTIONS")
        self.command = [options.python, "-u", *command]
        self.workers = options.num_workers
        self.servers = options.num_servers or options.num_workers
        self.launcher = options.launcher or ("ssh" if options.hostfile else "local")
        self.hostfile = options.hostfile
        if self.launcher == "ssh" and not options.hostfile:
            raise UserError("--launcher ssh needs the machines: -H FILE")
        if self.launcher in ("local", "slurm") and options.hostfile:
            raise UserError(f"--launcher {self.launcher} takes no -H")
        self.hosts = read_hosts(options.hostfile) if options.hostfile else []
        self.environ = self._environ(options)

    def _environ(self, options):
        """Variables for all processes."""
        environ = {name: value for name, value in os.environ.items()
                   if name.startswith(_PASSED_ON)}
        for setting in options.env:
            name, equals, value = setting.partition("=")
            if not (name.isidentifier() and equals):
                raise UserError(f"--env takes NAME=VALUE, not '{setting}'")
            environ[name] = value
        if self.launcher == "local":
            # They share the cores; and threads that wait by spinning would stop one another.
            environ.setdefault("OMP_NUM_THREADS", str(max(physical_cores() // self.workers, 1)))
            environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        host = options.host or self._own_address()
        return {**environ, "DMLC_PS_ROOT_URI": host,
                "DMLC_PS_ROOT_PORT": str(options.port or _free_port(host)),
                "DMLC_NUM_WORKER": str(self.workers), "DMLC_NUM_SERVER": str(self.servers),
                SECRET: secrets.token_hex(16)}

    def _own_address(self):
        if self.launcher == "local":
            return "127.0.0.1"
        target = self.hosts[0][0].rpartition("@")[2] if self.hosts else socket.gethostname()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))    # sends nothing, but chooses a way
                address = probe.getsockname()[0]
        except OSError as error:
            raise UserError(f"there is no way to '{target}' ({error.strerror}); give this "
                            "machine's address with --host") from None
        if address.startswith("127.") and self.launcher != "ssh":
            raise UserError(f"others cannot reach this machine at {address}, which is its own "
                            "name for itself; give its address with --host")
        return address


def _free_port(host):
    """A port that is free together with the next one."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind((host, 0))
                port = first.getsockname()[1]
                second.bind((host, port + 1))
            except OverflowError:
                continue
            except OSError as error:
                if first.getsockname()[1]:
                    continue
                raise UserError(f"--host {host}: {error.strerror}") from None
            return port
    raise UserError("no two free ports side by side were found; choose them with --port")


# A process to start: its command line, the variables that it sees besides this process's own,
# and what it reads.
Start = collections.namedtuple("Start", "command environ input", defaults=("",))


def commands(plan):
    """What to start after the scheduler: list of `Start`.

    The run's secret stands in no command line, where others on the machine could read it, but
    for mpirun's: it has no other way that all of its makes know.
    """
    parts = [("worker", k) for k in range(plan.workers)]
    parts += [("server", k) for k in range(plan.servers)]
    own = [{**plan.environ, "DMLC_ROLE": role, "DMLC_TASK_ID": str(k)} for role, k in parts]
    if plan.launcher == "local":
        return [Start(plan.command, environ) for environ in own]
    if plan.launcher == "ssh":
        return [_ssh(plan, environ, int(environ["DMLC_TASK_ID"])) for environ in own]
    # One step for each role: the launched processes find their numbers in the cluster's variables.
    started = []
    for role, count in (("worker", plan.workers), ("server", plan.servers)):
        environ = {**plan.environ, "DMLC_ROLE": role}
        if plan.launcher == "slurm":
            started.append(Start(["srun", "--overlap", "--export=ALL", "-n", str(count),
                                  *plan.command], environ))
            continue
        start = ["mpirun", "-n", str(count)]
        start += ["--hostfile", plan.hostfile] if plan.hostfile else []
        started.append(Start([*start, "env", *_settings(environ), *plan.command], {}))
    return started


def _settings(environ):
    return [f"{name}={value}" for name, value in environ.items()]


def _ssh(plan, environ, number):
    name, port = plan.hosts[number % len(plan.hosts)]
    shown = {key: value for key, value in environ.items() if key != SECRET}
    line = (f"read -r {SECRET} && export {SECRET} && cd {shlex.quote(os.getcwd())} && exec "
            + shlex.join(["env", *_settings(shown), *plan.command]))
    command = ["ssh", "-o", "BatchMode=yes", *(["-p", port] if port else []), name, line]
    return Start(command, {}, environ[SECRET] + "\n")


# ---- running ----------------------------------------------------------------------------------

def _start(start):
    try:
        # A session of its own: Ctrl-C is for the launcher alone, which passes it on once.
        process = subprocess.Popen(start.command, env={**os.environ, **start.environ}, text=True,
                                   stdin=subprocess.PIPE if start.input else subprocess.DEVNULL,
                                   start_new_session=True, preexec_fn=ends_with_parent())
    except OSError as error:
        raise UserError(f"cannot start {start.command[0]}: {error.strerror}") from None
    if start.input:
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:
            stream.write(start.input)
    return process


class _Signals:
    """Passes SIGTERM and Ctrl-C on to the scheduler, which makes all workers stop together."""

    def __init__(self):
        self.processes, self.deadline = [], None
        for number in stopping():
            signal.signal(number, self._pass_on)

    def _pass_on(self, number, frame):
        if self.deadline is None:
            self.deadline = time.monotonic() + _GRACE_S
            for process in self.processes[:1]:
                process.send_signal(number)
        else:
            _kill(self.processes)


def _kill(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run(plan):
    """Start all processes and wait for their end; returns the exit code.

    When one fails the others end by themselves; those that do not are killed.
    """
    signals, code = _Signals(), None
    try:
        scheduler = Start(plan.command, {**plan.environ, "DMLC_ROLE": "scheduler"})
        for start in (scheduler, *commands(plan)):
            signals.processes.append(_start(start))
        while any(process.poll() is None for process in signals.processes):
            time.sleep(0.05)
            codes = [process.returncode for process in signals.processes if process.returncode]
            if codes and code is None:
                code, signals.deadline = codes[0], time.monotonic() + _GRACE_S
            if signals.deadline and time.monotonic() > signals.deadline:
                break
    finally:
        _kill(signals.processes)
        for process in signals.processes:
            process.wait()
    code = code or next((p.returncode for p in signals.processes if p.returncode), 0)
    return 128 - code if code < 0 else code


def main(argv=None):
    return run(Plan(make_parser().parse_args(argv)))


if __name__ == "__main__":
    run_script(main)
