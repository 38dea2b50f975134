"""Made-up results of a backtest: forecasts and trades on random walks, with as much edge as is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.results import FORECAST_DTYPE, TRADE_DTYPE, Fold, ReportData
from sep_stream.market.timeframes import DURATION_S

MONDAY_S = 1_704_067_200
"""2024-01-01."""
WEEK_S, WEEKDAYS_S = 7 * 86_400, 5 * 86_400
HORIZON_BARS = (30, 6, 2)
HORIZON_S = tuple(bars * DURATION_S[k] for k, bars in enumerate(HORIZON_BARS))
SYMBOLS, QUOTE_CURRENCIES = ("EUR/USD", "USD/JPY"), ("USD", "JPY")
PRICE, TICK = (1.08, 150.0), (0.00001, 0.001)
COST_POINTS = 8.0
FOLD_S = 5 * 86_400

Rows = npt.NDArray[np.void]


def made_up(seed: int = 7, days: int = 8, edge: float = 0.0, **changes: Any) -> ReportData:
    """Results of two instruments over days; `edge` of the directions know the outcome, the others are a coin's."""
    rng = np.random.default_rng(seed)
    lanes = [_lane(rng, instrument, k, days, edge) for instrument in (0, 1) for k in range(3)]
    forecasts = np.concatenate([forecasts for forecasts, _ in lanes])
    trades = np.concatenate([trades for _, trades in lanes])
    folds = tuple(
        Fold(number, (cut - FOLD_S, cut), cut, (cut, cut + FOLD_S), f"{number:02x}" * 32, 5000 + number, 80)
        for number, cut in enumerate(range(MONDAY_S, MONDAY_S + days * 86_400, FOLD_S))
    )
    data = ReportData(
        title="Walk forward on random walks",
        source="Two random walks",
        synthetic=True,
        symbols=SYMBOLS,
        quote_currencies=QUOTE_CURRENCIES,
        horizon_s=HORIZON_S,
        trades=trades,
        forecasts=forecasts,
        folds=folds,
        parameters={"history": 64, "forward": 64, "slippage_points": 1, "traded": "gated"},
        data_range_s=(MONDAY_S, MONDAY_S + days * 86_400),
        counts={"events": 2 * days * 1440, "dead": 3, "late": 0, "signals": len(forecasts), "trades": len(trades)},
        trials=1,
        seed=1,
    )
    return replace(data, **changes)


def empty(**changes: Any) -> ReportData:
    return made_up(days=1, trades=np.empty(0, TRADE_DTYPE), forecasts=np.empty(0, FORECAST_DTYPE), **changes)


def _lane(rng: np.random.Generator, instrument: int, timeframe: int, days: int, edge: float) -> tuple[Rows, Rows]:
    """Forecasts of one instrument and timeframe, and the trades of those that are sure enough."""
    duration_s, horizon = DURATION_S[timeframe], HORIZON_BARS[timeframe]
    open_s = np.arange(MONDAY_S, MONDAY_S + days * 86_400, duration_s)
    open_s = open_s[(open_s - MONDAY_S) % WEEK_S < WEEKDAYS_S]
    close = np.cumsum(rng.integers(-10, 11, len(open_s))).astype(np.int32)
    start = np.arange(0, len(close) - horizon)
    outcome = close[start + horizon] - close[start]
    guess = np.where(rng.random(len(start)) < edge, np.sign(outcome), _held_coin(rng, len(start), horizon))
    away = np.minimum(np.abs(rng.normal(0, 0.05, len(start))), 0.4)
    sure = away > 0.08

    forecasts = np.zeros(len(start), FORECAST_DTYPE)
    forecasts["instrument"], forecasts["timeframe"], forecasts["outcome"] = instrument, timeframe, outcome
    forecasts["available_at_s"] = open_s[start] + duration_s
    forecasts["direction"] = np.where(away > 0.002, guess, 0)
    forecasts["p"] = np.where(away > 0.002, 0.5 + guess * away, 0.5)
    forecasts["gate_passed"] = forecasts["confirmed"] = sure
    forecasts["fold"] = (forecasts["available_at_s"] - MONDAY_S) // FOLD_S

    made = sure & (guess != 0)
    trades = np.zeros(int(made.sum()), TRADE_DTYPE)
    trades["instrument"], trades["timeframe"], trades["direction"] = instrument, timeframe, guess[made]
    trades["fold"] = forecasts["fold"][made]
    trades["entry_time_s"] = forecasts["available_at_s"][made]
    trades["exit_time_s"] = open_s[start + horizon][made] + duration_s
    trades["entry_price"] = PRICE[instrument] + close[start][made] * TICK[instrument]
    trades["exit_price"] = PRICE[instrument] + close[start + horizon][made] * TICK[instrument]
    trades["points"] = guess[made] * outcome[made] - COST_POINTS
    trades["cost_points"] = COST_POINTS
    trades["profit_loss"] = 100_000 * trades["points"] * TICK[instrument]
    to_bp = 1e4 * TICK[instrument] / trades["entry_price"]
    trades["return_bp"], trades["cost_bp"] = trades["points"] * to_bp, COST_POINTS * to_bp
    trades["confidence"] = 0.5 + away[made]
    trades["spans_silence"] = trades["exit_time_s"] - trades["entry_time_s"] > HORIZON_S[timeframe] + 3600
    return forecasts, trades


def _held_coin(rng: np.random.Generator, count: int, horizon: int) -> npt.NDArray[np.int64]:
    """Directions that stay for a horizon or so, as those of neighbouring signals do."""
    return (2 * rng.integers(0, 2, count // horizon + 1) - 1).repeat(horizon)[:count]
