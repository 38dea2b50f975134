"""signals → trading.results; its state in settle.state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sep_stream import wire
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec, Decoded
from sep_stream.market.events import Reason
from sep_stream.market.instruments import Instruments
from sep_stream.record_checks import RecordChecks
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.settling import Settled, SettleParameters, Settler, SignalRows, Stake
from sep_stream.settling.settler import STATE_VERSION
from sep_stream.worker.batches import Batch, Place
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.snapshots import SnapshotFormat
from sep_stream.worker.stage import Counters, Processed, Rows, decode_faults, origin, rejected_records
from sep_stream.worker.states import InputLog, StateKind, States


@dataclass(frozen=True, slots=True)
class SettleTopics:
    signals: str
    results: str
    dead_letters: str
    state: str


class SettleStage:
    """Feeds each partition's settler and rebuilds it at every new epoch."""

    name = "settle"

    def __init__(
        self,
        topics: SettleTopics,
        schemas: Schemas,
        instruments: Instruments,
        parameters: SettleParameters,
        stake: Stake,
        input_log: InputLog,
        is_current: Callable[[Batch], bool],
        counters: Counters,
        rebuild_state: bool = False,
    ) -> None:
        self.topic = topics.signals
        self.topics = (self.topic,)
        self._topics, self._instruments, self._parameters = topics, instruments, parameters
        self._stake, self._counters = stake, counters
        self._symbols = wire.Symbols(instruments)
        self._checks = RecordChecks(self._symbols, instruments)
        self._signal, self._result, self._rejected = (
            BulkCodec(*schemas.of(name)) for name in ("signal", "trading_result", "rejected")
        )
        kind = StateKind(
            SnapshotFormat(schemas, self.name, STATE_VERSION, parameters.canonical()),
            self._settler,
            self._feed_again,
            "a smaller max_open",
        )
        self._states = States(kind, (topics.signals, topics.state), input_log, is_current, rebuild_state)

    async def process(self, batches: Sequence[Batch]) -> Processed:
        unseen = await self._states.unseen(batches)
        outputs = [
            output for partition, parts in unseen.items() for output in self._settle(self._states[partition], parts)
        ]
        return Processed(outputs, self._states.snapshots(unseen))

    def last_snapshots(self, handled: Mapping[Place, tuple[int, int]]) -> Sequence[Outgoing]:
        """Snapshots of partitions that are given up. handled: see `States.last_snapshots`"""
        return self._states.last_snapshots(handled)

    def _settler(self, snapshot: bytes | None) -> Settler:
        if snapshot is None:
            return Settler(self._instruments, self._parameters)
        return Settler.restore(snapshot, self._instruments, self._parameters)

    def _feed_again(self, settler: Settler, _: int, batch: RecordBatch) -> None:
        settler.feed(self._decoded(batch.keys, batch.values)[2])

    def _decoded(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> tuple[Decoded, Any, SignalRows]:
        """Records, the positions (m,) of those that are signals, and these."""
        decoded = self._signal.decode(values)
        instrument = self._checks.signals(decoded, keys)
        rows = np.flatnonzero(decoded.errors == Reason.OK)
        return decoded, rows, wire.signal_rows(decoded.columns, instrument, rows, self._instruments)

    def _settle(self, settler: Settler, batches: Sequence[Batch]) -> Iterator[Outgoing]:
        came = Rows(batches)
        decoded, rows, signals = self._decoded(came.keys, came.values)
        refused = decode_faults(came, decoded, self._symbols, "Signal")
        settled = settler.feed(signals)
        self._counters.add("trades", len(settled.trades))
        for what, count in settled.counts.items():
            self._counters.add(f"signals_{what}", count)
        self._counters.add_refused("dead", refused)
        if len(settled.trades):
            yield from self._results(came, rows, settled)
        yield from rejected_records(self._rejected, self._topics.dead_letters, self.topic, refused)

    def _results(self, came: Rows, rows: Any, settled: Settled) -> Iterator[Outgoing]:
        columns = wire.result_columns(settled, self._instruments, self._symbols, self._stake)
        values = self._result.encode(columns, len(settled.trades)).values()
        ended_by = rows[settled.trades["row"]]
        partitions, exit_ms = came.partition[ended_by].tolist(), columns["exit_time"].tolist()
        keys = [came.keys[row] for row in ended_by.tolist()]
        sources = map(origin(self.topic, self.name), partitions, came.offset[ended_by].tolist())
        for made in zip(partitions, keys, values, exit_ms, sources, strict=True):
            yield Outgoing(self._topics.results, *made)
