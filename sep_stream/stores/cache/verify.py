"""Compares Redis with what the log says that it should hold, while writers go on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache.connection import READ, RedisServer
from sep_stream.stores.cache.keys import CacheKeys
from sep_stream.stores.cache.log import LatestLog
from sep_stream.stores.cache.writer import Entry, keep_newest

_POLL_S: Final = 0.25
_CLOCK_SLACK_MS: Final = 1_000
"""Redis expires keys by its own clock, and not to the millisecond."""


@dataclass(frozen=True, slots=True)
class Difference:
    """name: of the value, or of what all are missing"""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verified:
    """names: compared · unusable: records that are no values · differences: none where all is as the log says"""

    names: int
    records: int
    unusable: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    """What Redis holds at one moment. log: whose values · left_ms: until a value expires, -1 never, -2 there is none"""

    log: str | None
    versions: Mapping[str, tuple[int, int]]
    values: Mapping[str, Mapping[str, str]]
    left_ms: Mapping[str, int]
    now_ms: int


def verify(settings: Settings, log: LatestLog, wait_s: float) -> Verified:
    """Differences that are still there after `wait_s`: so long the stage may be behind.

    What Redis holds has to be the newest of the log's records up to some end that is no older than the beginning of
    this call. Raises DependencyError where the broker or Redis does not answer.
    """
    deadline_s = time.monotonic() + wait_s
    redis = _Redis(settings)
    starts, ends = log.bounds()
    due: dict[str, Entry] = {}
    records = unusable = 0
    for stretch in log.stretches(starts, ends):
        records += stretch.records
        unusable += stretch.unusable
        keep_newest(due, stretch.entries)
    identity = log.identity()
    later: dict[str, list[Entry]] = defaultdict(list)
    while True:
        held = redis.held(due)
        before, (_, ends) = ends, log.bounds()  # all that Redis held a moment ago lies below these ends
        for stretch in log.stretches(before, ends, every=True):
            for entry in stretch.entries:
                later[entry.name].append(entry)
        differences = tuple(_differences(held, identity, due, later))
        if not differences or time.monotonic() > deadline_s:
            return Verified(len(due), records, unusable, differences)
        time.sleep(_POLL_S)


def _differences(
    held: _Held, identity: str, due: Mapping[str, Entry], later: Mapping[str, list[Entry]]
) -> Iterator[Difference]:
    if held.log is None and due:
        yield Difference("cache", "Redis holds none of this deployment")
    elif held.log is not None and held.log != identity:
        yield Difference("cache", "Redis holds the values of another log")
    else:
        for name in sorted({*due, *held.versions}):
            problem = _problem(held, name, due.get(name), later.get(name, ()))
            if problem is not None:
                yield Difference(name, problem)


def _problem(held: _Held, name: str, due: Entry | None, later: Iterable[Entry]) -> str | None:
    version = held.versions.get(name)
    if version is None:
        return None if due is None else f"is not there; the log has it, {_told(due.version)}"
    if due is not None and version < due.version:
        return f"is older than the log's: {_told(version)}, the log has {_told(due.version)}"
    same = [entry for entry in (due, *later) if entry is not None and entry.version == version]
    if not same:
        return f"is not of this log: {_told(version)}"
    return _value_problem(held, name, same[0])


def _value_problem(held: _Held, name: str, expected: Entry) -> str | None:
    fields = held.values.get(name, {})
    if not fields:
        left_ms = expected.expires_at_ms - held.now_ms
        return f"is gone, {left_ms / 1_000:.0f} s before it expires" if left_ms > _CLOCK_SLACK_MS else None
    for field in sorted({*fields, *expected.fields}):
        if fields.get(field) != expected.fields.get(field):
            return f"{field} is {fields.get(field)!r}, the log has {expected.fields.get(field)!r}"
    return "never expires" if held.left_ms[name] == -1 else None


def _told(version: tuple[int, int]) -> str:
    return f"event time {version[0]} µs at offset {version[1]}"


class _Redis:
    def __init__(self, settings: Settings) -> None:
        self._server, self._keys = RedisServer(settings, READ), CacheKeys(settings.prefix)

    def held(self, names: Iterable[str]) -> _Held:
        """At one moment: in a transaction."""
        names, keys = list(names), self._keys
        with self._server.errors_told():
            pipeline: Any = self._server.client.pipeline(transaction=True)
            pipeline.hget(keys.state, "log")
            pipeline.hgetall(keys.versions)
            pipeline.time()
            for name in names:
                pipeline.hgetall(keys.of(name))
                pipeline.pttl(keys.of(name))
            log, versions, (seconds, us), *found = pipeline.execute()
        return _Held(
            None if log is None else log.decode(),
            {name.decode(): _version(text) for name, text in versions.items()},
            {name: _decoded(fields) for name, fields in zip(names, found[::2], strict=True)},
            dict(zip(names, found[1::2], strict=True)),
            seconds * 1_000 + us // 1_000,
        )


def _version(text: bytes) -> tuple[int, int]:
    event_time_us, offset = text.split()
    return int(event_time_us), int(offset)


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(errors="replace"): text.decode(errors="replace") for name, text in fields.items()}
