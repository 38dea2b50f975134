"""What a report refuses to be made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sep_stream.errors import InputError
from tests.backtest.made_results import made_up

DATA = made_up(days=2)


@pytest.mark.parametrize(
    ("rows", "column", "value", "why"),
    [
        ("trades", "instrument", 2, "the instrument has no symbol"),
        ("trades", "instrument", -1, "the instrument has no symbol"),
        ("trades", "timeframe", 3, "the timeframe is unknown"),
        ("trades", "direction", 2, "the direction is not 1, 0 or -1"),
        ("trades", "direction", 0, "a trade is bought or sold"),
        ("trades", "exit_time_s", 0, "the exit is before the entry"),
        ("trades", "return_bp", np.nan, "return_bp is not finite"),
        ("trades", "profit_loss", np.inf, "profit_loss is not finite"),
        ("forecasts", "p", 1.5, "p lies outside 0 … 1"),
        ("forecasts", "p", np.nan, "p is not finite"),
        ("forecasts", "direction", -2, "the direction is not 1, 0 or -1"),
    ],
)
def test_a_row_that_cannot_be_is_named(rows: str, column: str, value: Any, why: str) -> None:
    changed = getattr(DATA, rows).copy()
    changed[column][5] = value
    with pytest.raises(InputError, match=f"{rows}, row 5: {why}"):
        replace(DATA, **{rows: changed})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trials": 0}, "at least one trial"),
        ({"quote_currencies": ("USD",)}, "a quote currency for each symbol, got 2 and 1"),
        ({"horizon_s": (1800,)}, "a horizon for each of M1, M5, M15"),
        ({"horizon_s": (1800, 0, 1800)}, "a horizon for each of M1, M5, M15"),
        ({"trades": np.zeros(3)}, "trades: expected rows of"),
        ({"forecasts": DATA.trades}, "forecasts: expected rows of"),
    ],
)
def test_what_does_not_fit_together_is_told(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        replace(DATA, **changes)
