"""metrics, models → signals, signals.latest, patterns; no state but the models it has loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from sep_stream import wire
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec, VarColumn
from sep_stream.market.events import Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import METRICS_VERSION, Engine, WindowParams
from sep_stream.record_checks import RecordChecks
from sep_stream.scoring.ids import pattern_id
from sep_stream.scoring.model import Model
from sep_stream.scoring.signals import MetricRecords, ScoreCache, Signals, score_records
from sep_stream.worker.batches import Batch
from sep_stream.worker.models import Manifests
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.stage import (
    Counters,
    Processed,
    Refused,
    Rows,
    decode_faults,
    origin,
    reason_text,
    rejected_records,
)

RECORDS_FOR_A_THREAD: Final = 64
"""From here on the search runs beside the other stages; for fewer, waiting for the interpreter would take longer."""


class ModelSource(Protocol):
    async def get(self, model_id: str) -> Model:
        """The model, once its manifest has arrived; ModelError if it does not within the time it may take."""


@dataclass(frozen=True, slots=True)
class ScoreTopics:
    metrics: str
    models: str
    signals: str
    latest: str
    patterns: str
    dead_letters: str


class ScoreStage:
    """Scores metrics under the models stamped on them, those of all partitions together.

    It reads the manifests of models as well, so that one which is of no use is a dead letter. `ModelSource` looks the
    others up when they are needed.
    """

    name = "score"

    def __init__(
        self,
        topics: ScoreTopics,
        schemas: Schemas,
        instruments: Instruments,
        params: WindowParams,
        models: ModelSource,
        engine: str | Engine,
        counters: Counters,
    ) -> None:
        self.topic = topics.metrics
        self.topics = (self.topic, topics.models)
        self._topics, self._instruments, self._params = topics, instruments, params
        self._models, self._engine, self._counters = models, engine, counters
        self._symbols = wire.Symbols(instruments)
        self._checks = RecordChecks(self._symbols, instruments)
        self._metrics, self._signal, self._pattern, self._rejected = (
            BulkCodec(*schemas.of(name)) for name in ("metrics", "signal", "pattern", "rejected")
        )
        self._manifests = Manifests(schemas)
        self._cache = ScoreCache()

    async def process(self, batches: Sequence[Batch]) -> Processed:
        manifests = Rows([batch for batch in batches if batch.topic == self._topics.models])
        metrics = Rows([batch for batch in batches if batch.topic != self._topics.models])
        outputs = self._refused_manifests(manifests) if len(manifests) else []
        if len(metrics):
            outputs += await self._scored(metrics)
        return Processed(outputs)

    def _refused_manifests(self, came: Rows) -> list[Outgoing]:
        refused = [
            Refused(code.name, reason_text(code, "ModelManifest"), int(came.partition[row]), int(came.offset[row]),
                    came.keys[row], came.values[row])
            for row, code in self._manifests.faults(came.keys, came.values)
        ]  # fmt: skip
        self._counters.add_refused("dead", refused)
        return rejected_records(self._rejected, self._topics.dead_letters, self._topics.models, refused)

    async def _scored(self, came: Rows) -> list[Outgoing]:
        decoded = self._metrics.decode(came.values)
        self._checks.metrics(decoded, came.keys, self._params)
        refused = decode_faults(came, decoded, self._symbols, "Metrics")
        rows = np.flatnonzero(decoded.errors == Reason.OK)
        metrics = wire.take(decoded.columns, rows)
        records, ids = wire.metric_records(metrics, self._params, self._symbols)
        signals = await self._score(records, [await self._models.get(model_id) for model_id in ids])
        self._counters.add("signals", len(signals))
        self._counters.add("windows_without_model", len(rows) - len(signals))
        self._counters.add_refused("dead", refused)
        return [
            *(self._outputs(came, metrics, records, signals, ids, rows) if len(signals) else ()),
            *rejected_records(self._rejected, self._topics.dead_letters, self.topic, refused),
        ]

    async def _score(self, records: MetricRecords, models: list[Model]) -> Signals:
        scoring = partial(
            score_records, records, models, self._instruments.symbols, self._params, self._cache, self._engine
        )
        if len(records) < RECORDS_FOR_A_THREAD:
            return scoring()
        return await asyncio.to_thread(scoring)

    def _outputs(
        self,
        came: Rows,
        metrics: Mapping[str, Any],
        records: MetricRecords,
        signals: Signals,
        ids: tuple[str, ...],
        rows: Any,
    ) -> Iterator[Outgoing]:
        columns = wire.signal_columns(signals, metrics, ids, METRICS_VERSION)
        values = self._signal.encode(columns, len(signals)).values()
        at = rows[signals.row]
        keys = [came.keys[row] for row in at.tolist()]
        partitions = came.partition[at].tolist()
        available_ms = columns["available_at"].tolist()
        origins = list(map(origin(self.topic, "score"), partitions, came.offset[at].tolist()))
        latest: dict[bytes, Outgoing] = {}
        timeframes = records.timeframe[signals.row].tolist()
        for k, value in enumerate(values):
            yield Outgoing(self._topics.signals, partitions[k], keys[k], value, available_ms[k], origins[k])
            key = b"%b|%b" % (keys[k], TIMEFRAMES[timeframes[k]].encode())
            latest[key] = Outgoing(self._topics.latest, partitions[k], key, value, 0, origins[k])
        yield from latest.values()
        for k, value in self._patterns(signals, records, ids):
            yield Outgoing(self._topics.patterns, partitions[k], keys[k], value, available_ms[k], origins[k])

    def _patterns(self, signals: Signals, records: MetricRecords, ids: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
        """Positions among the signals that say something, and the patterns behind them."""
        chosen = np.flatnonzero(signals.direction != 0)
        if not len(chosen):
            return
        rows = signals.row[chosen]
        instrument = records.instrument[rows].tolist()
        names = [
            pattern_id(ids[model], self._instruments[i].symbol, TIMEFRAMES[tf], anchor)
            for model, i, tf, anchor in zip(
                signals.model[chosen].tolist(),
                instrument,
                records.timeframe[rows].tolist(),
                records.own.anchor_time_s[rows].tolist(),
                strict=True,
            )
        ]
        columns = {
            "pattern_id": VarColumn.from_list([name.encode() for name in names]),
            "instrument": self._symbols.column(records.instrument[rows]),
            "path": VarColumn.from_rows(np.ascontiguousarray(records.own.path[rows], "<f4").view(np.uint8)),
            "confidence": signals.confidence[chosen],
        }
        yield from zip(chosen.tolist(), self._pattern.encode(columns, len(chosen)).values(), strict=True)
