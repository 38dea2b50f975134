"""Tells when the stages have handled all that their inputs held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

STAGE_INPUT: Final = {"convert": "market.events", "metrics": "windows", "score": "metrics"}
CHECK_INTERVAL_S: Final = 0.25
STALLED_LOOKS: Final = 8
"""A stage whose committed offset stands still for so many looks, longer than it takes to commit, may have nothing left
to read; the log is asked then, and not at each look: that would read all of it beside the stage."""


@dataclass(slots=True)
class _Looks:
    """So many looks at one committed offset. nothing_left: None where the log was not asked."""

    committed: int
    count: int = 0
    nothing_left: bool | None = None


class CaughtUp:
    """Committed offsets against the ends of the inputs: `market.events` as of the start, then each later stage's
    input as of when the stage before it is done."""

    def __init__(self, settings: Settings, stages: Sequence[str], names: Mapping[str, str]) -> None:
        self._reader = LogReader(settings)
        self._inputs = {stage: names[STAGE_INPUT[stage]] for stage in stages}
        self._group = {stage: settings.prefix + stage for stage in stages}
        self._first = stages[0]
        self._start: dict[int, int] = {}
        self._looks: dict[tuple[str, int], _Looks] = {}

    def mark_start(self) -> None:
        self._start = self._ends(self._first)

    def _ends(self, stage: str) -> dict[int, int]:
        """The offsets that the stage must have committed by partition; empty partitions are left out."""
        topic = self._inputs[stage]
        bounds = {p: self._reader.watermarks(topic, p) for p in self._reader.partitions(topic)}
        return {p: high for p, (low, high) in bounds.items() if high > low}

    def steps(self) -> Iterator[bool]:
        """Looks once an item: True where a stage was found to be done. Ends when all are."""
        ends = self._start
        for stage in self._inputs:
            if stage != self._first:
                ends = self._ends(stage)
            while not self._reached(stage, ends):
                yield False
            yield True

    async def wait(self) -> None:
        steps = self.steps()
        while (reached := await asyncio.to_thread(next, steps, None)) is not None:
            if not reached:
                await asyncio.sleep(CHECK_INTERVAL_S)

    def _reached(self, stage: str, ends: Mapping[int, int]) -> bool:
        topic = self._inputs[stage]
        committed = self._reader.committed(self._group[stage], topic, list(ends))
        return all(self._nothing_left(topic, p, committed.get(p) or 0, end) for p, end in ends.items())

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
            start = max(committed, self._reader.watermarks(topic, partition)[0])
            looks.nothing_left = not any(map(len, self._reader.read(topic, partition, start, end)))
        return bool(looks.nothing_left)
