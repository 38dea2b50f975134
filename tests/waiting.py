"""Waits of the tests: each ends by an event, and its bound is one that a slow machine doesn't reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest

from sep_stream.runtime import log_reader, topics
from sep_stream.runtime.embedded import daemon, kafka, postgres, redis, registry
from sep_stream.sources import publisher

PATIENCE_S: Final = 120.0
"""Bound on a wait for what takes a second or two on an idle machine; other work on it makes that many times longer."""
_POLL_S: Final = 0.05


class StandingClock:
    """A stand-in for the module `time` that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


def until(holds: Callable[[], object], shown: Callable[[], object] = lambda: "", bound_s: float = PATIENCE_S) -> None:
    """Wait until `holds` returns something true. shown: gives what a failure shows."""
    deadline_s = time.monotonic() + bound_s
    while not holds():
        assert time.monotonic() < deadline_s, shown()
        time.sleep(_POLL_S)


def bear_with_servers(patch: pytest.MonkeyPatch) -> None:
    """Let this process wait as long for servers that start, run or stop as a slow machine needs."""
    for module in (log_reader, topics):
        patch.setattr(module, "REQUEST_TIMEOUT_S", PATIENCE_S)
    for module in (log_reader, publisher):
        patch.setattr(module, "SILENCE_S_MAX", PATIENCE_S)
    for module in (daemon, kafka, postgres):
        patch.setattr(module, "START_S_MAX", 5 * PATIENCE_S)
    for module in (daemon, postgres):
        patch.setattr(module, "STOP_S_MAX", PATIENCE_S)
    patch.setattr(redis, "_TIMEOUT_S", PATIENCE_S)
    patch.setattr(registry, "ANSWER_S_MAX", PATIENCE_S)


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for servers in each test of a folder whose conftest imports this; `monkeypatch.undo()` ends it."""
    bear_with_servers(monkeypatch)


def slow_bound_s(limit_s: float, cpu_s: float = 0.0) -> float:
    """Return how long something may take on a slow machine whose own waits have an end after `limit_s`.

    It tells a wait with an end from one without; that the end is `limit_s` is checked where the limit is set.
    cpu_s: processor time that it used, which takes many times longer where other processes share the processors
    """
    return max(60.0, 4 * limit_s) + 8 * cpu_s
