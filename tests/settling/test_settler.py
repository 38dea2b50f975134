"""What a trade is: its entry, its end, its price and what it makes; and states that can't be used."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError, StateError
from sep_stream.settling import SettleParameters, Settler, Stake, profit_loss_units
from tests.convert.described import DECLARED
from tests.reference.settling import result
from tests.settling.test_against_reference import rows

ALL = SettleParameters("all")


def signal(index: int, **changed: Any) -> dict[str, Any]:
    """An M1 signal of EUR/USD in a market without gaps; only index 0 says BUY."""
    start = 60 * index
    return {
        "instrument": "EUR/USD", "timeframe": "M1", "index": index, "open_time": start, "open": 1000 + index,
        "close": 1001 + index, "spread": 3, "available_at": start + 60, "anchor_time": start - 60 * 8,
        "direction": "BUY" if index == 0 else "HOLD", "gate_passed": True, "confirmed": True, "confidence": 0.75,
        "model_id": "m", **changed,
    }  # fmt: skip


def settled(signals: list[dict[str, Any]], parameters: SettleParameters = ALL) -> tuple[Any, dict[str, int]]:
    found = Settler(DECLARED, parameters).feed(rows(signals))
    return found.trades, found.counts


def test_a_buy_enters_at_the_next_bars_open_on_the_ask_and_leaves_at_the_horizons_close_on_the_bid() -> None:
    trades, counts = settled([signal(k) for k in range(40)], SettleParameters("all", slippage=2))
    assert not any(counts.values())
    [trade] = trades
    assert (trade["entry_time_s"], trade["entry_price"]) == (60, 1001 + 1 + 2)
    assert (trade["exit_time_s"], trade["exit_price"]) == (31 * 60, 1031 + 1 - 3 - 2)
    assert not trade["spans_silence"]


def test_a_sell_enters_on_the_bid_and_leaves_on_the_ask() -> None:
    [trade], _ = settled([signal(0, direction="SELL"), *(signal(k) for k in range(1, 31))])
    assert (trade["entry_price"], trade["exit_price"]) == (1001 + 1 - 3, 1031 + 1)


@pytest.mark.parametrize(("late_s", "traded"), [(60, True), (120, False)])
def test_a_bar_that_opens_more_than_a_minute_after_the_signal_comes_too_late(late_s: int, traded: bool) -> None:
    shifted = [signal(k, open_time=60 * k + late_s, available_at=60 * k + 60 + late_s) for k in range(1, 31)]
    trades, counts = settled([signal(0), *shifted])
    assert (len(trades), counts["no_entry"]) == ((1, 0) if traded else (0, 1))


@pytest.mark.parametrize(("silence_s", "flagged"), [(3600, False), (3660, True)])
def test_a_trade_across_more_than_an_hour_without_bars_is_flagged(silence_s: int, flagged: bool) -> None:
    later = [signal(k, open_time=60 * k + silence_s, available_at=60 * k + 60 + silence_s) for k in range(5, 31)]
    [trade], _ = settled([*(signal(k) for k in range(5)), *later])
    assert trade["spans_silence"] == flagged


def test_a_longer_timeframe_enters_at_the_open_of_an_m1_bar() -> None:
    m5 = [
        signal(0, timeframe="M5", available_at=300),
        *(signal(k, timeframe="M5", open_time=300 * k, available_at=300 * (k + 1)) for k in range(1, 7)),
    ]
    m1 = [signal(k, direction="HOLD") for k in (4, 5)]
    [trade], _ = settled([m5[0], *m1, *m5[1:]])
    assert (trade["entry_time_s"], trade["entry_price"]) == (300, 1005 + 1)
    assert trade["exit_time_s"] == 7 * 300


def test_without_the_record_that_ends_the_horizon_there_is_no_result() -> None:
    trades, counts = settled([signal(k) for k in range(40) if k != 30])
    assert not len(trades)
    assert counts["exit_missing"] == 1


def test_a_trade_that_is_open_keeps_others_out_until_it_ends() -> None:
    trades, counts = settled([signal(k, direction="BUY") for k in range(61)])
    assert trades["entry_time_s"].tolist() == [60, 31 * 60]
    assert counts["no_room"] == 58


@pytest.mark.parametrize(
    ("gained", "tick_units", "stake", "expected"),
    [
        (7, 10_000, Stake(), 7_000_000_000),
        (-7, 10_000, Stake(commission=Decimal("3.5")), -14_000_000_000),
        (1, 1, Stake(Decimal("0.5")), 1),  # half of 1e-9: up
        (-1, 1, Stake(Decimal("0.5")), 0),
        (10**9, 10**9, Stake(Decimal(10**8)), 10**26),
    ],
)
def test_money_is_exact_to_the_ninth_decimal(gained: int, tick_units: int, stake: Stake, expected: int) -> None:
    assert profit_loss_units(np.array([gained]), np.array([tick_units]), stake) == [expected]


@given(
    st.integers(-(10**6), 10**6), st.integers(1, 10**9), st.decimals("0.001", 10**6, places=3),
    st.decimals(0, 1000, places=2),
)  # fmt: skip
def test_money_is_that_of_decimal_arithmetic(gained: int, tick: int, units: Decimal, commission: Decimal) -> None:
    stake = Stake(units, commission)
    expected = result({"entry_price": 0, "exit_price": gained, "direction": "BUY"}, Decimal(tick).scaleb(-9), units,
                      commission)  # fmt: skip
    assert profit_loss_units(np.array([gained]), np.array([tick]), stake) == [int(expected["profit_loss"].scaleb(9))]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: SettleParameters("some"), "trade: expected one of confirmed, gated, all, got 'some'"),
        (lambda: SettleParameters(max_open=0), "max_open: expected 1 to 1000, got 0"),
        (lambda: SettleParameters(slippage=-1), "slippage"),
        (lambda: SettleParameters(horizon_bars=(30, 6)), "horizon_bars"),
        (lambda: Stake(Decimal(0)), "units"),
        (lambda: Stake(Decimal("NaN")), "units"),
        (lambda: Stake(commission=Decimal("-1")), "commission"),
        (lambda: Stake(Decimal("0.0000000001")), "units"),
    ],
)
def test_values_outside_the_contract_are_told_by_name(made: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        made()


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b"\x00" + b, lambda b: b"", lambda b: b + b"\x00" * 80])
def test_bytes_that_are_no_state_are_told(harm: Any) -> None:
    settler = Settler(DECLARED, ALL)
    settler.feed(rows([signal(0)]))
    with pytest.raises(StateError, match="snapshot: not a settler's state"):
        Settler.restore(harm(settler.snapshot()), DECLARED, ALL)
