"""Starts failed connectors anew: a task that could not start, or whose database went in the middle, stays down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from sep_stream.errors import DependencyError
from sep_stream.stores.connect import Connect

LOOK_S: Final = 3.0
PAUSE_S_FIRST: Final = 3.0
PAUSE_S_MAX: Final = 60.0
"""A database that is away for long is asked for every minute."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Trouble:
    """Of a connector that fails. pause_s: until the next start · next_s: when that is"""

    pause_s: float
    next_s: float


class ConnectWatch:
    """names: which connectors to look after, asked for each time · may_start: whether the registry is there: a sink
    that starts without it takes good records for unreadable ones"""

    def __init__(
        self,
        connect: Connect,
        names: Callable[[], Iterable[str]],
        may_start: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._names, self._may_start, self._clock = connect, names, may_start, clock
        self._troubles: dict[str, _Trouble] = {}
        self._is_away = False

    def run(self) -> None:
        """Look until interrupted."""
        while True:
            self.look()
            time.sleep(LOOK_S)

    def look(self) -> list[str]:
        """Start what has failed and whose pause is over; returns the names. A Connect that does not answer is waited
        for."""
        try:
            started = [name for name in self._names() if self._tend(name)]
        except DependencyError as error:
            if not self._is_away:
                _log.warning("connect does not answer", error=str(error))
            self._is_away = True
            return []
        self._is_away = False
        return started

    def _tend(self, name: str) -> bool:
        state = self._connect.state(name)
        if state is None or state.failure is None:
            self._forget(name, is_running=state is not None and state.is_running)
            return False
        now_s = self._clock()
        trouble = self._troubles.setdefault(name, _Trouble(PAUSE_S_FIRST, now_s))
        if now_s < trouble.next_s:
            return False
        if not self._may_start():
            _log.warning("sink failed, waiting for the registry", connector=name, reason=state.failure)
            trouble.next_s = now_s + PAUSE_S_FIRST
            return False
        _log.warning("sink failed, starting it again", connector=name, reason=state.failure)
        self._connect.restart(name)
        trouble.next_s = now_s + trouble.pause_s
        trouble.pause_s = min(2 * trouble.pause_s, PAUSE_S_MAX)
        return True

    def _forget(self, name: str, is_running: bool) -> None:
        """One that has run until its next start would have been due is well again."""
        trouble = self._troubles.get(name)
        if trouble is not None and is_running and self._clock() >= trouble.next_s:
            del self._troubles[name]
            _log.info("sink runs again", connector=name)
