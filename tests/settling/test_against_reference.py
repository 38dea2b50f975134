"""The settler gives what the slow reference gives, whatever the signals and their batches."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.settling import SettleParameters, Settler, SignalRows
from tests.convert.described import DECLARED
from tests.reference.converter import DURATION_S
from tests.reference.settling import Settling

SYMBOLS = DECLARED.symbols
SPREADS = {i.symbol: i.default_spread_points for i in DECLARED}
DIRECTION = {"BUY": 1, "SELL": -1, "HOLD": 0}
Record = dict[str, Any]


def random_signals(seed: int, minutes: int) -> list[Record]:
    """Signals of all instruments, those of an instrument in the order that its bars close in. Minutes are missing,
    markets close, records repeat and get lost."""
    rng = random.Random(seed)
    by_instrument = [_of_instrument(rng, symbol, minutes) for symbol in SYMBOLS]
    merged: list[Record] = []
    while any(by_instrument):
        merged.append(rng.choice([signals for signals in by_instrument if signals]).pop(0))
    return merged


def _of_instrument(rng: random.Random, symbol: str, minutes: int) -> list[Record]:
    signals: list[Record] = []
    index = dict.fromkeys(TIMEFRAMES, 0)
    open_bar: dict[str, int] = {}
    t = 1_700_000_100
    for _ in range(minutes):
        t += 60 * rng.choice([1] * 30 + [2, 3, 61, 62, 300])
        for timeframe in ("M15", "M5", "M1"):
            start = t - t % DURATION_S[timeframe]
            if timeframe in open_bar and open_bar[timeframe] != start:
                signals += _signal(rng, symbol, timeframe, index, open_bar[timeframe])
            open_bar[timeframe] = start
    return signals


def _signal(rng: random.Random, symbol: str, timeframe: str, index: dict[str, int], start: int) -> list[Record]:
    index[timeframe] += 1
    if rng.random() < 0.02:
        return []
    signal = {
        "instrument": symbol,
        "timeframe": timeframe,
        "index": index[timeframe] - 1,
        "open_time": start,
        "open": rng.randint(1, 3000),
        "close": rng.randint(1, 3000),
        "spread": rng.choice([None, 0, 1, 2, 7]),
        "available_at": start + DURATION_S[timeframe],
        "anchor_time": start - 8 * DURATION_S[timeframe],
        "direction": rng.choice(["BUY", "SELL", "HOLD"]),
        "gate_passed": rng.random() < 0.7,
        "confirmed": rng.random() < 0.4,
        "confidence": rng.random(),
        "model_id": rng.choice("xyz"),
    }
    return [signal] * (2 if rng.random() < 0.02 else 1)


def rows(signals: list[Record]) -> SignalRows:
    models = tuple(dict.fromkeys(s["model_id"] for s in signals))

    def column(values: Iterable[Any], dtype: Any) -> Any:
        return np.array(list(values), dtype)

    def whole(name: str) -> Any:
        return column((s[name] for s in signals), np.int64)

    return SignalRows(
        instrument=column((SYMBOLS.index(s["instrument"]) for s in signals), np.int16),
        timeframe=column((TIMEFRAMES.index(s["timeframe"]) for s in signals), np.uint8),
        index=whole("index"),
        open_time_s=whole("open_time"),
        open=whole("open"),
        close=whole("close"),
        spread=column((-1 if s["spread"] is None else s["spread"] for s in signals), np.int64),
        available_at_s=whole("available_at"),
        anchor_time_s=whole("anchor_time"),
        direction=column((DIRECTION[s["direction"]] for s in signals), np.int8),
        gate_passed=column((s["gate_passed"] for s in signals), np.bool_),
        confirmed=column((s["confirmed"] for s in signals), np.bool_),
        confidence=column((s["confidence"] for s in signals), np.float64),
        model=column((models.index(s["model_id"]) for s in signals), np.int32),
        models=models,
    )


def by_package(
    signals: list[Record], parameters: SettleParameters, cuts: Iterable[int], restored: bool
) -> tuple[list[Record], Counter[str]]:
    """Trades and what gave none, in batches that end at the cuts. restored: each batch by a settler made of the
    snapshot of the one before it"""
    settler = Settler(DECLARED, parameters)
    trades: list[Record] = []
    lost: Counter[str] = Counter()
    bounds = [0, *cuts, len(signals)]
    for start, stop in pairwise(bounds):
        settled = settler.feed(rows(signals[start:stop]))
        lost.update({name: count for name, count in settled.counts.items() if count})
        for trade in settled.trades:
            assert signals[start + trade["row"]]["instrument"] == SYMBOLS[trade["instrument"]]
            trades.append(
                {
                    "instrument": SYMBOLS[trade["instrument"]],
                    "timeframe": TIMEFRAMES[trade["timeframe"]],
                    "direction": {1: "BUY", -1: "SELL"}[int(trade["direction"])],
                    "model_id": settled.models[trade["model"]],
                    "confidence": float(trade["confidence"]),
                    "spans_silence": bool(trade["spans_silence"]),
                    **{name: int(trade[name]) for name in ("spread", "entry_price", "exit_price")},
                    **{name: int(trade[f"{name}_s"]) for name in ("anchor_time", "available_at", "entry_time",
                                                                  "exit_time")},
                }
            )  # fmt: skip
        if restored:
            settler = Settler.restore(settler.snapshot(), DECLARED, parameters)
    return trades, lost


def by_reference(signals: list[Record], parameters: SettleParameters) -> tuple[list[Record], Counter[str]]:
    settling = Settling(SPREADS, parameters.trade, parameters.max_open, parameters.slippage)
    for signal in signals:
        settling.feed(signal)
    return settling.trades, settling.lost


@pytest.mark.parametrize("trade", ["confirmed", "gated", "all"])
@pytest.mark.parametrize(("max_open", "slippage"), [(1, 0), (3, 2), (100, 1)])
def test_a_long_random_stream_gives_the_same_trades(trade: str, max_open: int, slippage: int) -> None:
    signals = random_signals(7, 2000)
    parameters = SettleParameters(trade, max_open, slippage)
    trades, lost = by_reference(signals, parameters)
    cuts = sorted(random.Random(1).sample(range(len(signals)), 40))
    assert by_package(signals, parameters, cuts, restored=True) == (trades, lost)
    assert {(t["timeframe"], t["direction"]) for t in trades} == {(t, d) for t in TIMEFRAMES for d in ("BUY", "SELL")}
    assert {t["spans_silence"] for t in trades} == {True, False}
    assert set(lost) >= {"repeated", "no_entry", "exit_missing"}
    assert ("no_room" in lost) == (max_open < 100)


@given(
    st.integers(0, 2**32), st.integers(1, 120), st.sampled_from(["confirmed", "gated", "all"]), st.integers(1, 4),
    st.booleans(),
)  # fmt: skip
def test_any_chunking_gives_the_same(seed: int, minutes: int, trade: str, max_open: int, restored: bool) -> None:
    signals = random_signals(seed, minutes)
    parameters = SettleParameters(trade, max_open)
    expected = by_reference(signals, parameters)
    assert by_package(signals, parameters, range(1, len(signals)), restored) == expected
    assert by_package(signals, parameters, [], restored) == expected


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 4))
def test_a_snapshot_is_the_same_for_any_chunking(seed: int, minutes: int, max_open: int) -> None:
    signals = random_signals(seed, minutes)
    whole, pieces = (Settler(DECLARED, SettleParameters("all", max_open)) for _ in range(2))
    whole.feed(rows(signals))
    for signal in signals:
        pieces.feed(rows([signal]))
    assert whole.snapshot() == pieces.snapshot()
