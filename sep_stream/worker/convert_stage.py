"""market.events → bars, windows, prices.latest, late, dead.letters; its state in convert.state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
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
from sep_stream.worker.stage import Counters, Processed, Refused, origin, rejected_records
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

    async def process(self, batch: Batch) -> Processed | None:
        state = self._partitions.get(batch.partition)
        if state is None or state.epoch != batch.epoch:
            state = await asyncio.to_thread(self._recover, batch.partition, batch.epoch)
            if not self._is_current(batch):
                return None
            self._partitions[batch.partition] = state
        first = batch.records[0].offset
        if first < state.resume:
            batch = batch.starting_at(state.resume)
            if not batch.records:
                return Processed()
        elif first < state.next_offset:
            raise StateError(
                f"{batch.topic}/{batch.partition}: a fetch begins at offset {first}, "
                f"but the state has seen all below {state.next_offset}"
            )
        outputs = self._feed(state, batch)
        state.next_offset = batch.next_offset
        return Processed(outputs, self._snapshot_if_due(state, batch.partition))

    def _feed(self, state: _Partition, batch: Batch) -> list[Outgoing]:
        events = self._decode(batch.partition, batch.offsets, batch.keys, batch.values)
        output = state.converter.feed(events)
        self._count(output, events)
        return [
            *self._bars(batch, output, events),
            *self._prices(batch, state.converter, output),
            *self._rejections(batch, events, output),
        ]

    def _decode(self, partition: int, offsets: Any, keys: list[Any], values: list[Any]) -> EventBatch:
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

    def _snapshot_if_due(self, state: _Partition, partition: int) -> Outgoing | None:
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

    def _bars(self, batch: Batch, output: ConvertOutput, events: EventBatch) -> Iterator[Outgoing]:
        bars = output.bars
        if not len(bars):
            return
        headers = origin(batch, "convert")
        closed_by = events.offset[bars["row"]].tolist()
        keys = [self._symbols.keys[i] for i in bars["instrument"].tolist()]
        end_ms = ((bars["open_time_s"] + wire.DURATION[bars["timeframe"]]) * wire.MS_PER_S).tolist()
        columns = wire.bar_columns(bars, self._instruments, self._symbols)
        values = self._codecs["bar"].encode(columns, len(bars)).values()
        for row, value in enumerate(values):
            yield Outgoing(self._topics.bars, batch.partition, keys[row], value, end_ms[row], headers(closed_by[row]))
        if not len(output.windows):
            return
        columns = wire.window_columns(output, self._parameters, self._instruments, self._symbols)
        values = self._codecs["window"].encode(columns, len(output.windows)).values()
        for row, value in zip(output.windows["bar"].tolist(), values, strict=True):
            yield Outgoing(self._topics.windows, batch.partition, keys[row], value, 0, headers(closed_by[row]))

    def _prices(self, batch: Batch, converter: MarketDataConverter, output: ConvertOutput) -> Iterator[Outgoing]:
        headers = origin(batch, "convert")(batch.records[-1].offset)
        for position in output.prices.tolist():
            yield Outgoing(
                self._topics.prices,
                batch.partition,
                self._symbols.keys[position],
                self._schemas.encode("latest_price", converter.latest_price(position)),
                0,
                headers,
            )

    def _rejections(self, batch: Batch, events: EventBatch, output: ConvertOutput) -> Iterator[Outgoing]:
        late: list[Refused] = []
        dead: list[Refused] = []
        symbols, times_us = self._instruments.symbols, events.event_time.tolist()
        for row, offset, reason, instrument, key, value in output.rejections:
            time_us = times_us[row] if row >= 0 else NULL
            sane_time = 0 <= time_us < YEAR_2200_US  # others have no place in a timestamp; the bytes tell them
            refused = Refused(
                reason.name, REASON_TEXT[reason], offset, key, value,
                symbols[instrument] if instrument >= 0 else None, time_us if sane_time else None,
            )  # fmt: skip
            (late if reason == Reason.LATE else dead).append(refused)
        self._counters.add_refused("late", late)
        self._counters.add_refused("dead", dead)
        codec = self._codecs["rejected"]
        yield from rejected_records(codec, self._topics.late, batch, late)
        yield from rejected_records(codec, self._topics.dead_letters, batch, dead)

    def _count(self, output: ConvertOutput, events: EventBatch) -> None:
        self._counters.add("events", len(events))
        self._counters.add("bars", len(output.bars))
        self._counters.add("windows", len(output.windows))
        self._counters.add("duplicates", int(np.count_nonzero(output.reason == Reason.DUPLICATE)))
