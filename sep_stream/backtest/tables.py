"""A backtest's signals and trades as tables, for Parquet and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.results import FORECAST_DTYPE
from sep_stream.backtest.results import TRADE_DTYPE as REPORTED_DTYPE
from sep_stream.backtest.scored import Scored
from sep_stream.backtest.walk import ScoredFold
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import METRICS_VERSION
from sep_stream.scoring import gate_reasons, pattern_id, signal_id, trade_id
from sep_stream.settling import Settled, SettleParameters, Stake, earned
from sep_stream.training.evaluation import Evaluation, FoldEvaluation

DIRECTION: Final = {1: "BUY", -1: "SELL", 0: "HOLD"}
HOLD_REASON: Final = (None, "library", "weight")
_GATE: Final = [list(gate_reasons(mask)) for mask in range(64)]
BP: Final = 10_000.0

Columns = dict[str, Any]
"""n-long columns by name: lists, or datetime64[s] arrays in UTC with NaT for null."""


def signal_schema() -> Any:
    """The Arrow schema of signals."""
    import pyarrow as pa

    text, number, time = pa.string(), pa.float64(), pa.timestamp("s", "UTC")
    match = pa.struct([("row", pa.int64()), ("anchor_time", time), ("cosine", number), ("outcome", pa.int32())])
    fields: list[tuple[str, Any]] = [
        ("signal_id", text),
        ("instrument", text),
        ("timeframe", text),
        ("anchor_time", time),
        ("available_at", time),
        ("fold", pa.int32()),
        ("direction", text),
        ("confidence", number),
        ("p_up", number),
        ("expected_move", number),
        ("gate", pa.struct([("passed", pa.bool_()), ("failed", pa.list_(text))])),
        ("confirmed", pa.bool_()),
        ("m5_signal_id", text),
        ("m15_signal_id", text),
        ("matches", pa.list_(match)),
        ("reason", text),
        ("model_id", text),
        ("metrics_version", text),
        ("outcome", pa.int32()),
    ]
    return pa.schema(fields)


def signal_columns(part: Scored, fold: int, horizon_bars: Sequence[int]) -> Columns:
    """Columns of `signal_schema`. outcome: points over the horizon, None where it is not known"""
    signals, n = part.signals, len(part.signals)
    outcome, known = outcomes(part, horizon_bars)
    timeframes = part.signal_bars["timeframe"].tolist()
    passed, failed = signals.gate_passed.tolist(), [_GATE[mask] for mask in signals.gate.tolist()]
    return {
        "signal_id": signals.signal_id,
        "instrument": [part.symbol] * n,
        "timeframe": [TIMEFRAMES[timeframe] for timeframe in timeframes],
        "anchor_time": _time(part.anchor_time_s[signals.row]),
        "available_at": _time(part.available_at_s[signals.row]),
        "fold": np.full(n, fold, np.int32),
        "direction": [DIRECTION[direction] for direction in signals.direction.tolist()],
        **{name: getattr(signals, name) for name in ("confidence", "p_up", "expected_move")},
        "gate": [{"passed": p, "failed": f} for p, f in zip(passed, failed, strict=True)],
        "confirmed": signals.confirmed,
        "m5_signal_id": signals.m5_signal_id,
        "m15_signal_id": signals.m15_signal_id,
        "matches": _matches(part),
        "reason": [HOLD_REASON[reason] for reason in signals.reason.tolist()],
        "model_id": [part.models[model] for model in signals.model.tolist()],
        "metrics_version": [METRICS_VERSION] * n,
        "outcome": [move if there else None for move, there in zip(outcome.tolist(), known.tolist(), strict=True)],
    }


def _matches(part: Scored) -> list[list[dict[str, Any]]]:
    s = part.signals
    columns = (s.match_row, s.match_anchor_time_s, s.match_cosine, s.match_outcome)
    return [
        [
            {"row": row, "anchor_time": anchor, "cosine": cosine, "outcome": outcome}
            for row, anchor, cosine, outcome in zip(*matches, strict=True)
            if row >= 0
        ]
        for matches in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _time(seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.datetime64]:
    return seconds.astype("datetime64[s]")


def outcomes(part: Scored, horizon_bars: Sequence[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """The moves (n,) in points over the horizons after signals, and which are known: others are 0."""
    closed = part.signal_bars
    moves, known = np.zeros(len(closed), np.int32), np.zeros(len(closed), np.bool_)
    for timeframe, lane in enumerate(part.bars.lanes):
        rows = np.flatnonzero(closed["timeframe"] == timeframe)
        end = closed["index"][rows].astype(np.int64) + horizon_bars[timeframe]
        there = end < len(lane)
        known[rows] = there
        moves[rows[there]] = lane.close[end[there]] - closed["close"][rows[there]]
    return moves, known


def forecasts(part: Scored, fold: int, horizon_bars: Sequence[int]) -> npt.NDArray[np.void]:
    """Signals with a direction whose outcome is known, FORECAST_DTYPE."""
    outcome, known = outcomes(part, horizon_bars)
    signals = part.signals
    rows = np.flatnonzero(known & (signals.direction != 0))
    found = np.zeros(len(rows), FORECAST_DTYPE)
    found["instrument"], found["fold"] = part.bars.position, fold
    found["timeframe"] = part.signal_bars["timeframe"][rows]
    found["available_at_s"] = part.available_at_s[signals.row[rows]]
    found["direction"] = signals.direction[rows]
    found["p"] = np.where(signals.direction > 0, signals.confidence, 1.0 - signals.confidence)[rows]
    found["outcome"] = outcome[rows]
    found["gate_passed"], found["confirmed"] = signals.gate_passed[rows], signals.confirmed[rows]
    return found


def reported_trades(
    settled: Settled, fold: npt.NDArray[np.int32], instruments: Instruments, parameters: SettleParameters, stake: Stake
) -> npt.NDArray[np.void]:
    """Trades as the report takes them. fold: (n,) of the signal behind each"""
    trades = settled.trades
    tick = instruments.tick_units[trades["instrument"]]
    made = earned(trades, tick, stake)
    found = np.zeros(len(trades), REPORTED_DTYPE)
    for name in ("instrument", "timeframe", "direction", "entry_time_s", "exit_time_s", "confidence", "spans_silence"):
        found[name] = trades[name]
    found["fold"] = fold
    for name in ("entry_price", "exit_price"):
        found[name] = trades[name] * tick / UNITS_PER_ONE
    found["points"] = made.points
    found["cost_points"] = trades["spread"] + 2 * parameters.slippage + made.fee_points
    found["profit_loss"] = np.array(made.profit_loss_units, np.float64) / UNITS_PER_ONE
    found["return_bp"] = BP * found["points"] / trades["entry_price"]
    found["cost_bp"] = BP * found["cost_points"] / trades["entry_price"]
    return found


def trade_schema() -> Any:
    """The Arrow schema of trades."""
    import pyarrow as pa

    text, number, time, price = pa.string(), pa.float64(), pa.timestamp("s", "UTC"), pa.decimal128(18, 9)
    fields: list[tuple[str, Any]] = [
        *((name, text) for name in ("trade_id", "signal_id", "pattern_id", "instrument", "timeframe", "direction")),
        ("fold", pa.int32()),
        ("entry_time", time),
        ("entry_price", price),
        ("exit_time", time),
        ("exit_price", price),
        ("units", price),
        ("points", number),
        ("cost_points", number),
        ("return_bp", number),
        ("profit_loss", pa.decimal128(38, 9)),
        ("spans_silence", pa.bool_()),
        ("confidence", number),
        ("model_id", text),
    ]
    return pa.schema(fields)


def trade_columns(settled: Settled, reported: npt.NDArray[np.void], instruments: Instruments, stake: Stake) -> Columns:
    """Columns of `trade_schema`. reported: what `reported_trades` made of them"""
    trades = settled.trades
    tick = instruments.tick_units[trades["instrument"]]
    symbols = [instruments[position].symbol for position in trades["instrument"].tolist()]
    timeframes = [TIMEFRAMES[timeframe] for timeframe in trades["timeframe"].tolist()]
    models = [settled.models[model] for model in trades["model"].tolist()]
    names = list(zip(models, symbols, timeframes, trades["anchor_time_s"].tolist(), strict=True))
    signals = [signal_id(*name) for name in names]
    return {
        "trade_id": [trade_id(signal) for signal in signals],
        "signal_id": signals,
        "pattern_id": [pattern_id(*name) for name in names],
        "instrument": symbols,
        "timeframe": timeframes,
        "direction": [DIRECTION[direction] for direction in trades["direction"].tolist()],
        "fold": reported["fold"],
        **{f"{end}_time": _time(trades[f"{end}_time_s"]) for end in ("entry", "exit")},
        **{f"{end}_price": _decimals((trades[f"{end}_price"] * tick).tolist()) for end in ("entry", "exit")},
        "units": [stake.units] * len(trades),
        **{name: reported[name] for name in ("points", "cost_points", "return_bp")},
        "profit_loss": _decimals(earned(trades, tick, stake).profit_loss_units),
        "spans_silence": trades["spans_silence"],
        "confidence": trades["confidence"],
        "model_id": models,
    }


def _decimals(units: Sequence[int]) -> list[Decimal]:
    return [Decimal(value).scaleb(-9) for value in units]


def evaluation(scored: ScoredFold) -> Evaluation:
    """How a fold's model did in it: what `model show` tells. Hit rates count a market that did not move as a half."""
    horizon_bars = scored.model.parameters.horizon_bars
    told = [forecasts(part, scored.fold.number, horizon_bars) for part in scored.scored]
    found = np.concatenate([np.empty(0, FORECAST_DTYPE), *told])
    figures = {
        "signals": sum(len(part.signals) for part in scored.scored),
        "forecasts": len(found),
        "hit_rate": _hit_rate(found),
        "gate_passed": int(np.count_nonzero(found["gate_passed"])),
        "gate_passed_hit_rate": _hit_rate(found[found["gate_passed"]]),
    }
    return Evaluation((FoldEvaluation(scored.fold, figures),))


def _hit_rate(found: npt.NDArray[np.void]) -> float | None:
    hits = (found["direction"] * np.sign(found["outcome"]) + 1) / 2
    return float(hits.mean()) if len(hits) else None
