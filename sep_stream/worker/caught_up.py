"""Tells when the stages have handled all that their inputs held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings

STAGE_INPUT: Final = {"convert": "market.events", "metrics": "windows", "score": "metrics"}
CHECK_INTERVAL_S: Final = 0.25


class CaughtUp:
    """Committed offsets against the ends of the inputs: `market.events` as of the start, then each later stage's
    input as of when the stage before it is done."""

    def __init__(self, settings: Settings, stages: Sequence[str], names: Mapping[str, str]) -> None:
        self._reader = LogReader(settings)
        self._inputs = {stage: names[STAGE_INPUT[stage]] for stage in stages}
        self._group = {stage: settings.prefix + stage for stage in stages}
        self._first = stages[0]
        self._start: dict[int, int] = {}

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
        """Below the end but with no record left to read: the rest are markers of transactions, or compacted away."""
        if committed >= end:
            return True
        if end - committed > 1:
            return False
        return not any(len(batch.offsets) for batch in self._reader.read(topic, partition, committed, end))
