"""What a backtest hands to its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.timeframes import TIMEFRAMES

TRADE_DTYPE: Final = np.dtype(
    [
        ("instrument", "<i2"),
        ("timeframe", "u1"),
        ("direction", "i1"),
        ("fold", "<i4"),
        ("entry_time_s", "<i8"),
        ("exit_time_s", "<i8"),
        ("entry_price", "<f8"),
        ("exit_price", "<f8"),
        ("points", "<f8"),
        ("cost_points", "<f8"),
        ("profit_loss", "<f8"),
        ("return_bp", "<f8"),
        ("cost_bp", "<f8"),
        ("confidence", "<f8"),
        ("spans_silence", "?"),
    ]
)
"""One trade a row.

instrument: position among ReportData.symbols · timeframe: index in TIMEFRAMES · direction: 1 bought, -1 sold
fold: its number · times: epoch seconds · points, profit_loss (quote currency), return_bp: net of all costs; return_bp
is 1e4 * points * tick size / entry price · cost_points, cost_bp: spread, slippage and commission
confidence: of its signal · spans_silence: no event for over an hour between entry and exit

So the market moved direction * (return_bp + cost_bp).
"""

FORECAST_DTYPE: Final = np.dtype(
    [
        ("instrument", "<i2"),
        ("timeframe", "u1"),
        ("fold", "<i4"),
        ("available_at_s", "<i8"),
        ("direction", "i1"),
        ("p", "<f8"),
        ("outcome", "<i4"),
        ("gate_passed", "?"),
        ("confirmed", "?"),
    ]
)
"""One signal with a known outcome a row, traded or not. direction: 1 up, -1 down, 0 HOLD · p: calibrated probability of
up · outcome: points from close to close over the horizon
"""


@dataclass(frozen=True, slots=True)
class Fold:
    """One step of the walk forward.

    training_s: open of the first bar and end of the last that the model knew, None where that is not known
    cut_s: training cut · scored_s: from, until · rows, blocks: of the model's libraries together
    Times are epoch seconds.
    """

    number: int
    training_s: tuple[int, int] | None
    cut_s: int
    scored_s: tuple[int, int]
    model_id: str
    rows: int
    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """A backtest's results; the report is a function of these and of nothing else.

    source: what the data are and where they come from, in words · synthetic: whether a generator made them
    symbols, quote_currencies: by instrument position · horizon_s: by timeframe · trades: (t,) TRADE_DTYPE, any order
    forecasts: (f,) FORECAST_DTYPE, any order · data_range_s: first and last event time, None without events
    parameters: of the backtest, values of plain JSON · counts: of events, dead letters, late events, bars, windows,
    signals, trades not entered and whatever else was counted, in the order shown
    trials: settings that were tried on these data, this one included · seed: of the resampling

    Raises InputError for columns of another dtype, numbers that are not finite or positions without a symbol.
    """

    title: str
    source: str
    synthetic: bool
    symbols: tuple[str, ...]
    quote_currencies: tuple[str, ...]
    horizon_s: tuple[int, ...]
    trades: npt.NDArray[np.void]
    forecasts: npt.NDArray[np.void]
    folds: tuple[Fold, ...]
    parameters: Mapping[str, object]
    data_range_s: tuple[int, int] | None
    counts: Mapping[str, int]
    trials: int
    seed: int

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"report: expected at least one trial, got {self.trials}")
        if len(self.symbols) != len(self.quote_currencies):
            raise InputError(
                f"report: expected a quote currency for each symbol, got {len(self.symbols)} and "
                f"{len(self.quote_currencies)}"
            )
        if len(self.horizon_s) != len(TIMEFRAMES) or min(self.horizon_s) <= 0:
            raise InputError(f"report: expected a horizon for each of {', '.join(TIMEFRAMES)}, got {self.horizon_s}")
        self._check("trades", self.trades, TRADE_DTYPE)
        self._check("forecasts", self.forecasts, FORECAST_DTYPE)
        _refuse("trades", self.trades["direction"] == 0, "a trade is bought or sold")
        _refuse("trades", self.trades["exit_time_s"] < self.trades["entry_time_s"], "the exit is before the entry")
        p = self.forecasts["p"]
        _refuse("forecasts", (p < 0) | (p > 1), "p lies outside 0 … 1")

    def _check(self, name: str, rows: npt.NDArray[np.void], dtype: np.dtype[np.void]) -> None:
        if rows.dtype != dtype or rows.ndim != 1:
            raise InputError(f"report: {name}: expected rows of {dtype}, got {rows.dtype} of shape {rows.shape}")
        unknown = (rows["instrument"] < 0) | (rows["instrument"] >= len(self.symbols))
        _refuse(name, unknown, "the instrument has no symbol")
        _refuse(name, rows["timeframe"] >= len(TIMEFRAMES), "the timeframe is unknown")
        _refuse(name, np.abs(rows["direction"].astype(np.int64)) > 1, "the direction is not 1, 0 or -1")
        for column in dtype.names or ():
            if dtype[column].kind == "f":
                _refuse(name, ~np.isfinite(rows[column]), f"{column} is not finite")


def _refuse(name: str, wrong: npt.NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        raise InputError(f"report: {name}, row {int(wrong.argmax())}: {why}")
