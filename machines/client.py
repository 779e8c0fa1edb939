"""This process's part in a run on several machines.

A launcher (`machines.launch`, or a cluster's own) starts the same script many times and tells
each process its part in MXNet's variables, and one of ours: one scheduler, some servers, some
workers. `join` reads them. Nothing here imports MXNet, since MXNet blocks scheduler and servers
on import.

    DMLC_ROLE            scheduler, server or worker
    DMLC_PS_ROOT_URI     the scheduler's address
    DMLC_PS_ROOT_PORT    its port; the next one must be free, too: see `machines.warden`
    DMLC_NUM_WORKER      how many workers
    DMLC_NUM_SERVER      how many servers
    ATAC_SECRET          what all processes of the run know, and nobody else: at least 16 characters
    DMLC_TASK_ID         optional: the worker's number; worker 0 keeps the run's files
    DMLC_NODE_HOST       optional: this machine's address, as the others reach it
    DMLC_INTERFACE       optional: the network interface to use, in its place
"""
import collections
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time

from common.errors import UserError
from common.interruption import stopping
from common.screen import printable
from machines.warden import LOST, Link, Warden, proof

__all__ = ["WardenClient", "get_client", "introduce", "join", "leave", "register"]

SECRET = "ATAC_SECRET"
_NEEDED = ("DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER", SECRET)
_LEAST_SECRET = 16
_LOSS_S = 2     # in which a process that is gone is noticed
_RELAY_S = 5    # that the warden gets to pass on why its own process ends
# Where launchers put a worker's number; in a job of Slurm, mpirun's is the right one.
_NUMBERS = ("DMLC_TASK_ID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID",
            "JOB_COMPLETION_INDEX")
_client = None    # this process's, once it has joined


def get_client():
    """This process's `WardenClient`, or None where it trains alone."""
    return _client


def register(client, patience):
    """Take a client for this process's, and wait until all processes are there."""
    global _client
    _client = client
    client.wait_for_all(patience)


def join(patience, environ=os.environ):
    """Take the part that the launcher's variables name, if there are any.

    A scheduler or server stays in here until the run ends. Must come before MXNet's import.

    Parameters
    ----------
    patience : float
        Seconds to wait for the other processes.

    Raises
    ------
    UserError
        If a variable is missing or wrong, or nobody answers.
    """
    role = environ.get("DMLC_ROLE")
    if not role:
        return
    part = _read_part(environ, role)
    environ["DMLC_PS_ROOT_URI"] = part.host    # ps-lite's sockets know no names
    if role == "scheduler":
        _listen(part, patience)
    link = _connect(part, patience)
    if not environ.get("DMLC_INTERFACE"):
        # The address that leads to the scheduler is the one that the others can reach.
        environ.setdefault("DMLC_NODE_HOST", link.sock.getsockname()[0])
    register(WardenClient(link, role), patience)
    if role != "worker":
        _serve()


# What the launcher's variables say of this process; `index` is a worker's number, if it has one.
_Part = collections.namedtuple("_Part", "role host port workers servers index secret")


