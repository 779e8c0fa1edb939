"""The scheduler's list of who takes part in a run on several machines.

MXNet's KVStore adds up gradients, but its processes wait forever for one that is gone. So each
of them also keeps a connection to the `Warden`, a thread of the scheduler's process: it numbers
the workers, passes on what they tell one another, finds the step after which all of them stop,
and tells all of them as soon as one is lost. `machines.client` is the other end.

Messages are JSON objects, one a line; they carry small things only.
"""
import json
import selectors
import socket
import threading
import time

__all__ = ["Link", "Warden", "LOST", "PING_S", "SILENCE_S"]

# Exit code of a process that ends because another one is gone.
LOST = 4
# A machine that fell silent is given up after this; one that closes its connection, at once.
PING_S, SILENCE_S = 5, 30
_LONGEST = 1 << 26


class Link:
    """One connection: JSON messages, one a line.

    Parameters
    ----------
    sock : socket.socket
    """

    def __init__(self, sock):
        self.sock = sock
        self.role = self.rank = None
        self.name, self.done = "?", False
        self._buffer, self._lock = b"", threading.Lock()
        self.heard = self.pinged = time.monotonic()
        sock.settimeout(SILENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self):
        return self.sock.fileno()

    def send(self, **message):
        """Send a message; raises OSError."""
        with self._lock:
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        """The messages that have come since; waits for some bytes.

        Raises
        ------
        OSError, ValueError
            If the other end is gone, or does not speak so.
        """
        data = self.sock.recv(1 << 16)
        if not data or len(self._buffer) > _LONGEST:
            raise ConnectionError("closed")
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not an object")
        return messages

    def ping(self):
        """Show that this end is alive, from time to time; raises OSError."""
        if time.monotonic() - self.pinged > PING_S:
            self.pinged = time.monotonic()
            self.send(ping=True)

    def silent(self):
        """Whether the other end has not been heard of for too long."""
        return time.monotonic() - self.heard > SILENCE_S


class Warden(threading.Thread):
    """Listens to all processes of a run.

    Parameters
    ----------
    address : (str, int)
        Where to listen.
    workers, servers : int
        How many there will be.
    patience : float
        Seconds in which all of them must have come.

    Raises
    ------
    OSError
        If it cannot listen there.
    """

    def __init__(self, address, workers, servers, patience):
        super().__init__(name="warden", daemon=True)
        self._listener = socket.create_server(address)
        self._wanted = {"worker": workers, "server": servers, "scheduler": 1}
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._members = []
        self._complete = self._over = False
        self._values, self._limits, self._signal = {}, {}, None

    def run(self):
        deadline = time.monotonic() + self._patience
        while not self._over:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    self._selector.register(Link(self._listener.accept()[0]),
                                            selectors.EVENT_READ)
                else:
                    self._receive(key.fileobj)
            self._watch()
            if not self._complete and time.monotonic() > deadline:
                self._abort(self._missing(), 2)

    def _receive(self, link):
        try:
            for message in link.receive():
                self._handle(link, message)
        except (OSError, ValueError, KeyError, TypeError):
            self._disconnect(link, "has gone")

    def _handle(self, link, message):
        if "hello" in message:
            self._greet(link, message)
        elif link.role is None:
            raise ValueError("a stranger")
        elif "gather" in message:
            self._gather(message["gather"], link.rank, message["value"])
        elif "stop" in message:
            self._request_stop(link, message["stop"])
        elif "limit" in message:
            self._agree(link.rank, message["limit"])
        elif "failed" in message:
            link.done = True
            self._abort(f"{link.name} stopped: {message['failed']}", message["code"], but=link)
        elif "done" in message:
            link.done = True
            if all(member.done for member in self._of("worker")):
                self._over = True
                self._tell(end=True)

    def _of(self, role=None):
        return [member for member in self._members if role in (None, member.role)]

    def _tell(self, role=None, but=None, **message):
        """Send a message to all, to this process last: it may end with it."""
        for link in sorted(self._of(role), key=lambda member: member.role == "scheduler"):
            if link is not but:
                try:
                    link.send(**message)
                except OSError:
                    continue    # its end is noticed when it is listened to

    # ---- coming ----------------------------------------------------------------------------

    def _greet(self, link, message):
        role, index = message["hello"], message["index"]
        link.name = f"{role} on {message['host']} (process {message['pid']})"
        if len(self._of(role)) >= self._wanted[role]:
            link.send(lost=f"this run has its {self._wanted[role]} {role}s already; is another "
                           "run using the same port?", code=2)
            return
        link.role, link.rank = role, index
        self._members.append(link)
        if index is not None and len([w for w in self._of("worker") if w.rank == index]) > 1:
            self._abort(f"two workers say that they are number {index} (DMLC_TASK_ID)", 2)
        elif all(len(self._of(role)) == count for role, count in self._wanted.items()):
            self._begin()

    def _begin(self):
        """Number the workers that have no number, and tell each its own."""
        workers = self._of("worker")
        free = sorted(set(range(len(workers))) - {worker.rank for worker in workers})
        for worker in workers:
            if worker.rank is None:
                worker.rank = free.pop(0)
            worker.name = f"worker {worker.rank}{worker.name[len('worker'):]}"
        self._complete = True
        for member in self._members:
            member.send(rank=member.rank, names=[
                worker.name for worker in sorted(workers, key=lambda worker: worker.rank)])

    def _missing(self):
        came = " and ".join(f"{len(self._of(role))} of {self._wanted[role]} {role}s"
                            for role in ("worker", "server"))
        return (f"within {self._patience:g} s only {came} came; is each started, with the same "
                "DMLC_PS_ROOT_URI and DMLC_PS_ROOT_PORT?")

    # ---- going on --------------------------------------------------------------------------

    def _gather(self, tag, rank, value):
        values = self._values.setdefault(tag, {})
        values[rank] = value
        if len(values) == self._wanted["worker"]:
            del self._values[tag]
            self._tell("worker", gathered=tag, values=[values[k] for k in sorted(values)])

    def _request_stop(self, link, number):
        """A process was asked to end by a signal: ask all workers how far they can go."""
        if not self._complete:
            self._abort(f"{link.name} was stopped before the run began", 128 + number)
        elif self._signal is None:
            self._signal = number
            self._tell("worker", stop=number)

    def _agree(self, rank, limit):
        """The step after which all workers stop: the first that none of them has passed."""
        self._limits[rank] = limit
        if len(self._limits) == self._wanted["worker"]:
            self._tell("worker", stop_at=max(self._limits.values()))

    # ---- going -----------------------------------------------------------------------------

    def _watch(self):
        for link in self._of():
            if link.silent():
                self._disconnect(link, f"has not been heard of for {SILENCE_S} s")
                continue
            try:
                link.ping()
            except OSError:
                self._disconnect(link, "has gone")

    def _disconnect(self, link, how):
        self._selector.unregister(link)
        link.sock.close()
        if link in self._members:
            self._members.remove(link)
            if not (self._over or link.done):
                self._abort(f"{link.name} {how}", LOST)

    def _abort(self, line, code, but=None):
        if not self._over:
            self._over = True
            self._tell(lost=line, code=code, but=but)
