"""`worker --processes N`: N workers of one group, restarted with bounded backoff."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from sep_stream.errors import DependencyError
from sep_stream.runtime.binding.cpu_list import format_cpus
from sep_stream.runtime.binding.plan import thread_environment
from sep_stream.threads import given

if TYPE_CHECKING:
    from sep_stream.runtime.binding.plan import Share

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before the restarts of a child; a child that fails once more gives up the whole."""
HEALTHY_S: Final = 60.0
"""A child that ran this long starts over with its backoff."""
STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2
_USAGE_ERROR: Final = 2
_PR_SET_PDEATHSIG: Final = 1
"""From Linux's <sys/prctl.h>: the signal that a process gets when its parent ends."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Child:
    slot: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    restart_at_s: float = 0.0
    done: bool = False


@dataclass(slots=True)
class Supervisor:
    """Runs `command` of sep-stream N times, each with a group instance of its own, so that a restarted child takes up
    its old partitions without a rebalance. A child that ends without being asked is started again, whatever its exit
    code. environment: settings for the children, beside this process's own · shares: what each child binds itself to;
    none: they are not bound, and share out this process's threads · ends_itself: a child that exits 0 is done"""

    command: Sequence[str]
    processes: int
    environment: Mapping[str, str]
    shares: Sequence[Share] = ()
    ends_itself: bool = False
    _children: list[_Child] = field(default_factory=list, init=False)
    _stopping: bool = field(default=False, init=False)

    def run(self) -> None:
        """Blocks until all are done or a signal stops them. Raises DependencyError when a child keeps ending."""
        self._children = [_Child(slot) for slot in range(self.processes)]
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._stopping and not all(child.done for child in self._children):
                for child in self._children:
                    self._tend(child)
                time.sleep(_POLL_S)
        finally:
            self._stop_all()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _tend(self, child: _Child) -> None:
        now_s = time.monotonic()
        if child.done:
            return
        if child.process is None:
            if now_s >= child.restart_at_s:
                self._start(child, now_s)
            return
        code = child.process.poll()
        if code is None:
            return
        child.process = None
        if code == 0 and self.ends_itself:
            child.done = True
            return
        if now_s - child.started_s > HEALTHY_S:
            child.failures = 0
        if code == _USAGE_ERROR or child.failures == len(BACKOFF_S):
            raise DependencyError(f"worker process {child.slot} ended with exit code {code}; its message is above")
        wait_s = BACKOFF_S[child.failures]
        child.failures += 1
        child.restart_at_s = now_s + wait_s
        log.warning("worker process ended; restarting", slot=child.slot, exit_code=code, in_s=wait_s)

    def _start(self, child: _Child, now_s: float) -> None:
        instance = f"{socket.gethostname()}-{os.getpid()}-{child.slot}"
        share = self.shares[child.slot] if self.shares else None
        pools = share.environment() if share else thread_environment(max(1, given() // self.processes))
        child.process = subprocess.Popen(
            [sys.executable, "-m", "sep_stream", *self.command, *(bind_flags(share) if share else ())],
            env={**pools, **os.environ, **self.environment, "SEP_GROUP_INSTANCE": instance},
            preexec_fn=end_with_parent(),
        )
        child.started_s = now_s

    def _stop_all(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for process in running:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def bind_flags(share: Share) -> Sequence[str]:
    """For what is left of a share: a control group can lose CPUs while a worker runs."""
    left = share.cpus & os.sched_getaffinity(0)
    if not left:
        log.warning("process will not be bound: none of its CPUs is allowed any more", cpus=format_cpus(share.cpus))
        return ()
    return ("--bind", format_cpus(left))


def end_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes its program, so that it gets SIGTERM when this process ends, however it
    does; None on systems that have no such request. The thread that starts the child has to last as long as this
    process: Linux counts the end of that thread."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the request: no signal will come
            os._exit(128 + signal.SIGTERM)

    return request
