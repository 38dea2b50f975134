"""The package's core from events to signals, in the words of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.convert import ConvertOutput, ConvertParameters, MarketDataConverter
from sep_stream.market.decode import events_from_records
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import METRICS_VERSION, MetricsBatch, WindowParams, compute_metrics
from sep_stream.scoring import MetricRecords, Model, Signals, WindowMetrics, gate_reasons, score_records

DIRECTIONS = {1: "BUY", -1: "SELL", 0: "HOLD"}
REASONS = {0: None, 1: "library", 2: "weight"}


def metrics_row(batch: MetricsBatch, row: int) -> dict[str, Any]:
    """One window's metrics as plain numbers."""
    return {name: getattr(batch, name)[row].tolist() for name in type(batch).__dataclass_fields__}


def package_signals(
    events: Sequence[Mapping[str, Any]],
    instruments: Instruments,
    params: WindowParams,
    models: Mapping[str, Model],
    cuts: Sequence[int] = (),
    engine: str = "cpu",
) -> list[dict[str, Any]]:
    """Signals of the events in batches that end at `cuts`, with the fields of the wire; times are epoch seconds."""
    converter = MarketDataConverter(instruments, ConvertParameters(params.history, params.forward))
    batch = events_from_records(instruments, events)
    found: list[dict[str, Any]] = []
    for start, stop in zip((0, *cuts), (*cuts, len(batch)), strict=True):
        output = converter.feed(batch.take(slice(start, stop)))
        if len(output.windows):
            records = _records(output, params, engine)
            known = [models[model_id] for model_id in output.models]
            signals = score_records(records, known, instruments.symbols, params)
            bars = output.bars[output.windows["bar"]]
            found += [_signal(signals, k, records, bars, known, instruments) for k in range(len(signals))]
    return found


def _records(output: ConvertOutput, params: WindowParams, engine: str) -> MetricRecords:
    bars = output.bars[output.windows["bar"]]
    timeframe = bars["timeframe"]
    longer = {
        name: _windows(output, output.windows[name], np.full(len(bars), k), params, engine)
        for k, name in ((1, "m5"), (2, "m15"))
    }
    own = _windows(output, output.windows["anchor"], timeframe, params, engine)
    return MetricRecords(bars["instrument"], timeframe, own, **longer)


def _windows(
    output: ConvertOutput,
    anchors: npt.NDArray[np.int64],
    timeframe: npt.NDArray[Any],
    params: WindowParams,
    engine: str,
) -> WindowMetrics:
    series, present = output.series, anchors >= 0
    at = np.where(present, anchors, params.history - 1)
    return WindowMetrics.of(
        present=present,
        anchor_time_s=series.open_time_s[at],
        start_time_s=series.open_time_s[at - params.history + 1],
        available_at_s=series.open_time_s[at + params.forward] + np.array(DURATION_S)[timeframe],
        model=np.where(present, series.model[at + params.forward], -1).astype(np.int32),
        metrics=compute_metrics(series.bits, series.close, at, params, engine),
    )


def _signal(
    signals: Signals,
    k: int,
    records: MetricRecords,
    bars: npt.NDArray[np.void],
    models: Sequence[Model],
    instruments: Instruments,
) -> dict[str, Any]:
    row = int(signals.row[k])
    bar, instrument = bars[row], instruments[int(bars[row]["instrument"])]
    spread = int(bar["spread"])
    return {
        "signal_id": signals.signal_id[k],
        "instrument": instrument.symbol,
        "timeframe": ("M1", "M5", "M15")[bar["timeframe"]],
        "anchor_time": int(records.own.anchor_time_s[row]),
        "available_at": int(records.own.available_at_s[row]),
        "direction": DIRECTIONS[int(signals.direction[k])],
        "reason": REASONS[int(signals.reason[k])],
        "confidence": float(signals.confidence[k]),
        "p_up": float(signals.p_up[k]),
        "expected_move": float(signals.expected_move[k]),
        "gate_passed": bool(signals.gate_passed[k]),
        "gate_failed": list(gate_reasons(int(signals.gate[k]))),
        "confirmed": bool(signals.confirmed[k]),
        "m5_signal_id": signals.m5_signal_id[k],
        "m15_signal_id": signals.m15_signal_id[k],
        "matches": _matches(signals, k),
        "model_id": models[int(signals.model[k])].model_id,
        "metrics_version": METRICS_VERSION,
        "bar_index": int(bar["index"]),
        "bar_open_time": int(bar["open_time_s"]),
        "bar_open": int(bar["open"]) * instrument.tick_size,
        "bar_close": int(bar["close"]) * instrument.tick_size,
        "bar_spread": None if spread < 0 else spread * instrument.tick_size,
    }


def _matches(signals: Signals, k: int) -> list[dict[str, Any]]:
    names = ("row", "anchor_time", "cosine", "outcome")
    columns = (signals.match_row, signals.match_anchor_time_s, signals.match_cosine, signals.match_outcome)
    rows = zip(*(column[k].tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows if row[0] >= 0]
