"""Tells when the stages have handled all that their inputs held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from sep_stream.errors import DependencyError
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

STAGE_INPUTS: Final = {
    "convert": ("market.events",),
    "metrics": ("windows",),
    "score": ("metrics", "models"),
    "settle": ("signals",),
    "cache": ("prices.latest", "signals.latest"),
}
CHECK_INTERVAL_S: Final = 0.25
STALLED_LOOKS: Final = 8
"""A stage whose committed offset stands still for so many looks, longer than it takes to commit, may have nothing left
to read; the log is asked then, and not at each look: that would read all of it beside the stage."""
PROGRESS_INTERVAL_S: Final = 5.0

log = structlog.get_logger(__name__)

_Bounds = Mapping[tuple[str, int], tuple[int, int]]


@dataclass(slots=True)
class _Looks:
    """So many looks at one committed offset. nothing_left: None where the log was not asked."""

    committed: int
    count: int = 0
    nothing_left: bool | None = None


class CaughtUp:
    """Committed offsets against the ends of the inputs: `market.events` as of the start, then each later stage's
    inputs as of when the stage before it is done."""

    def __init__(self, settings: Settings, stages: Sequence[str], names: Mapping[str, str]) -> None:
        self._reader = LogReader(settings)
        self._inputs = {stage: [names[topic] for topic in STAGE_INPUTS[stage]] for stage in stages}
        self._group = {stage: settings.prefix + stage for stage in stages}
        self._left = list(stages)
        self._start: _Bounds | None = None
        self._looks: dict[tuple[str, int], _Looks] = {}

    def mark_start(self) -> None:
        self._start = self._bounds(self._left[0])

    def _bounds(self, stage: str) -> _Bounds:
        """First offset and end of the stage's input by topic and partition; empty partitions are left out."""
        bounds = {
            (topic, p): self._reader.watermarks(topic, p)
            for topic in self._inputs[stage]
            for p in self._reader.partitions(topic)
        }
        return {at: (low, high) for at, (low, high) in bounds.items() if high > low}

    def steps(self) -> Iterator[bool]:
        """Looks once an item: True where a stage was found to be done. Ends when all are; after an error a new call
        goes on with the stage that was looked at."""
        while self._left:
            stage = self._left[0]
            bounds = self._bounds(stage) if self._start is None else self._start
            while not self._reached(stage, bounds):
                yield False
            self._left.pop(0)
            self._start = None
            yield True

    async def wait(self) -> None:
        """Returns once all stages are done; logs the progress meanwhile. A broker that is away is asked again: how long
        it may be, others watch. InputError for an input topic that is gone."""
        clock = asyncio.get_running_loop().time
        shown_s = clock()
        while self._left:
            with contextlib.suppress(DependencyError):
                steps = self.steps()
                while (reached := await asyncio.to_thread(next, steps, None)) is not None:
                    if not reached:
                        await asyncio.sleep(CHECK_INTERVAL_S)
                    if clock() - shown_s >= PROGRESS_INTERVAL_S:
                        shown_s = clock()
                        log.info("worker progress", **await asyncio.to_thread(self.progress))

    def progress(self) -> dict[str, str]:
        """Return how many records each stage's group has handled of those that its input holds: `1200/28762`. The first
        stage's total is that of the start."""
        found = {}
        for stage in self._inputs:
            bounds = self._start if self._start is not None and stage == self._left[0] else self._bounds(stage)
            handled = 0
            for topic in self._inputs[stage]:
                partitions = [p for of, p in bounds if of == topic]
                committed = self._reader.committed(self._group[stage], topic, partitions)
                for p in partitions:
                    low, high = bounds[topic, p]
                    handled += min(max(committed.get(p, low), low), high) - low
            found[stage] = f"{handled}/{sum(high - low for low, high in bounds.values())}"
        return found

    def _reached(self, stage: str, bounds: _Bounds) -> bool:
        for topic in self._inputs[stage]:
            ends = {p: bound for (of, p), bound in bounds.items() if of == topic}
            committed = self._reader.committed(self._group[stage], topic, list(ends))
            for p, (low, end) in ends.items():
                if not self._nothing_left(topic, p, max(low, committed.get(p) or 0), end):
                    return False
        return True

    def _nothing_left(self, topic: str, partition: int, committed: int, end: int) -> bool:
        """At the end, or below it with no record left to read: the rest are markers and aborted records of
        transactions, or compacted away."""
        if committed >= end:
            return True
        looks = self._looks.get((topic, partition))
        if looks is None or looks.committed != committed:
            looks = self._looks[topic, partition] = _Looks(committed)
        looks.count += 1
        if looks.nothing_left is None and (end - committed == 1 or looks.count >= STALLED_LOOKS):
            looks.nothing_left = not any(map(len, self._reader.read(topic, partition, committed, end)))
        return bool(looks.nothing_left)
