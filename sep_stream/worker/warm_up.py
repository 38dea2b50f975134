"""Compiles what the stages need before a worker joins its groups; later starts find it in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import numpy as np

from sep_stream import wire
from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events, encode_events, events_from_records
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import MINUTE_US
from sep_stream.market.writers import WriterSchemas
from sep_stream.metrics import METRICS_VERSION, WindowParams, compute_metrics
from sep_stream.record_checks import RecordChecks
from sep_stream.runtime.topology import Topology
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.scoring.signals import score_records
from sep_stream.settling import SettleParameters, Settler, SignalRows
from sep_stream.stores.schemas import declared_schemas

_WINDOW: Final = WindowParams(history=12, forward=1, samples=1, hold=1)


def warm_up(stages: Sequence[str]) -> None:
    """Run each compiled function of the stages once, on next to nothing: a window from quotes to its signal."""
    if {"convert", "metrics", "score"} & set(stages):
        schemas, instruments, model = declared_schemas(), Topology.load().instruments, _model()
        windows = _windows(schemas, instruments, model.model_id)
        if {"metrics", "score"} & set(stages):
            metrics = _metrics(schemas, instruments, windows)
            if "score" in stages:
                _score(schemas, instruments, metrics, model)
    if "settle" in stages:
        _settle(declared_schemas(), Topology.load().instruments)


def _model() -> Model:
    time_s, path = np.zeros(1, np.int64), np.zeros((1, _WINDOW.path_values), np.float32)
    library = PathLibrary.build("EUR/USD", "M1", path, time_s, time_s + 1, time_s + 2, np.zeros(1, np.int32))
    return Model(ModelParameters(window=_WINDOW), 2, (library,))


def _windows(schemas: Schemas, instruments: Instruments, model_id: str) -> list[bytes]:
    codec, one = BulkCodec(*schemas.of("market_event")), Decimal(1)
    event = {"instrument": "EUR/USD", "source": "s"}
    quotes = [
        {**event, "kind": "QUOTE", "event_time": k * MINUTE_US, "bid": one, "ask": one, "sequence": k}
        for k in range(_WINDOW.window_bars + 1)
    ]
    records = [{**event, "kind": "MODEL", "event_time": 0, "model_id": model_id}, *quotes]
    values = encode_events(codec, instruments, events_from_records(instruments, records)).values()
    n, keys = len(records), [b"EUR/USD"] * len(records)
    events = decode_events(codec, instruments, keys, values, np.arange(n), 0, 1)
    _resolve(schemas, values)
    parameters = ConvertParameters(_WINDOW.history, _WINDOW.forward)
    output, symbols = MarketDataConverter(instruments, parameters).feed(events), wire.Symbols(instruments)
    wire.bar_columns(output.bars, instruments, symbols)
    columns = wire.window_columns(output, parameters, instruments, symbols)
    return BulkCodec(*schemas.of("window")).encode(columns, len(output.windows)).values()


def _checks(instruments: Instruments) -> RecordChecks:
    return RecordChecks(wire.Symbols(instruments), instruments)


def _resolve(schemas: Schemas, events: Sequence[bytes]) -> None:
    """Read events once as those of another writer."""
    schema = schemas["market_event"]
    codec = BulkCodec(schema.raw, schema.schema_id + 1, (), WriterSchemas({schema.schema_id: schema.text}))
    codec.decode(events)


def _metrics(schemas: Schemas, instruments: Instruments, windows: Sequence[bytes]) -> list[bytes]:
    decoded = BulkCodec(*schemas.of("window")).decode(windows)
    _checks(instruments).windows(decoded, [b"EUR/USD"] * len(windows), _WINDOW)
    metrics = compute_metrics(*wire.window_series(decoded.columns, _WINDOW), _WINDOW, "cpu")
    columns = wire.metrics_columns(decoded.columns, metrics, _WINDOW, METRICS_VERSION)
    return BulkCodec(*schemas.of("metrics")).encode(columns, len(windows)).values()


def _score(schemas: Schemas, instruments: Instruments, metrics: Sequence[bytes], model: Model) -> None:
    decoded = BulkCodec(*schemas.of("metrics")).decode(metrics)
    _checks(instruments).metrics(decoded, [b"EUR/USD"] * len(metrics), _WINDOW)
    records, _ = wire.metric_records(decoded.columns, _WINDOW, wire.Symbols(instruments))
    score_records(records, [model], instruments.symbols, _WINDOW)


def _settle(schemas: Schemas, instruments: Instruments) -> None:
    """The checks of a signal, and a trade from its signal to its end."""
    _checks(instruments).signals(BulkCodec(*schemas.of("signal")).decode([b""]), [None])
    parameters = SettleParameters(trade="all")
    n = parameters.horizon_bars[0] + 1
    k, price = np.arange(n, dtype=np.int64), np.ones(n, np.int64)
    true = np.ones(n, np.bool_)
    rows = SignalRows(
        instrument=np.zeros(n, np.int16), timeframe=np.zeros(n, np.uint8), index=k, open_time_s=60 * k, open=price,
        close=price, spread=price, available_at_s=60 * k + 60, anchor_time_s=60 * k, direction=np.ones(n, np.int8),
        gate_passed=true, confirmed=true, confidence=np.ones(n), model=np.zeros(n, np.int32), models=("",),
    )  # fmt: skip
    Settler(instruments, parameters).feed(rows)
