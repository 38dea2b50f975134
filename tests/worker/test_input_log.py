"""Recovery reads all snapshots of a partition, and its group's own offset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.runtime.settings import Settings
from sep_stream.worker import input_log
from sep_stream.worker.input_log import KafkaInputLog
from tests.worker.memory_log import records

HELD = {("state", 1): range(3, 9), ("events", 1): range(2, 50)}
COMMITTED = {("g", "events"): {1: 17}, ("g", "state"): {1: 5}, ("other", "events"): {1: 40}}


class Reader:
    """A `LogReader` of two topics in memory. Only partition 1 holds anything."""

    def __init__(self, settings: Settings, patience_s: float) -> None:
        pass

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        held = HELD.get((topic, partition), range(0))
        return held.start, held.stop

    def committed(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        return {p: offset for p, offset in COMMITTED[group, topic].items() if p in partitions}

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[RecordBatch]:
        for offset in HELD[topic, partition]:
            if start <= offset < stop:
                yield records(partition, [offset], topic)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KafkaInputLog:
    monkeypatch.setattr(input_log, "LogReader", Reader)
    return KafkaInputLog(Settings.load(data_dir=tmp_path), "events", "state", "g", 1.0)


def test_all_snapshots_are_read_with_their_offsets(log: KafkaInputLog) -> None:
    assert log.snapshots(1) == [(offset, b"%d" % offset) for offset in range(3, 9)]


def test_the_committed_offset_is_that_of_the_group_and_the_input(log: KafkaInputLog) -> None:
    assert log.committed(1) == 17
    assert log.committed(0) is None


def test_bounds_and_records_are_those_of_the_input(log: KafkaInputLog) -> None:
    assert log.bounds(1) == (2, 50)
    assert [int(batch.offsets[0]) for batch in log.records(1, 20, 23)] == [20, 21, 22]
