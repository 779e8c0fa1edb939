"""The scheduler's list of who takes part in a run on several machines.

MXNet's KVStore adds up gradients, but its processes wait forever for one that is gone. So each
of them also keeps a connection to the `Warden`, a thread of the scheduler's process: it numbers
the workers, passes on what they tell one another, finds the step after which all of them stop,
and tells all of them as soon as one is lost. `machines.client` is the other end.

Messages are JSON objects, one a line; they carry small things only. Both ends first show that
they know the run's secret, without sending it: each answers the other's random challenge by
its HMAC under the secret (RFC 2104). A connection that has not done so yet is a stranger's. It
may send one short line within `STRANGER_S` seconds, and whatever it does ends it alone.
"""
import contextlib
import hashlib
import hmac
import json
import secrets
import selectors
import socket
import threading
import time

__all__ = ["Link", "Warden", "LOST", "PING_S", "SILENCE_S", "proof"]

# Exit code of a process that ends because another one is gone.
LOST = 4
# A machine that fell silent is given up after this; one that closes its connection, at once.
PING_S, SILENCE_S = 5, 30
# Bytes of a line, from a stranger and from one of the run.
SHORT, _LONGEST = 1 << 10, 1 << 26
# How long a stranger's connection is kept, and how many: the oldest makes room for a new one.
STRANGER_S, _MOST_STRANGERS = 10, 128


def proof(secret, speaker, challenge):
    """What shows that a speaker, "client" or "warden", knows the secret: text."""
    message = f"{speaker} {challenge}".encode()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


class Link:
    """One connection: JSON messages, one a line.

    Parameters
    ----------
    sock : socket.socket

    Attributes
    ----------
    longest : int
        The bytes that a line may have; few until `trust`.
    challenge : str
        What the other end is to answer.
    unread : list of dict
        What came together with the message that `next` gave.
    """

    def __init__(self, sock):
        self.sock, self.longest = sock, SHORT
        self.role = self.rank = None
        self.name, self.done = "?", False
        self.challenge = secrets.token_hex(16)
        self.unread = []
        self._buffer, self._lock = bytearray(), threading.Lock()
        self.since = self.heard = self.pinged = time.monotonic()
        sock.settimeout(SILENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self):
        return self.sock.fileno()

    def trust(self):
        """The other end has shown that it knows the secret: its messages may be long."""
        self.longest = _LONGEST

    def check(self, secret, speaker, answer):
        """Whether the other end has answered the challenge as one who knows the secret."""
        expected = proof(secret, speaker, self.challenge)
        return hmac.compare_digest(expected.encode(), str(answer).encode())

    def send(self, **message):
        """Send a message; raises OSError."""
        with self._lock:
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        """The messages that have come since; waits for some bytes.

        Raises
        ------
        OSError, ValueError, RecursionError
            If the other end is gone, or does not speak so.
        """
        data = self.sock.recv(min(self.longest, 1 << 16))
        if not data:
            raise ConnectionError("closed")
        self.heard = time.monotonic()
        self._buffer += data
        lines = []
        if b"\n" in data:
            *lines, self._buffer = self._buffer.split(b"\n")
        if any(len(line) > self.longest for line in (*lines, self._buffer)):
            raise ValueError("a line that is too long")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not an object")
        return messages

    def next(self):
        """The next message; waits for it. Raises as `receive` does."""
        while not self.unread:
            self.unread = self.receive()
        return self.unread.pop(0)

    def ping(self):
        """Show that this end is alive, from time to time; raises OSError."""
        if time.monotonic() - self.pinged > PING_S:
            self.pinged = time.monotonic()
            self.send(ping=True)

    def silent(self):
        """Whether the other end has not been heard of for too long."""
        return time.monotonic() - self.heard > SILENCE_S


