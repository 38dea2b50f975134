"""prices.latest and signals.latest → Redis; no state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from sep_stream.errors import DependencyError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.stores.cache.log import LatestLog
from sep_stream.stores.cache.rebuild import rebuild_unless_sound
from sep_stream.stores.cache.records import TOPICS, CacheRecords, Fault, Written
from sep_stream.stores.cache.writer import CacheWriter, Entry, Unsound, keep_newest
from sep_stream.wire import Symbols
from sep_stream.worker.batches import Batch
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.stage import Counters, Processed, Refused, Rows, rejected_records

CHECK_INTERVAL_S: Final = 1.0
"""How long an emptied or restarted Redis goes unnoticed while no records come."""
REBUILDS_MAX: Final = 3
"""In a row for one write: Redis that is never sound, as where two deployments use one prefix, ends the process."""

log = structlog.get_logger(__name__)


class CacheStage:
    """Writes what is newer than what Redis holds, all that a fetch brought in one round trip.

    Where Redis was emptied, was started again (it may have lost its last second) or holds another log's values, the
    whole is made anew from the log first. A Redis that stays away raises DependencyError before anything of the fetch
    is acknowledged.
    """

    name = "cache"

    def __init__(
        self, settings: Settings, topology: Topology, schemas: Schemas, dead_letters: str, counters: Counters
    ) -> None:
        self.topics = tuple(map(settings.topic, TOPICS))
        self._declared = dict(zip(self.topics, TOPICS, strict=True))
        self._settings, self._topology, self._dead_letters, self._counters = settings, topology, dead_letters, counters
        self._records = CacheRecords(schemas, topology.instruments, settings.cache_ttl_s)
        self._symbols = Symbols(topology.instruments)
        self._rejected = BulkCodec(*schemas.of("rejected"))
        self._log = LatestLog(settings, topology)
        self._writer = CacheWriter(settings, self._log.identity())
        self._writing = threading.Lock()

    async def process(self, batches: Sequence[Batch]) -> Processed:
        newest: dict[str, Entry] = {}
        rejected: list[Outgoing] = []
        for topic in self.topics:
            came = Rows([batch for batch in batches if batch.topic == topic])
            if len(came):
                entries, faults = self._entries(topic, came)
                keep_newest(newest, entries)
                refused = list(self._refused(came, faults))
                self._counters.add_refused("dead", refused)
                rejected += rejected_records(self._rejected, self._dead_letters, topic, refused)
        self._counters.add("cached", await asyncio.to_thread(self._write, list(newest.values())))
        return Processed(rejected)

    async def watch(self) -> None:
        """Look after Redis while no records come. Raises DependencyError where it stays away."""
        while True:
            await asyncio.to_thread(self._write, ())
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _entries(self, topic: str, came: Rows) -> tuple[list[Entry], list[Fault]]:
        records = [Written(r.timestamp_ms, r.key, r.value, r.headers) for r in came.whole()]
        return self._records.entries(self._declared[topic], records)

    def _refused(self, came: Rows, faults: Sequence[Fault]) -> Iterator[Refused]:
        for row, code, reason, instrument in faults:
            partition, offset, key = int(came.partition[row]), int(came.offset[row]), came.keys[row]
            named = None if instrument else self._symbols.named_by(key)
            yield Refused(code.name, reason, partition, offset, key, came.values[row], instrument, key_instrument=named)

    def _write(self, entries: Sequence[Entry]) -> int:
        with self._writing:
            for _ in range(REBUILDS_MAX):
                try:
                    return self._writer.write(entries)
                except Unsound as why:
                    self._rebuild(str(why))
        raise DependencyError(
            f"Redis at {self._writer.address} was made anew {REBUILDS_MAX} times and is not ours: does another "
            f"deployment use it with the prefix {self._settings.prefix!r}? set SEP_PREFIX or SEP_REDIS_URL apart"
        )

    def _rebuild(self, why: str) -> None:
        made = rebuild_unless_sound(self._log, self._writer)
        if made is not None:
            told = {"names": made.names, "records": made.records, "seconds": round(made.seconds, 3)}
            log.info("cache made anew", redis=why, **told)
