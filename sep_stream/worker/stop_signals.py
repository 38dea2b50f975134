"""SIGTERM and Ctrl-C ask a worker to stop, and end its process within a bound whatever its threads do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

import structlog

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
NOT_IN_TIME: Final = "worker did not stop in time; what was not committed will be handled again"
_LOG_S_MAX: Final = 1.0
"""Bound on the last log line: whoever should read it may have stopped reading."""

log = structlog.get_logger(__name__)


@contextlib.contextmanager
def stop_on_signals(bound_s: float) -> Iterator[asyncio.Event]:
    """Give an event of the running loop that SIGTERM and SIGINT set.

    A process that has not left the block `bound_s` after the first signal ends with exit code 1. A thread of its own
    hears the signals, so neither the loop nor Python's main thread has to be free for that.
    """
    loop, stopped, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    heard, written = socket.socketpair()
    written.setblocking(False)  # Python's rule for a wakeup descriptor

    def wait_for_signal() -> None:
        if not heard.recv(1):  # closed: the block is left
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(stopped.set)
        if not left.wait(bound_s):
            _end_at_once()

    before = {number: signal.signal(number, _ignore) for number in SIGNALS}
    wakeup_before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=wait_for_signal, name="stop-signals", daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        left.set()
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        written.close()
        thread.join()
        heard.close()


def _ignore(_: int, __: FrameType | None) -> None:
    """A handler of Python's own is needed for the wakeup descriptor to be written; it has nothing to do."""


def _end_at_once() -> None:
    telling = threading.Thread(target=log.warning, args=(NOT_IN_TIME,), daemon=True)
    telling.start()
    telling.join(_LOG_S_MAX)
    os._exit(1)
