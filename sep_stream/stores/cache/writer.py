"""Writes the cache: what is newer beside what is held, and a whole key space in place of it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import batched, chain
from pathlib import Path
from typing import Any, Final, TypeVar

from sep_stream.errors import DependencyError
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache.connection import WRITE, RedisServer, Unreachable
from sep_stream.stores.cache.keys import CacheKeys

SILENCE_S_MAX: Final = 15.0
"""A server that does not answer for this long is given up; a restart takes a second or two."""
FILL_ENTRIES_MAX: Final = 500
"""In one call: the server does nothing else meanwhile."""
FRESH_MS: Final = 5_000
"""Without a sign of life from who fills it, a fresh key space is given up after this long."""
ABANDONED_MS: Final = 60_000
"""So long what was given up lies there."""
_RETRY_S: Final = 0.25
_SCRIPT: Final = (Path(__file__).parent / "cache.lua").read_text()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value to write. name: see keys.py · expires_at_ms: epoch"""

    name: str
    event_time_us: int
    offset: int
    expires_at_ms: int
    fields: dict[str, str]

    @property
    def version(self) -> tuple[int, int]:
        """The greater the newer."""
        return self.event_time_us, self.offset


class Unsound(Exception):  # noqa: N818 - no failure: it says what to do next
    """Redis does not hold what this log gave it, or may have lost some: to be rebuilt before anything is written."""


class Lost(Exception):  # noqa: N818
    """The fresh key space was given up: its filler gave no sign of life, or the server started anew."""


class CacheWriter:
    """log: identifies the topics that the entries come from; a cache of another log is not written to.

    Each call waits a bounded time for a server that is away. Raises DependencyError with the remedy.
    """

    def __init__(self, settings: Settings, log: str) -> None:
        self._server = RedisServer(settings, WRITE)
        self._keys, self._log = CacheKeys(settings.prefix), log
        self._script = self._server.client.register_script(_SCRIPT)

    @property
    def address(self) -> str:
        return self._server.address

    def write(self, entries: Iterable[Entry]) -> int:
        """Write those that are newer than what is held, in one round trip; how many were. Raises Unsound."""
        why, written = self._run("write", self._log, _encoded(entries))
        if why:
            raise Unsound(why)
        return int(written)

    def check(self) -> None:
        """Raises Unsound."""
        self.write(())

    def begin(self) -> str | None:
        """The id of a fresh key space, into which all writers write beside the present one from now on. None while
        another one is filled."""
        taken, space = self._run("begin", self._log, secrets.token_hex(8), str(FRESH_MS))
        return None if taken else space.decode()

    def fill(self, space: str, entries: Iterable[Entry]) -> None:
        """Write what is newer into a fresh key space; without entries, give a sign of life. Raises Lost."""
        for some in chain(batched(entries, FILL_ENTRIES_MAX), [()]):
            why, _ = self._run("fill", self._log, _encoded(some), space, str(ABANDONED_MS), str(FRESH_MS))
            if why:
                raise Lost

    def swap(self, space: str) -> int:
        """Put a fresh key space in place of the present one, for everybody at once; how many names it has. Raises
        Lost."""
        why, names = self._run("swap", self._log, space)
        if why:
            raise Lost
        return int(names)

    def _run(self, operation: str, *arguments: str) -> tuple[str, Any]:
        keys = [self._keys.state, self._keys.fresh, self._keys.versions]
        told: Any = self._asked(lambda: self._script(keys=keys, args=[operation, self._keys.root, *arguments]))
        return told[0].decode(), told[1]

    def _asked(self, request: Callable[[], T]) -> T:
        """The server's answer. A request may have been done although its answer was lost: all can be repeated."""
        deadline_s = time.monotonic() + SILENCE_S_MAX
        while True:
            try:
                with self._server.errors_told():
                    return request()
            except Unreachable as error:
                if time.monotonic() > deadline_s:
                    raise DependencyError(f"{error} (asked for {SILENCE_S_MAX:.0f} s)") from error
            time.sleep(_RETRY_S)


def keep_newest(held: dict[str, Entry], entries: Iterable[Entry]) -> None:
    """Add entries to the newest of each name."""
    for entry in entries:
        if entry.name not in held or entry.version > held[entry.name].version:
            held[entry.name] = entry


def _encoded(entries: Iterable[Entry]) -> str:
    """As the script takes them: versions as text, since Lua's numbers would be written with an exponent."""
    rows: Sequence[Any] = [
        [e.name, f"{e.event_time_us} {e.offset}", str(e.expires_at_ms), list(chain.from_iterable(e.fields.items()))]
        for e in entries
    ]
    return json.dumps(rows)
