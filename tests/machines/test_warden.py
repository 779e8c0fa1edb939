"""The warden and its members, over real sockets in one process."""
import socket
import time

import pytest

from machines import warden
from machines.warden import LOST, Link, Warden


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


def _member(address, role, index=None):
    link = Link(socket.create_connection(address))
    link.send(hello=role, index=index, host="here", pid=7)
    return link


def _next(link, *names, seconds=30):
    """The next message that holds one of the names; fails if it does not come in time."""
    deadline = time.monotonic() + seconds
    waiting = getattr(link, "waiting", [])
    while True:
        for k, message in enumerate(waiting):
            if any(name in message for name in names):
                link.waiting = waiting[k + 1:]
                return message
        assert time.monotonic() < deadline, f"none of {names} within {seconds} s"
        link.sock.settimeout(seconds)
        waiting = link.receive()


@pytest.fixture
def members(address):
    """A scheduler, a server and two workers, of which the first to come says it is number 1."""
    Warden(address, 2, 1, patience=20).start()
    return [_member(address, "scheduler"), _member(address, "server"),
            _member(address, "worker", 1), _member(address, "worker")]


def test_workers_are_numbered_and_their_values_come_in_order(members):
    ranks = [_next(link, "names")["rank"] for link in members]
    assert ranks[2:] == [1, 0]
    for link, value in ((members[2], [1.5]), (members[3], None)):
        link.send(gather=1, value=value)
    for link in members[2:]:
        assert _next(link, "gathered")["values"] == [None, [1.5]]


def test_all_stop_after_the_first_step_that_none_has_passed(members):
    for link in members:
        _next(link, "names")
    members[1].send(stop=15)
    members[0].send(stop=2)     # too late: one signal is enough
    for link, limit in zip(members[2:], (7, 5)):
        assert _next(link, "stop")["stop"] == 15
        link.send(limit=limit)
    for link in members[2:]:
        assert _next(link, "stop_at")["stop_at"] == 7


def test_a_signal_before_all_are_there_ends_it(address):
    Warden(address, 2, 1, patience=20).start()
    worker = _member(address, "worker")
    worker.send(stop=15)
    message = _next(worker, "lost")
    assert message["code"] == 143 and "stopped before the run began" in message["lost"]


def test_all_hear_of_a_failure(members):
    for link in members:
        _next(link, "names")
    members[3].send(failed="no disk", code=3)
    for link in members[:3]:
        message = _next(link, "lost")
        assert message["code"] == 3
        assert message["lost"] == "worker 0 on here (process 7) stopped: no disk"


def test_all_are_told_of_the_end(members):
    _next(members[0], "names")
    for link in members[2:]:
        link.send(done=True)
    for link in members:
        _next(link, "end")


def test_the_dead_are_named(members):
    _next(members[0], "names")
    members[1].sock.close()
    message = _next(members[2], "lost")
    assert message == {"lost": "server on here (process 7) has gone", "code": LOST}


def test_who_falls_silent_is_given_up(address, monkeypatch):
    monkeypatch.setattr(warden, "SILENCE_S", 2)
    monkeypatch.setattr(warden, "PING_S", 0.2)
    Warden(address, 1, 1, patience=20).start()
    scheduler, server, worker = (_member(address, role)
                                 for role in ("scheduler", "server", "worker"))
    message, deadline = {}, time.monotonic() + 30
    while "lost" not in message and time.monotonic() < deadline:
        worker.send(ping=True)
        scheduler.send(ping=True)
        message = _next(worker, "lost", "ping")
    assert message["lost"] == "server on here (process 7) has not been heard of for 2 s"
    server.sock.close()


def test_strangers_and_doubles(address):
    Warden(address, 2, 1, patience=20).start()
    stranger = Link(socket.create_connection(address))
    stranger.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(OSError, match="closed"):
        stranger.receive()
    first = _member(address, "server")
    assert "has its 1 servers already" in _next(_member(address, "server"), "lost")["lost"]
    twins = [_member(address, "worker", 0) for _ in range(2)]
    for link in (first, *twins):
        assert "two workers say that they are number 0" in _next(link, "lost")["lost"]


def test_patience_ends(address):
    Warden(address, 2, 1, patience=0.5).start()
    worker = _member(address, "worker")
    assert _next(worker, "lost")["lost"].startswith(
        "within 0.5 s only 1 of 2 workers and 0 of 1 servers came")