def _number(environ, name, low, high):
    text = environ[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise UserError(f"{name} must be a whole number from {low} to {high}, not '{text}'")
    return int(text)


def _read_part(environ, role):
    if role not in ("scheduler", "server", "worker"):
        raise UserError(f"DMLC_ROLE must be scheduler, server or worker, not '{role}'")
    missing = [name for name in _NEEDED if not environ.get(name)]
    if missing:
        raise UserError(f"DMLC_ROLE is set, but {', '.join(missing)} is not: start all processes "
                        "with `python -m machines.launch`, or set the variables of "
                        "docs/machines.md for each")
    port = _number(environ, "DMLC_PS_ROOT_PORT", 1, 65534)
    workers, servers = (_number(environ, f"DMLC_NUM_{what}", 1, 9999)
                        for what in ("WORKER", "SERVER"))
    named = next((name for name in _NUMBERS if environ.get(name)), None)
    index = _number(environ, named, 0, workers - 1) if named and role == "worker" else None
    if len(environ[SECRET]) < _LEAST_SECRET or not environ[SECRET].isascii():
        raise UserError(f"{SECRET} must be at least {_LEAST_SECRET} ASCII characters, the same "
                        "for all processes: such as those of `openssl rand -hex 16`")
    interface = environ.get("DMLC_INTERFACE")
    if interface and interface not in [name for _, name in socket.if_nameindex()]:
        raise UserError(f"DMLC_INTERFACE: this machine has no network interface '{interface}'")
    host = _address(environ, "DMLC_PS_ROOT_URI")
    if environ.get("DMLC_NODE_HOST"):
        _address(environ, "DMLC_NODE_HOST")
    return _Part(role, host, port, workers, servers, index, environ[SECRET])


def _address(environ, name):
    try:
        return socket.gethostbyname(environ[name])
    except (OSError, UnicodeError):    # the latter for what no name can be
        raise UserError(f"{name}: there is no machine '{environ[name]}'") from None


def _listen(part, patience):
    try:
        socket.create_server((part.host, part.port)).close()    # MXNet's own would abort
        Warden((part.host, part.port + 1), part.workers, part.servers, patience,
               part.secret).start()
    except OSError as error:
        raise UserError(f"the scheduler cannot listen on {part.host}, ports {part.port} and "
                        f"{part.port + 1}: {error.strerror}; choose others with "
                        "DMLC_PS_ROOT_PORT") from None


def _connect(part, patience):
    """A link to the warden, which knows who speaks, and which has shown that it is the run's."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return introduce((part.host, part.port + 1), part.secret, part.role, part.index,
                             max(min(5, deadline - time.monotonic()), 0.1))
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no scheduler answers at {part.host}, port {part.port + 1}, after "
                    f"{patience:g} s ({error.strerror or error}): is it started, is "
                    f"DMLC_PS_ROOT_URI right, are ports {part.port} and {part.port + 1} open?"
                    ) from None
            time.sleep(0.2)


def introduce(address, secret, role, index, seconds):
    """A link to the warden at an address, which knows who speaks, and has shown that it is the
    run's; raises OSError, or UserError if it is another one's."""
    link = Link(socket.create_connection(address, timeout=seconds))
    silence = link.sock.gettimeout()
    link.sock.settimeout(seconds)
    try:
        challenge = link.next()["challenge"]
        link.send(hello=role, index=index, host=socket.gethostname(), pid=os.getpid(),
                  challenge=link.challenge, proof=proof(secret, "client", challenge))
        answer = link.next()
        if "refused" not in answer and not link.check(secret, "warden", answer["welcome"]):
            raise ValueError
    except (ValueError, KeyError, RecursionError):
        raise UserError(f"who answers at {address[0]}, port {address[1]}, is not of this run; is "
                        "another program using that port?") from None
    if "refused" in answer:
        raise UserError(f"who answers at {address[0]}, port {address[1]}, has another secret than "
                        f"this {role}; is another run using that port?")
    link.trust()
    link.sock.settimeout(silence)
    return link


def _serve():
    """Do MXNet's part of a scheduler or server, until the run ends."""
    import model.mxnet_compat  # noqa: F401  (comes before mxnet)
    import mxnet  # noqa: F401  (does not return)

    threading.Event().wait()


def leave(code, reason=None, text=""):
    """End this process.

    Parameters
    ----------
    code : int
        Exit code.
    reason : str, optional
        Why it ends before the others; they end, too. Without one, it waits until all are done.
    text : str, optional
        To be written to standard error.
    """
    if _client is not None and code == 1:
        # An unforeseen error may be what a broken connection to another worker makes of a sum:
        # of that the warden knows, and ends this process with a line.
        time.sleep(_LOSS_S)
    sys.stderr.write(text)
    if _client is not None:
        _client.leave(code, reason)
    sys.exit(code)


class WardenClient:
    """The connection to the run's `Warden`, listened to by a thread of its own.

    Parameters
    ----------
    link : Link
        One that the warden trusts.
    role : str
    place : str, default 'the scheduler'
        The process that the warden is in.
    warden : Warden, optional
        If it is in this process.

    Attributes
    ----------
    rank : int
        Number of this worker.
    names : list of str
        The workers, for people.
    signal : int or None
        What has asked all workers to stop.
    keep
        Something that must live until this process leaves.
    """

    def __init__(self, link, role, place="the scheduler", warden=None):
        self.role, self.rank, self.names = role, None, []
        self._place, self._warden = place, warden
        self._link, self._changed = link, threading.Condition()
        self._gathered, self._tag = {}, 0
        self._step, self._limit, self._stop_at = 0, None, None
        self.signal = self.keep = None
        self._failed = self._ended = False
        self._wake = self._signals() if role != "worker" else None
        threading.Thread(target=self._listen, name="warden client", daemon=True).start()

    @property
    def count(self):
        """How many workers there are."""
        return len(self.names)

    def wait_for_all(self, patience):
        """Wait until all processes are there. The warden has the same patience, then tells."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.names, patience + 10):
                raise UserError(f"{self._place} has said nothing for {patience + 10:g} s")

    def gather(self, value):
        """The values of all workers, in their order; all must ask for them.

        Parameters
        ----------
        value
            JSON-compatible; floats keep every bit.
        """
        self._tag += 1
        self._send(gather=self._tag, value=value)
        with self._changed:
            self._changed.wait_for(lambda: self._tag in self._gathered)
            return self._gathered.pop(self._tag)

    def stops_after(self, step, number=None):
        """Whether all workers stop after this step.

        Parameters
        ----------
        step : int
            Steps that this worker has done, since the beginning of the run.
        number : int, optional
            The signal that asks for it here, if one does.
        """
        if number is not None and self.signal is None:
            self._send(stop=int(number))
        with self._changed:
            self._step = step
            # Nobody goes beyond what it has promised until the common step is known.
            self._changed.wait_for(lambda: self._stop_at is not None or self._limit is None
                                   or step < self._limit)
            return self._stop_at is not None and step >= self._stop_at

    def leave(self, code, reason=None):
        """End this process; see `leave`."""
        self._failed = reason is not None
        if self._failed:
            self._send(failed=reason, code=code)
            if self._warden:
                self._warden.wait(_RELAY_S)
        else:
            try:
                self._send(done=True)
                with self._changed:
                    self._changed.wait_for(lambda: self._ended)
            except KeyboardInterrupt:    # who waits here for the others need not wait
                code = code or 130
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # MXNet's own end would wait for the others, who may be gone.
        os._exit(code)

    @contextlib.contextmanager
    def deadline(self, seconds, line):
        """End this process with an error if the block takes longer."""
        timer = threading.Timer(seconds, lambda: self._fail(line))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _fail(self, line):
        _write_error(line)
        self.leave(2, line)

    def _send(self, **message):
        with contextlib.suppress(OSError):    # the thread that listens notices, and ends it all
            self._link.send(**message)

    # ---- the thread ------------------------------------------------------------------------

    def _signals(self):
        """A file that tells of what asks to stop, even while MXNet blocks the main thread."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        for number in stopping():
            signal.signal(number, lambda number, frame: None)
        return read

    def _listen(self):
        files = [self._link] + ([self._wake] if self._wake is not None else [])
        messages = self._link.unread    # those that came with the welcome
        while not self._ended:
            try:
                for message in messages:
                    self._handle(message)
                ready = select.select(files, [], [], 1.0)[0]
                if self._wake in ready:
                    for number in os.read(self._wake, 64):
                        self._send(stop=number)
                messages = self._link.receive() if self._link in ready else ()
                self._link.ping()
                if self._link.silent():
                    raise ConnectionError
            except Exception:    # else this thread ended, and the main thread waited for ever
                if not self._ended:
                    self._abort(f"{self._place} has gone", LOST)

    def _handle(self, message):
        if "lost" in message:
            self._abort(message["lost"], message["code"])
        if message.get("end") and self.role != "worker":
            os._exit(0)
        with self._changed:
            if "names" in message:
                self.rank, self.names = message["rank"], message["names"]
            elif "gathered" in message:
                self._gathered[message["gathered"]] = message["values"]
            elif "stop" in message:
                self.signal, self._limit = message["stop"], self._step + 1
                self._send(limit=self._limit)
            elif "stop_at" in message:
                self._stop_at = message["stop_at"]
            elif "end" in message:
                self._ended = True
            self._changed.notify_all()

    def _abort(self, line, code):
        """End this process at once: its main thread may wait for the other one forever.

        No file is left broken: each is written under a temporary name first.
        """
        if not self._failed:    # else it has said so itself, and is about to end
            _write_error(line)
            os._exit(code)


def _write_error(line):
    # Not through a stream: the main thread may hold its lock.
    with contextlib.suppress(OSError):
        os.write(2, f"error: {printable(line)}\n".encode())
