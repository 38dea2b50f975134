"""Signals of stretches of history: the windows, metrics and scores that a worker makes, in bulk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bars import InstrumentBars
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import Engine, MetricsBatch, WindowParams, compute_metrics
from sep_stream.scoring import MetricRecords, Model, ScoreCache, Signals, WindowMetrics, score_records
from sep_stream.settling import SignalRows

RECORDS_AT_ONCE: Final = 32_768

ModelOf = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.int32]]
"""By timeframe and bar indices (n,): positions (n,) of the models in force when those bars closed, -1 none."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Signals of an instrument, in the order of its log.

    rows: (n,) positions among the instrument's bars, of those that completed the windows · anchor_time_s,
    available_at_s: (n,) of these · signals: of those that have a model; their `row` is a position in `rows`
    The metrics are not kept: a fold has a million windows.
    """

    bars: InstrumentBars
    symbol: str
    rows: npt.NDArray[np.int64]
    anchor_time_s: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    signals: Signals
    models: tuple[str, ...]

    @property
    def signal_bars(self) -> npt.NDArray[np.void]:
        """The bars of the signals, (s,) KEPT_DTYPE."""
        return self.bars.rows[self.rows[self.signals.row]]

    def settled_by(self) -> SignalRows:
        """What makes trades of these signals."""
        signals, closed = self.signals, self.signal_bars
        return SignalRows(
            instrument=np.full(len(signals), self.bars.position, np.int16),
            timeframe=closed["timeframe"].astype(np.uint8),
            index=closed["index"].astype(np.int64),
            open_time_s=closed["open_time_s"].astype(np.int64),
            open=closed["open"].astype(np.int64),
            close=closed["close"].astype(np.int64),
            spread=closed["spread"].astype(np.int64),
            available_at_s=self.available_at_s[signals.row],
            anchor_time_s=self.anchor_time_s[signals.row],
            direction=signals.direction,
            gate_passed=signals.gate_passed,
            confirmed=signals.confirmed,
            confidence=signals.confidence,
            model=signals.model,
            models=self.models,
        )


def scored(
    bars: InstrumentBars,
    rows: npt.NDArray[np.int64],
    models: Sequence[Model],
    model_of: ModelOf,
    symbols: Sequence[str],
    params: WindowParams,
    engine: str | Engine = "auto",
) -> Iterator[Scored]:
    """Signals of the windows that some bars complete, RECORDS_AT_ONCE at a time.

    rows: (n,) positions among the bars, rising; those that complete no window are passed over
    Raises what `score_records` raises.
    """
    rows = rows[bars.rows["index"][rows] >= params.window_bars - 1]
    cache, ids = ScoreCache(), tuple(model.model_id for model in models)
    for start in range(0, len(rows), RECORDS_AT_ONCE):
        part = rows[start : start + RECORDS_AT_ONCE]
        records = metric_records(bars, part, model_of, params, engine)
        signals, own = score_records(records, models, symbols, params, cache, engine), records.own
        yield Scored(bars, symbols[bars.position], part, own.anchor_time_s, own.available_at_s, signals, ids)


def metric_records(
    bars: InstrumentBars,
    rows: npt.NDArray[np.int64],
    model_of: ModelOf,
    params: WindowParams,
    engine: str | Engine = "auto",
) -> MetricRecords:
    """The windows that bars complete with their metrics, each M1 window with the newest complete M5 and M15 windows."""
    closed = bars.rows[rows]
    need = params.window_bars
    longer = []
    for timeframe, name in ((1, "m5_count"), (2, "m15_count")):
        newest = closed[name].astype(np.int64) - 1
        present = (closed["timeframe"] == 0) & (newest >= need - 1)
        longer.append(_windows(bars, timeframe, newest, present, model_of, params, engine))
    own = [
        _windows(bars, timeframe, closed["index"].astype(np.int64), closed["timeframe"] == timeframe, model_of, params,
                 engine)
        for timeframe in range(len(TIMEFRAMES))
    ]  # fmt: skip
    return MetricRecords(
        instrument=np.full(len(rows), bars.position, np.int16),
        timeframe=closed["timeframe"].astype(np.uint8),
        own=_merged(own, closed["timeframe"]),
        m5=longer[0],
        m15=longer[1],
    )


def _windows(
    bars: InstrumentBars,
    timeframe: int,
    last: npt.NDArray[np.int64],
    present: npt.NDArray[np.bool_],
    model_of: ModelOf,
    params: WindowParams,
    engine: str | Engine,
) -> WindowMetrics:
    """The windows of a timeframe that end at bars `last` (n,) where present; elsewhere rows that mean nothing."""
    n, lane = len(last), bars.lanes[timeframe]
    ends, where = np.unique(last[present], return_inverse=True)
    at = np.zeros(n, np.intp)
    at[present] = where
    if not len(ends):
        nothing = np.zeros(n, np.int64)
        no_model = np.full(n, -1, np.int32)
        return WindowMetrics(present, nothing, nothing, nothing, no_model, MetricsBatch.zeros(n, params.samples))
    first, stop = int(ends[0]) - params.window_bars + 1, int(ends[-1]) + 1
    anchors = ends - params.forward
    metrics = compute_metrics(lane.bits[first:stop], lane.close[first:stop], anchors - first, params, engine)
    return WindowMetrics(
        present=present,
        anchor_time_s=lane.open_time_s[anchors][at],
        start_time_s=lane.open_time_s[anchors - params.history + 1][at],
        available_at_s=(lane.open_time_s[ends] + DURATION_S[timeframe])[at],
        model=model_of(timeframe, ends)[at],
        metrics=metrics.take(at),
    )


def _merged(parts: Sequence[WindowMetrics], chosen: npt.NDArray[np.uint8]) -> WindowMetrics:
    """Row k is that of `parts[chosen[k]]`."""
    n = len(chosen)
    at = chosen.astype(np.intp) * n + np.arange(n)

    def column(name: str) -> npt.NDArray[np.int64]:
        return np.concatenate([getattr(part, name) for part in parts])[at]

    return WindowMetrics(
        present=np.ones(n, np.bool_),
        anchor_time_s=column("anchor_time_s"),
        start_time_s=column("start_time_s"),
        available_at_s=column("available_at_s"),
        model=column("model").astype(np.int32),
        metrics=MetricsBatch.concatenate([part.metrics for part in parts]).take(at),
    )
