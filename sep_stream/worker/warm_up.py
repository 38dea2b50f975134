"""Compiles what the stages need before a worker joins its groups; later starts find it in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events, encode_events, events_from_records
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.runtime.topology import Topology
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import score
from sep_stream.settling import SettleParameters, Settler, SignalRows
from sep_stream.stores.schemas import declared_schemas


def warm_up(stages: Sequence[str]) -> None:
    """Run each compiled function of the stages once, on next to nothing."""
    if "convert" in stages:
        _convert(declared_schemas())
    if "metrics" in stages:
        params = WindowParams()
        bits = np.zeros(params.window_bars, np.uint8)
        anchor = np.array([params.history - 1])
        compute_metrics(bits, np.zeros(params.window_bars, np.int32), anchor, params, "cpu")
    if "score" in stages:
        time_s = np.zeros(1, np.int64)
        path = np.zeros((1, WindowParams().path_values), np.float32)
        library = PathLibrary.build("EUR/USD", "M1", path, time_s, time_s + 1, time_s + 2, np.zeros(1, np.int32))
        score(library, 1, path, time_s)
    if "settle" in stages:
        _settle()


def _convert(schemas: Schemas) -> None:
    instruments = Topology.load().instruments
    codec = BulkCodec(*schemas.of("market_event"))
    one = Decimal(1)
    quotes = [
        {"instrument": "EUR/USD", "kind": "QUOTE", "event_time": k * 60_000_000, "bid": one, "ask": one, "source": "s"}
        for k in range(2)
    ]
    values = encode_events(codec, instruments, events_from_records(instruments, quotes)).values()
    events = decode_events(codec, instruments, [b"EUR/USD"] * 2, values, np.arange(2))
    MarketDataConverter(instruments, ConvertParameters()).feed(events)


def _settle() -> None:
    """A trade from its signal to its end."""
    parameters = SettleParameters(trade="all")
    n = parameters.horizon_bars[0] + 1
    k, price = np.arange(n, dtype=np.int64), np.ones(n, np.int64)
    true = np.ones(n, np.bool_)
    rows = SignalRows(
        instrument=np.zeros(n, np.int16), timeframe=np.zeros(n, np.uint8), index=k, open_time_s=60 * k, open=price,
        close=price, spread=price, available_at_s=60 * k + 60, anchor_time_s=60 * k, direction=np.ones(n, np.int8),
        gate_passed=true, confirmed=true, confidence=np.ones(n), model=np.zeros(n, np.int32), models=("",),
    )  # fmt: skip
    Settler(Topology.load().instruments, parameters).feed(rows)
