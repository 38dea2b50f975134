"""market.events → bars, windows, prices.latest, late, dead.letters; its state in convert.state."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import structlog

from sep_stream.convert import ConvertOutput, ConvertParameters, MarketDataConverter
from sep_stream.convert.converter import STATE_VERSION
from sep_stream.errors import StateError
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events
from sep_stream.market.events import NULL, REASON_TEXT, EventBatch, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import YEAR_2200_US
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.worker import wire
from sep_stream.worker.outbox import MESSAGE_BYTES_MAX, RECORD_ROOM_BYTES, Outgoing
from sep_stream.worker.snapshots import Snapshot, SnapshotFormat, resume_offset
from sep_stream.worker.stage import Counters, Processed, Refused, Rows, origin, rejected_records
from sep_stream.worker.transport import Batch

SNAPSHOT_INTERVAL_S: Final = 1.0
SNAPSHOT_BYTES_MAX: Final = MESSAGE_BYTES_MAX - RECORD_ROOM_BYTES

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertTopics:
    events: str
    bars: str
    windows: str
    prices: str
    late: str
    dead_letters: str
    state: str


class InputLog(Protocol):
    """What recovery needs of the log."""

    def snapshots(self, partition: int) -> list[tuple[int, bytes | None]]:
        """(offset, value) of the partition's snapshot records, in log order."""

    def committed(self, partition: int) -> int | None:
        """The group's committed offset, None where it has none."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """The partition's first and next offset."""

    def records(self, partition: int, start: int, stop: int) -> Iterator[RecordBatch]:
        """The records in [start, stop), in stretches of bounded size."""


@dataclass(slots=True)
class _Partition:
    """A partition's state. next_offset: first offset not fed · resume: first whose outputs are still to be made."""

    epoch: int
    converter: MarketDataConverter
    next_offset: int
    resume: int
    snapshot_due_s: float
    told_large: bool = False


