"""Starting the processes of a run on several machines, as a launcher does, to be watched."""
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time

from tests import scripts

DEADLINE_S = 120
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def launcher(*arguments):
    """The command line of the launcher."""
    return [sys.executable, "-m", "machines.launch", *map(str, arguments)]


def environ(**more):
    """The variables of a process started by a test."""
    return {**os.environ, **THREADS, "PYTHONPATH": str(scripts.ROOT), **more}


def free_port():
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


class Cluster:
    """Scheduler, servers and workers, each started by hand, with its output in a file.

    Parameters
    ----------
    folder : pathlib.Path
        Where the outputs go.
    workers : int, default 2
        How many there are to be.
    address : str, default '127.0.0.1'
        The scheduler's.
    """

    def __init__(self, folder, workers=2, address="127.0.0.1"):
        self.folder, self.processes = folder, {}
        port = free_port()
        self.warden = (address, port + 1)    # where it listens
        self._environ = environ(
            DMLC_PS_ROOT_URI=address, DMLC_PS_ROOT_PORT=str(port),
            DMLC_NUM_WORKER=str(workers), DMLC_NUM_SERVER="1", ATAC_SECRET=secrets.token_hex(16))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def start(self, role, command, number=None, cwd=None, prefix=()):
        """Start a process; its name is its role and number."""
        name = role if number is None else f"{role}{number}"
        variables = {**self._environ, "DMLC_ROLE": role}
        if number is not None:
            variables["DMLC_TASK_ID"] = str(number)
        with open(self.folder / f"{name}.out", "w") as stream:
            self.processes[name] = subprocess.Popen(
                [*prefix, *command], cwd=cwd or self.folder, env=variables, stdout=stream,
                stderr=subprocess.STDOUT)

    def start_all(self, command, folders=(None, None)):
        """Start a scheduler, a server, and the workers, each in a folder of its own."""
        self.start("scheduler", command)
        self.start("server", command)
        for number, folder in enumerate(folders):
            self.start("worker", command, number, folder)

    def output(self, name):
        """What a process has written so far."""
        return (self.folder / f"{name}.out").read_text()

    def signal(self, name, number):
        """Send a signal to a process."""
        self.processes[name].send_signal(number)

    def kill(self, name):
        """SIGKILL."""
        self.signal(name, signal.SIGKILL)

    def wait_for(self, condition):
        """Wait until something has happened, while all processes are there."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert all(process.poll() is None for process in self.processes.values()), self
            assert time.monotonic() < deadline, self
            time.sleep(0.01)

    def codes(self, seconds=DEADLINE_S):
        """The exit codes of all, by name, waiting for their end."""
        deadline = time.monotonic() + seconds
        for process in self.processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"no end within {seconds} s: {self}") from None
        return {name: process.returncode for name, process in self.processes.items()}

    def __repr__(self):
        return "\n".join(f"== {name}, code {process.poll()}\n{self.output(name)}"
                         for name, process in self.processes.items())