class Warden:
    """Listens to all processes of a run, in a thread of its own.

    Parameters
    ----------
    address : (str, int)
        Where to listen.
    workers, servers : int
        How many there will be. Without servers there is no scheduler, either: then this is
        worker 0's process.
    patience : float
        Seconds in which all of them must have come.
    secret : str
        What they all know.

    Raises
    ------
    OSError
        If it cannot listen there.
    """

    def __init__(self, address, workers, servers, patience, secret):
        self._listener = socket.create_server(address)
        self.address = self._listener.getsockname()
        self._listener.setblocking(False)
        self._wanted = {"worker": workers, "server": servers,
                        "scheduler": int(servers > 0)}
        self._patience, self._secret = patience, secret
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._strangers, self._members = [], []
        self._complete = self._over = False
        self._values, self._limits, self._signal = {}, {}, None
        self._thread = threading.Thread(target=self._run, name="warden", daemon=True)

    def start(self):
        """Begin to listen."""
        self._thread.start()

    def wait(self, seconds):
        """Wait until it has told all of the run's end."""
        self._thread.join(seconds)

    def _run(self):
        deadline = time.monotonic() + self._patience
        while not self._over:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._receive(key.fileobj)
            self._watch()
            if not self._complete and time.monotonic() > deadline:
                self._abort(self._missing(), 2)

    def _accept(self):
        link = None
        if len(self._strangers) >= _MOST_STRANGERS:
            self._disconnect(self._strangers[0])
        try:
            link = Link(self._listener.accept()[0])
            link.send(challenge=link.challenge)
        except OSError:    # it has gone already, or this process has no file left for it
            if link is None and self._strangers:
                self._disconnect(self._strangers[0])
            return
        self._selector.register(link, selectors.EVENT_READ)
        self._strangers.append(link)

    def _receive(self, link):
        try:
            for message in link.receive():
                self._handle(link, message)
        except OSError:
            self._disconnect(link)
        except Exception as error:  # whatever one sends, the others' links go on
            self._disconnect(link, f"sent what is no message ({error!r})")

    def _handle(self, link, message):
        if link in self._strangers:
            self._admit(link, message)
        elif "gather" in message:
            self._gather(message["gather"], link.rank, message["value"])
        elif "stop" in message:
            self._request_stop(link, message["stop"])
        elif "limit" in message:
            self._agree(link.rank, message["limit"])
        elif "failed" in message:
            link.done = True
            self._abort(f"{link.name} stopped: {message['failed']}", message["code"],
                        excluded=link)
        elif "done" in message:
            link.done = True
            if all(member.done for member in self._of("worker")):
                self._over = True
                self._tell(end=True)

    def _of(self, role=None):
        return [member for member in self._members if role in (None, member.role)]

    def _is_here(self, link):
        """Whether it leads to this process."""
        return link.role == "scheduler" or not self._wanted["scheduler"] and link.rank == 0

    def _tell(self, role=None, excluded=None, **message):
        """Send a message to all, to this process last: it may end with it."""
        for link in sorted(self._of(role), key=self._is_here):
            if link is not excluded:
                self._send(link, **message)

    def _send(self, link, **message):
        try:
            link.send(**message)
        except OSError:    # perhaps in the middle of a line: whoever listens to it notices
            with contextlib.suppress(OSError):
                link.sock.shutdown(socket.SHUT_RDWR)

    # ---- coming ----------------------------------------------------------------------------

    def _admit(self, link, message):
        """Make a member of a stranger that knows the secret."""
        role, index = message["hello"], message["index"]
        if not link.check(self._secret, "client", message["proof"]):
            self._send(link, refused=True)
            raise ValueError("another secret")
        if index is not None and not 0 <= index < self._wanted[role]:
            raise ValueError("a number that no worker has")
        link.trust()
        self._send(link, welcome=proof(self._secret, "warden", str(message["challenge"])))
        if len(self._of(role)) >= self._wanted[role]:
            self._send(link, lost=f"this run has its {self._wanted[role]} {role}s already; is "
                                  "another run using the same port?", code=2)
            return
        link.role, link.rank = role, index
        link.name = f"{role} on {message['host']} (process {message['pid']})"
        self._strangers.remove(link)
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
        names = [worker.name for worker in sorted(workers, key=lambda worker: worker.rank)]
        for member in self._members:
            self._send(member, rank=member.rank, names=names)

    def _missing(self):
        came = " and ".join(f"{len(self._of(role))} of {self._wanted[role]} {role}s"
                            for role in ("worker", "server") if self._wanted[role])
        address = ("DMLC_PS_ROOT_URI and DMLC_PS_ROOT_PORT" if self._wanted["server"]
                   else "address for torchrun")
        return (f"within {self._patience:g} s only {came} came; is each started, with the same "
                f"{address}?")

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
        for link in list(self._strangers):
            if time.monotonic() - link.since > STRANGER_S:
                self._disconnect(link)
        for link in self._of():
            if link.silent():
                self._disconnect(link, f"has not been heard of for {SILENCE_S} s")
                continue
            try:
                link.ping()
            except OSError:
                self._disconnect(link)

    def _disconnect(self, link, how="has gone"):
        if link in self._strangers:
            self._strangers.remove(link)
        elif link in self._members:
            self._members.remove(link)
        else:
            return    # already: it was heard of in the same round
        self._selector.unregister(link)
        link.sock.close()
        if link.role and not (self._over or link.done):
            self._abort(f"{link.name} {how}", LOST)

    def _abort(self, line, code, excluded=None):
        if not self._over:
            self._over = True
            self._tell(lost=line, code=code, excluded=excluded)