class ConvertStage:
    """Feeds each partition's converter and rebuilds it at every new epoch."""

    name = "convert"

    def __init__(
        self,
        topics: ConvertTopics,
        schemas: Schemas,
        instruments: Instruments,
        parameters: ConvertParameters,
        partitions: int,
        input_log: InputLog,
        is_current: Callable[[Batch], bool],
        counters: Counters,
        rebuild_state: bool = False,
    ) -> None:
        self.topic = topics.events
        self._topics, self._schemas, self._instruments, self._parameters = topics, schemas, instruments, parameters
        self._n_partitions, self._log, self._is_current, self._counters = partitions, input_log, is_current, counters
        self._format = SnapshotFormat(schemas, self.name, STATE_VERSION, parameters.canonical())
        self._codecs = {name: BulkCodec(*schemas.of(name)) for name in ("market_event", "bar", "window", "rejected")}
        self._symbols = wire.Symbols(instruments)
        self._partitions: dict[int, _Partition] = {}
        self._to_rebuild = set(range(partitions)) if rebuild_state else set()

    async def process(self, batches: Sequence[Batch]) -> Processed:
        await self._recover_for(batches)
        unseen: dict[int, list[Batch]] = defaultdict(list)
        for batch in batches:
            if self._is_current(batch) and len(rest := self._unseen(batch)):
                unseen[batch.partition].append(rest)
        outputs = self._feed(list(unseen.values())) if unseen else []
        snapshots = [self._snapshot_if_due(partition) for partition in unseen]
        return Processed(outputs, [snapshot for snapshot in snapshots if snapshot])

    async def _recover_for(self, batches: Sequence[Batch]) -> None:
        """The states of partitions that are new to this process or have been elsewhere, at the same time."""
        new = {
            batch.partition: batch
            for batch in batches
            if batch.partition not in self._partitions or self._partitions[batch.partition].epoch != batch.epoch
        }
        if new:
            states = await asyncio.gather(
                *(asyncio.to_thread(self._recover, b.partition, b.epoch) for b in new.values())
            )
            self._partitions.update(zip(new, states, strict=True))

    def _unseen(self, batch: Batch) -> Batch:
        """What of the batch is still to be fed; its partition's state has then seen it."""
        state, first = self._partitions[batch.partition], batch.records[0].offset
        if first < state.resume:
            batch = batch.starting_at(state.resume)
        elif first < state.next_offset:
            raise StateError(
                f"{batch.topic}/{batch.partition}: a fetch begins at offset {first}, "
                f"but the state has seen all below {state.next_offset}"
            )
        state.next_offset = max(state.next_offset, batch.next_offset)
        return batch

    def _feed(self, by_partition: Sequence[Sequence[Batch]]) -> list[Outgoing]:
        """Outputs of batches, given partition by partition. Decoding and encoding cost much for each call and little
        for each record, so both are done for all at once; the converters are fed one by one."""
        rows = Rows([batch for batches in by_partition for batch in batches])
        events = self._decode(rows.partition, rows.offsets, rows.keys, rows.values)
        fed: list[ConvertOutput] = []
        prices: list[Outgoing] = []
        late: list[Refused] = []
        dead: list[Refused] = []
        start = 0
        for batches in by_partition:
            stop = start + sum(map(len, batches))
            partition, converter = batches[0].partition, self._partitions[batches[0].partition].converter
            part = events.stretch(start, stop)
            output = converter.feed(part)
            prices += self._prices(partition, int(part.offset[-1]), converter, output)
            for refused in self._refused(partition, part, output):
                (late if refused.code == Reason.LATE.name else dead).append(refused)
            fed.append(output)
            start = stop
        output = ConvertOutput.concatenate(fed)
        self._count(output, late, dead)
        codec, topics = self._codecs["rejected"], self._topics
        return [
            *self._bars(rows, output),
            *prices,
            *rejected_records(codec, topics.late, self.topic, late),
            *rejected_records(codec, topics.dead_letters, self.topic, dead),
        ]

    def _decode(self, partition: Any, offsets: Any, keys: list[Any], values: list[Any]) -> EventBatch:
        codec = self._codecs["market_event"]
        return decode_events(codec, self._instruments, keys, values, offsets, partition, self._n_partitions)

    def _recover(self, partition: int, epoch: int) -> _Partition:
        """The converter as of the first offset whose outputs still have to be made."""
        where = f"{self._topics.state}/{partition}"
        snapshot = None
        if partition not in self._to_rebuild:
            snapshot = self._format.newest(self._log.snapshots(partition), where)
        low, high = self._log.bounds(partition)
        start, resume = resume_offset(f"{self.topic}/{partition}", snapshot, self._log.committed(partition), low, high)
        converter = (
            MarketDataConverter.restore(snapshot.state, self._instruments, self._parameters)
            if snapshot
            else MarketDataConverter(self._instruments, self._parameters)
        )
        reread = 0
        for batch in self._log.records(partition, start, resume):
            reread += len(batch)
            converter.feed(self._decode(partition, batch.offsets, batch.keys, batch.values))
        log.info("state recovered", stage=self.name, partition=partition, snapshot=start, resume=resume, reread=reread)
        rebuilt = partition in self._to_rebuild
        self._to_rebuild.discard(partition)
        due_s = time.monotonic() + (0 if rebuilt else SNAPSHOT_INTERVAL_S)
        return _Partition(epoch, converter, resume, resume, due_s)

    def _snapshot_if_due(self, partition: int) -> Outgoing | None:
        state = self._partitions[partition]
        now_s = time.monotonic()
        if now_s < state.snapshot_due_s:
            return None
        state.snapshot_due_s = now_s + SNAPSHOT_INTERVAL_S
        value = self._format.encode(partition, Snapshot(state.next_offset, state.converter.snapshot()))
        if len(value) > SNAPSHOT_BYTES_MAX:
            self._tell_large(state, partition, len(value))
            return None
        return Outgoing(self._topics.state, partition, str(partition).encode(), value)

    def _tell_large(self, state: _Partition, partition: int, size: int) -> None:
        """A state too large for its topic costs time at the next start, no more: it is told, and the work goes on."""
        if not state.told_large:
            state.told_large = True
            log.error(
                "state too large for a snapshot; a restart reads on from the last one that fitted",
                topic=self._topics.state, partition=partition, bytes=size, bytes_max=SNAPSHOT_BYTES_MAX,
                remedy="few and short names of sources, shorter windows",
            )  # fmt: skip

    def _bars(self, rows: Rows, output: ConvertOutput) -> Iterator[Outgoing]:
        bars, instruments, symbols = output.bars, self._instruments, self._symbols
        if not len(bars):
            return
        headers = origin(self.topic, self.name)
        closed_by = bars["row"].tolist()
        partitions = rows.partition[bars["row"]].tolist()
        origins = [headers(p, rows.records[row].offset) for p, row in zip(partitions, closed_by, strict=True)]
        keys = [symbols.keys[i] for i in bars["instrument"].tolist()]
        end_ms = ((bars["open_time_s"] + wire.DURATION[bars["timeframe"]]) * wire.MS_PER_S).tolist()
        values = self._codecs["bar"].encode(wire.bar_columns(bars, instruments, symbols), len(bars)).values()
        for k, value in enumerate(values):
            yield Outgoing(self._topics.bars, partitions[k], keys[k], value, end_ms[k], origins[k])
        if not len(output.windows):
            return
        columns = wire.window_columns(output, self._parameters, instruments, symbols)
        values = self._codecs["window"].encode(columns, len(output.windows)).values()
        for k, value in zip(output.windows["bar"].tolist(), values, strict=True):
            yield Outgoing(self._topics.windows, partitions[k], keys[k], value, 0, origins[k])

    def _prices(
        self, partition: int, last_offset: int, converter: MarketDataConverter, output: ConvertOutput
    ) -> Iterator[Outgoing]:
        headers = origin(self.topic, self.name)(partition, last_offset)
        for position in output.prices.tolist():
            value = self._schemas.encode("latest_price", converter.latest_price(position))
            yield Outgoing(self._topics.prices, partition, self._symbols.keys[position], value, 0, headers)

    def _refused(self, partition: int, events: EventBatch, output: ConvertOutput) -> Iterator[Refused]:
        if not output.rejections:
            return
        symbols, times_us = self._instruments.symbols, events.event_time.tolist()
        for row, offset, reason, instrument, key, value in output.rejections:
            time_us = times_us[row] if row >= 0 else NULL
            sane_time = 0 <= time_us < YEAR_2200_US  # others have no place in a timestamp; the bytes tell them
            yield Refused(
                reason.name, REASON_TEXT[reason], partition, offset, key, value,
                symbols[instrument] if instrument >= 0 else None, time_us if sane_time else None,
            )  # fmt: skip

    def _count(self, output: ConvertOutput, late: Sequence[Refused], dead: Sequence[Refused]) -> None:
        self._counters.add("events", len(output.reason))
        self._counters.add("bars", len(output.bars))
        self._counters.add("windows", len(output.windows))
        self._counters.add("duplicates", int(np.count_nonzero(output.reason == Reason.DUPLICATE)))
        self._counters.add_refused("late", late)
        self._counters.add_refused("dead", dead)
