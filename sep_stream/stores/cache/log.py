"""The topics behind the cache: which log they are, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topics import topic_ids
from sep_stream.runtime.topology import Topology
from sep_stream.stores.cache.records import TOPICS, CacheRecords, Written
from sep_stream.stores.cache.writer import Entry
from sep_stream.stores.schemas import schemas_in_force

READ_RECORDS_MAX: Final = 10_000
"""Decoded at once."""

Bounds = Mapping[tuple[str, int], int]
"""Offsets by topic (without prefix) and partition."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What some records of a topic hold: the newest entry of each name · unusable: records that are no values"""

    entries: list[Entry]
    records: int
    unusable: int


class LatestLog:
    """prices.latest and signals.latest. Raises what LogReader raises, and ConfigurationError for a missing topic."""

    def __init__(self, settings: Settings, topology: Topology) -> None:
        self._settings, self._reader = settings, LogReader(settings)
        self._records = CacheRecords(schemas_in_force(settings), topology.instruments, settings.cache_ttl_s)

    def identity(self) -> str:
        """Of the two topics as they are now."""
        return " ".join(topic_ids(self._settings, list(map(self._settings.topic, TOPICS))))

    def bounds(self) -> tuple[Bounds, Bounds]:
        """First offsets and ends."""
        found = {
            (topic, partition): self._reader.watermarks(self._settings.topic(topic), partition)
            for topic in TOPICS
            for partition in self._reader.partitions(self._settings.topic(topic))
        }
        return {at: low for at, (low, _) in found.items()}, {at: high for at, (_, high) in found.items()}

    def stretches(self, starts: Bounds, stops: Bounds, every: bool = False) -> Iterator[Stretch]:
        """The records with start <= offset < stop of each partition, piece by piece. every: with all entries"""
        for (topic, partition), stop in stops.items():
            name = self._settings.topic(topic)
            for batch in self._reader.read(name, partition, starts[topic, partition], stop, READ_RECORDS_MAX):
                records = [Written(r.timestamp_ms, r.key, r.value, r.headers) for r in batch.records()]
                entries, faults = self._records.entries(topic, records, every)
                yield Stretch(entries, len(records), len(faults))
