"""Strangers at the warden's port, while a run of two workers goes on.

    python -m tests.torture.fuzz_warden --count 2000 --seed 0

Each stranger connects and does one thing that a scanner, another program, a wrong launcher or
somebody with bad intent may do; some stay connected. Meanwhile the workers gather numbers. Each
gathering must come to its end soon and with the right values, nobody may be told of a loss, and
no stranger may be given a part.
"""
import argparse
import collections
import json
import random
import socket
import struct
import sys
import threading
import time

from machines import warden
from machines.warden import Link, Warden, proof

SECRET = "what only the run's processes know"
ROUND_S = 5    # a gathering of this run takes a millisecond
_HELLO = {"hello": "worker", "index": 0, "host": "h", "pid": 1, "challenge": "c", "proof": ""}


def join(address, role, index=None, secret=SECRET):
    """The link of one who says what its part is and shows that it knows the secret."""
    link = Link(socket.create_connection(address))
    link.send(hello=role, index=index, host="here", pid=7, challenge=link.challenge,
              proof=proof(secret, "client", link.next()["challenge"]))
    answer = link.next()
    assert "refused" in answer or link.check(SECRET, "warden", answer["welcome"])
    link.trust()
    return link


def next_of(link, *names, seconds=30):
    """The next message that holds one of the names; fails if it does not come in time."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        link.sock.settimeout(left)
        message = link.next()
        if any(name in message for name in names):
            return message
    raise AssertionError(f"none of {names} within {seconds} s")


# ---- what a stranger sends ---------------------------------------------------------------------

def _noise(rng, challenge):
    return rng.randbytes(rng.choice((1, 100, 5000))) + b"\n"


def _http(rng, challenge):
    return b"GET / HTTP/1.1\r\nHost: " + b"x" * rng.choice((1, 2000)) + b"\r\n\r\n"


def _brackets(rng, challenge):
    return rng.choice((b"[", b'{"a":')) * rng.choice((100, 1000, 100_000)) + b"\n"


def _long_line(rng, challenge):
    return b"9" * rng.choice((1000, 1025, 5000, 1 << 21))


def _many_lines(rng, challenge):
    return rng.choice((b"\n", b"0\n", b"{}\n", b'{"ping": true}\n')) * 20_000


def _half_a_line(rng, challenge):
    text = json.dumps(_HELLO).encode()
    return text[:rng.randrange(len(text))]


def _member_s_message(rng, challenge):
    message = rng.choice(({"stop": 15}, {"done": True}, {"failed": "x", "code": 3}, {"limit": 0},
                          {"gather": 1, "value": 666}, {"ping": True}))
    return json.dumps(message).encode() + b"\n"


def _hello(rng, challenge):
    """A part asked for with a wrong proof, or with values that are none."""
    answers = (proof("a guess of the secret", "client", challenge), challenge, "", None, ["x"],
               proof(SECRET, "warden", challenge), proof(SECRET, "client", "another"), "\ud800")
    message = {**_HELLO, "hello": rng.choice(("worker", "server", "scheduler", "boss", [], None)),
               "index": rng.choice((None, 0, -1, 7, "0", 1e9)), "proof": rng.choice(answers)}
    if rng.random() < 0.2:
        del message[rng.choice(sorted(message))]
    return json.dumps(message).encode() + b"\n"


def _nothing(rng, challenge):
    return b""


KINDS = (_noise, _http, _brackets, _long_line, _many_lines, _half_a_line, _member_s_message,
         _hello, _nothing)


def meet(address, kind, rng, kept):
    """Be one stranger; returns what the warden answered besides its challenge.

    Connections that are to stay are put into the list `kept`.
    """
    sock = socket.create_connection(address, timeout=ROUND_S)
    link = Link(sock)
    sock.settimeout(ROUND_S)
    messages = []
    try:
        challenge = link.next()["challenge"]
        sock.sendall(kind(rng, challenge))
        end = rng.choice(("keep", "close", "reset", "read"))
        if end == "keep":
            kept.append(sock)
            return messages
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == "read":
            sock.shutdown(socket.SHUT_WR)
            while True:
                messages.append(link.next())
    except TimeoutError:
        messages.append({"silence": True})
    except OSError:
        pass    # it has been shown out
    sock.close()
    return messages


# ---- the run -----------------------------------------------------------------------------------

class Workers:
    """A scheduler, a server and two workers that gather numbers, in a thread."""

    def __init__(self, address):
        self.links = [join(address, "scheduler"), join(address, "server"),
                      *(join(address, "worker", k) for k in range(2))]
        for link in self.links:
            next_of(link, "names")
        self.rounds, self.slowest, self.fault, self._end = 0, 0.0, None, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._end.is_set():
                start = time.monotonic()
                self._gather()
                self.slowest = max(self.slowest, time.monotonic() - start)
        except Exception as error:
            self.fault = repr(error)

    def _gather(self):
        self.rounds += 1
        for k, link in enumerate(self.links[2:]):
            link.send(gather=self.rounds, value=[k, self.rounds])
        for link in self.links[2:]:
            message = next_of(link, "gathered", "lost", "stop", "end", seconds=ROUND_S)
            assert message.get("values") == [[0, self.rounds], [1, self.rounds]], message

    def stop(self):
        """End the run as it should end."""
        self._end.set()
        self._thread.join(2 * ROUND_S)
        if self.fault is None:
            for link in self.links[2:]:
                link.send(done=True)
            for link in self.links:
                next_of(link, "end")
        for link in self.links:
            link.sock.close()


def fuzz(count, seed=0, log=print):
    """Send so many strangers.

    Returns
    -------
    collections.Counter
        Strangers by kind; "faults" of them or of the run, each of which is logged.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    Warden(address, 2, 1, 60, SECRET).start()
    workers, rng, kept = Workers(address), random.Random(seed), collections.deque(maxlen=300)
    counts = collections.Counter()
    for _ in range(count):
        kind = rng.choice(KINDS)
        counts[kind.__name__.strip("_")] += 1
        answers = [answer for answer in meet(address, kind, rng, kept)
                   if answer.keys() != {"refused"}]
        if answers or workers.fault:
            counts["faults"] += 1
            log(f"{kind.__name__}: {answers}, run: {workers.fault}")
        if workers.fault:
            break
    workers.stop()
    counts["faults"] += workers.slowest > ROUND_S
    log(f"{count} strangers, {workers.rounds} gatherings, the slowest in {workers.slowest:.3f} s")
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warden.STRANGER_S = 3    # else those who stay would have no end in this run
    counts = fuzz(options.count, options.seed)
    print(", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    return int(counts["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
