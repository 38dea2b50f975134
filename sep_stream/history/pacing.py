"""Records in the pace of their times: the wall clock says when one is given out, never which or in what order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from operator import itemgetter
from typing import Final

from sep_stream.runtime.log_reader import Record

TICK_S: Final = 0.1
"""Whoever waits does so for at least this long: what comes due meanwhile is published together."""
WAIT_S_MAX: Final = 60.0
"""Of one sleep; a longer wait is several."""


def in_play_order(streams: Iterable[Iterable[Record]], jump_ms: int) -> Iterator[tuple[int, Record]]:
    """The records of several partitions, merged by play time, with that; each partition keeps its order."""
    return merge(*(_with_play_times(stream, jump_ms) for stream in streams), key=itemgetter(0))


def _with_play_times(records: Iterable[Record], jump_ms: int) -> Iterator[tuple[int, Record]]:
    """A record's play time, in epoch milliseconds: the newest timestamp up to it, so that a late one holds up nothing.

    A timestamp more than `jump_ms` ahead counts only when the next is, too, as in the converter: a wrong one must not
    make all that follows wait.
    """
    newest_ms: int | None = None
    jumped = False
    for record in records:
        time_ms = record.timestamp_ms
        ahead = newest_ms is not None and time_ms > newest_ms + jump_ms
        if newest_ms is None or (time_ms > newest_ms and (jumped or not ahead)):
            newest_ms = time_ms
        jumped = ahead
        yield newest_ms, record


def paced(
    records: Iterable[tuple[int, Record]],
    speed: float,
    jump_ms: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Record | None]:
    """The records, none before it is due: the first at once, the others so far behind it as their play times are,
    divided by `speed`. A gap of more than `jump_ms` is not waited for. None is given before each wait: what came before
    it is to be published now.

    clock, sleep: in seconds. One that is behind does not wait.
    """
    begun_ms: int | None = None
    begun_s, last_ms = clock(), 0
    for play_ms, record in records:
        if begun_ms is None or play_ms > last_ms + jump_ms:
            begun_s, begun_ms = clock(), play_ms
        last_ms = play_ms
        due_s = begun_s + (play_ms - begun_ms) / 1000 / speed
        if due_s > clock():
            yield None
            _sleep_until(max(due_s, clock() + TICK_S), clock, sleep)
        yield record


def _sleep_until(wake_s: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    while (left_s := wake_s - clock()) > 0:
        sleep(min(left_s, WAIT_S_MAX))
