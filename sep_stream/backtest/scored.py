"""Signals of stretches of history: the windows, metrics and scores that a worker makes, in bulk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bars import InstrumentBars
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.metrics import Engine, WindowParams, compute_metrics
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
    last = closed["index"].astype(np.int64)
    lanes = [np.flatnonzero(closed["timeframe"] == timeframe) for timeframe in range(len(TIMEFRAMES))]
    own = WindowMetrics.concatenate(
        [_windows(bars, timeframe, last[lane], model_of, params, engine) for timeframe, lane in enumerate(lanes)]
    )
    return MetricRecords(
        instrument=np.full(len(rows), bars.position, np.int16),
        timeframe=closed["timeframe"].astype(np.uint8),
        own=own.take(np.argsort(np.concatenate(lanes))),
        m5=_newest(bars, 1, closed, closed["m5_count"], model_of, params, engine),
        m15=_newest(bars, 2, closed, closed["m15_count"], model_of, params, engine),
    )


def _newest(
    bars: InstrumentBars,
    timeframe: int,
    closed: npt.NDArray[np.void],
    count: npt.NDArray[np.int32],
    model_of: ModelOf,
    params: WindowParams,
    engine: str | Engine,
) -> WindowMetrics:
    """For each M1 bar the window of a longer timeframe that ends at the last of `count` bars (n,); rows that mean
    nothing where there is none."""
    present = (closed["timeframe"] == 0) & (count >= params.window_bars)
    ends, where = np.unique(count[present].astype(np.int64) - 1, return_inverse=True)
    if not len(ends):
        return WindowMetrics.absent(len(closed), params.samples)
    at = np.zeros(len(closed), np.intp)
    at[present] = where
    return replace(_windows(bars, timeframe, ends, model_of, params, engine).take(at), present=present)


def _windows(
    bars: InstrumentBars,
    timeframe: int,
    ends: npt.NDArray[np.int64],
    model_of: ModelOf,
    params: WindowParams,
    engine: str | Engine,
) -> WindowMetrics:
    """The windows of a timeframe that end at its bars `ends` (n,), which rise."""
    if not len(ends):
        return WindowMetrics.absent(0, params.samples)
    lane = bars.lanes[timeframe]
    first, stop = int(ends[0]) - params.window_bars + 1, int(ends[-1]) + 1
    anchors = ends - params.forward
    return WindowMetrics.of(
        present=np.ones(len(ends), np.bool_),
        anchor_time_s=lane.open_time_s[anchors],
        start_time_s=lane.open_time_s[anchors - params.history + 1],
        available_at_s=lane.open_time_s[ends] + DURATION_S[timeframe],
        model=model_of(timeframe, ends),
        metrics=compute_metrics(lane.bits[first:stop], lane.close[first:stop], anchors - first, params, engine),
    )
