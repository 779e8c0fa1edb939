"""The warden, its members and strangers, over real sockets in one process."""
import contextlib
import json
import socket
import threading
import time

import pytest

from common.errors import UserError
from machines import client, warden
from machines.warden import LOST, Link, Warden, proof
from tests.torture import fuzz_warden
from tests.torture.fuzz_warden import SECRET, join, next_of


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


@pytest.fixture
def members(address):
    """A scheduler, a server and two workers, of which the first to come says it is number 1."""
    Warden(address, 2, 1, 20, SECRET).start()
    return [join(address, "scheduler"), join(address, "server"),
            join(address, "worker", 1), join(address, "worker")]


def test_workers_are_numbered_and_their_values_come_in_order(members):
    ranks = [next_of(link, "names")["rank"] for link in members]
    assert ranks[2:] == [1, 0]
    for link, value in ((members[2], [1.5]), (members[3], None)):
        link.send(gather=1, value=value)
    for link in members[2:]:
        assert next_of(link, "gathered")["values"] == [None, [1.5]]


def test_all_stop_after_the_first_step_that_none_has_passed(members):
    for link in members:
        next_of(link, "names")
    members[1].send(stop=15)
    members[0].send(stop=2)     # too late: one signal is enough
    for link, limit in zip(members[2:], (7, 5)):
        assert next_of(link, "stop")["stop"] == 15
        link.send(limit=limit)
    for link in members[2:]:
        assert next_of(link, "stop_at")["stop_at"] == 7


def test_a_signal_before_all_are_there_ends_it(address):
    Warden(address, 2, 1, 20, SECRET).start()
    worker = join(address, "worker")
    worker.send(stop=15)
    message = next_of(worker, "lost")
    assert message["code"] == 143 and "stopped before the run began" in message["lost"]


def test_all_hear_of_a_failure(members):
    for link in members:
        next_of(link, "names")
    members[3].send(failed="no disk", code=3)
    for link in members[:3]:
        message = next_of(link, "lost")
        assert message["code"] == 3
        assert message["lost"] == "worker 0 on here (process 7) stopped: no disk"


def test_a_long_message_of_a_member_is_passed_on(members):
    """Longer than a stranger's may be."""
    text = "x" * (4 * warden.SHORT)
    for link in members[2:]:
        link.send(gather="long", value=text)
    assert next_of(members[2], "gathered")["values"] == [text, text]


def test_all_are_told_of_the_end(members):
    next_of(members[0], "names")
    for link in members[2:]:
        link.send(done=True)
    for link in members:
        assert next_of(link, "end") == {"end": True}


def test_the_dead_are_named(members):
    next_of(members[0], "names")
    members[1].sock.close()
    message = next_of(members[2], "lost")
    assert message == {"lost": "server on here (process 7) has gone", "code": LOST}


def test_who_falls_silent_is_given_up(address, monkeypatch):
    monkeypatch.setattr(warden, "SILENCE_S", 2)
    monkeypatch.setattr(warden, "PING_S", 0.2)
    Warden(address, 1, 1, 20, SECRET).start()
    scheduler, server, worker = (join(address, role)
                                 for role in ("scheduler", "server", "worker"))
    message, deadline = {}, time.monotonic() + 30
    while "lost" not in message and time.monotonic() < deadline:
        worker.send(ping=True)
        scheduler.send(ping=True)
        message = next_of(worker, "lost", "ping")
    assert message["lost"] == "server on here (process 7) has not been heard of for 2 s"
    server.sock.close()


def test_doubles(address):
    Warden(address, 2, 1, 20, SECRET).start()
    first = join(address, "server")
    assert "has its 1 servers already" in next_of(join(address, "server"), "lost")["lost"]
    twins = [join(address, "worker", 0) for _ in range(2)]
    for link in (first, *twins):
        assert "two workers say that they are number 0" in next_of(link, "lost")["lost"]


def test_patience_ends(address):
    Warden(address, 2, 1, 0.5, SECRET).start()
    worker = join(address, "worker")
    assert next_of(worker, "lost")["lost"].startswith(
        "within 0.5 s only 1 of 2 workers and 0 of 1 servers came")


# ---- strangers ---------------------------------------------------------------------------------

def _stranger(address, data=b""):
    """A connection that has been challenged and has sent so much."""
    link = Link(socket.create_connection(address))
    link.sock.settimeout(10)
    link.met = link.next()["challenge"]
    link.sock.sendall(data)
    return link


def _shown_out(link):
    """Whether the warden closes a connection without a word."""
    try:
        return not link.receive()
    except OSError as error:
        return not isinstance(error, TimeoutError)


def _gathers(members):
    for link in members[2:]:
        link.send(gather="round", value=1)
    return all(next_of(link, "gathered")["values"] == [1, 1] for link in members[2:])


