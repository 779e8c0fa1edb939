"""SIGTERM, SIGHUP and Ctrl-C, put off until the run can be left without loss."""
import contextlib
import ctypes
import os
import signal

__all__ = ["Interrupted", "deferred", "requested", "check", "handling", "stopping",
           "ends_with_parent"]

_PR_SET_PDEATHSIG = 1    # of Linux

_received = None    # of the process, as signals are


def stopping():
    """The signals that ask this process to stop.

    SIGHUP, of a terminal that is closed, is one unless it is ignored: then the process was
    started (by nohup) to outlive its terminal.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) + (() if ignored else (signal.SIGHUP,))


def ends_with_parent(parent=None):
    """What a new process calls first (``preexec_fn`` of `subprocess.Popen`), so that it gets
    SIGTERM when this one has ended, however it ends.

    Loaded here: a new process must not wait for a lock that another thread held.

    Parameters
    ----------
    parent : int, optional
        Number of the process that it ends with, if not of this one.
    """
    prctl, parent = ctypes.CDLL(None).prctl, parent or os.getpid()

    def watch():
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:     # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)
    return watch


class Interrupted(Exception):
    """The run was asked to stop, and everything is saved.

    Attributes
    ----------
    code : int
        Exit code: 143 after SIGTERM, 130 after Ctrl-C, 129 after SIGHUP.
    """

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def _set_handlers(handlers):
    """Set the signals' handlers; returns those that they had."""
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


@contextlib.contextmanager
def handling(function):
    """While the block runs, ``function(number, frame)`` gets the signals that ask to stop."""
    before = _set_handlers(dict.fromkeys(stopping(), function))
    try:
        yield
    finally:
        _set_handlers(before)


@contextlib.contextmanager
def deferred():
    """While the block runs, signals are noted only: the block asks `requested` or `check`.

    A second Ctrl-C ends the process at once. That leaves no broken file, since every file is
    written under a temporary name first.
    """
    global _received

    def note(number, frame):
        global _received
        if _received is None:
            _received = number
            # The default action needs no Python, so it works during a long step, too.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Not through a stream: the signal may have come amid a write to it.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}: finishing the step and saving; "
                            "Ctrl-C now leaves at once\n".encode())

    _received, ends = None, False
    before = _set_handlers(dict.fromkeys(stopping(), note))
    try:
        yield
    except Interrupted:
        # This process is about to end. Its own signal may still come, where other workers got
        # theirs first, or come twice: that must not end it before it has told them.
        ends = True
        raise
    finally:
        if not ends:
            _set_handlers(before)


def requested():
    """The number of the signal that asks the run to stop, or None."""
    return _received


def check():
    """Raise `Interrupted` if a signal asks the run to stop."""
    if _received is not None:
        raise Interrupted(_received)