def test_a_stranger_s_hello_takes_nobody_s_place(address):
    Warden(address, 1, 1, 20, SECRET).start()
    links = [join(address, "scheduler"), join(address, "server")]
    hello = {"hello": "worker", "index": 0, "host": "h", "pid": 1, "challenge": "c"}
    recorded = _stranger(address)
    answer = proof(SECRET, "client", recorded.met)
    for wrong in ("", None, [], proof("a guess", "client", "x"), answer):
        stranger = _stranger(address, json.dumps({**hello, "proof": wrong}).encode() + b"\n")
        assert stranger.next() == {"refused": True} and _shown_out(stranger), wrong
    recorded.send(**hello, proof=answer)    # the same answer, to the challenge that it is for
    assert "welcome" in recorded.next()
    assert next_of(links[0], "names")["names"] == ["worker 0 on h (process 1)"]


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n", b"[" * 1000 + b"\n", b"[" * 100_000 + b"\n", b"9" * 5000 + b"\n",
    b"9" * 2000, b'{"failed": "x", "code": 3}\n', b'{"stop": 15}\n', b'{"hello": []}\n', b"\xff\n",
    b'{"hello": "worker", "index": "0", "host": 1, "pid": 1, "challenge": 1, "proof": 1e999}\n',
], ids=lambda data: data[:12].decode("latin-1"))
def test_what_a_stranger_sends_ends_only_its_own_connection(members, address, data):
    stranger = _stranger(address, data)
    if b"hello" in data and b"proof" in data:
        assert stranger.next() == {"refused": True}
    assert _shown_out(stranger)
    assert _gathers(members)


def test_slow_strangers_are_shown_out(members, address, monkeypatch):
    """One that says nothing and one whose bytes drip: a time for all, not between bytes."""
    monkeypatch.setattr(warden, "STRANGER_S", 1)
    start, silent, dripping = time.monotonic(), _stranger(address), _stranger(address)
    dripping.sock.settimeout(0.05)
    shown_out = False
    while not shown_out:
        assert time.monotonic() < start + 30
        try:
            dripping.sock.sendall(b" ")
            shown_out = not dripping.sock.recv(1)
        except TimeoutError:
            continue
        except OSError:
            shown_out = True
    assert time.monotonic() - start >= 1
    assert _shown_out(silent) and _gathers(members)


def test_a_crowd_of_strangers_leaves_room_for_the_run(address):
    """The oldest go; who knows the secret comes in, before and after them."""
    Warden(address, 2, 1, 20, SECRET).start()
    first = [join(address, "scheduler"), join(address, "server")]
    crowd = [_stranger(address) for _ in range(300)]
    members = [*first, *(join(address, "worker", k) for k in (1, 0))]
    assert _shown_out(crowd[0]) and _shown_out(crowd[150])
    assert next_of(members[2], "names")["rank"] == 1
    assert _gathers(members)
    for link in crowd:
        link.sock.close()


def test_one_of_the_run_that_sends_nonsense_is_named(members):
    next_of(members[0], "names")
    members[1].sock.sendall(b"[" * 100_000 + b"\n")
    line = next_of(members[2], "lost")["lost"]
    assert line.startswith("server on here (process 7) sent what is no message (Recursion")


def test_many_strangers_of_every_kind():
    lines = []
    counts = fuzz_warden.fuzz(300, seed=1, log=lines.append)
    assert counts.pop("faults") == 0, "\n".join(lines)
    assert len(counts) == len(fuzz_warden.KINDS) and sum(counts.values()) == 300


# ---- the other end -----------------------------------------------------------------------------

def _variables(address, **changed):
    return {"DMLC_ROLE": "worker", "DMLC_PS_ROOT_URI": address[0],
            "DMLC_PS_ROOT_PORT": str(address[1] - 1), "DMLC_NUM_WORKER": "1",
            "DMLC_NUM_SERVER": "1", "ATAC_SECRET": SECRET, **changed}


def test_a_worker_of_another_run_is_told_so(address):
    Warden(address, 1, 1, 20, SECRET).start()
    with pytest.raises(UserError, match="has another secret than this worker; is another run"):
        client.join(5, _variables(address, ATAC_SECRET="that of another run"))


@pytest.mark.parametrize("says", [
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[" * 100_000 + b"\n", b"9" * 5000, b"{}\n",
    b'{"lost": "\\u001b[31m", "code": 0}\n', b'{"challenge": "c"}\n{"welcome": "a lie"}\n',
    b'{"challenge": [1]}\n{"end": true}\n',
], ids=lambda says: says[:16].decode())
def test_a_warden_that_is_none_is_not_believed(says):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            with server.accept()[0] as sock, contextlib.suppress(ConnectionError):
                sock.sendall(says)
                while sock.recv(1 << 16):
                    pass

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match="is not of this run; is another program"):
            client.join(5, _variables(server.getsockname()))
