"""Which longer scores confirm at an M1 close, from events to signals; asked of the reference and the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sep_stream.metrics import WindowParams
from sep_stream.scoring import Model, ModelParameters
from tests import reference
from tests.convert.described import DECLARED
from tests.package import package_signals
from tests.reference.files import NOTHING
from tests.streams import INSTRUMENTS, MINUTE_US, SECOND_US, Event

PARAMS: dict[str, Any] = {"history": 12, "forward": 8, "samples": 4, "eps": 0.03, "hold": 2}
NOON_S = 1_706_788_800
"""2024-02-01 12:00 UTC."""
MINUTES_BEFORE_NOON = 360
"""Enough for windows of M15: 20 bars."""

Run = Callable[[Sequence[Event]], list[dict[str, Any]]]


THEIRS = reference.train({}, PARAMS, 0)
OURS = Model(ModelParameters(window=WindowParams(**PARAMS)), 0, ())
"""Without a library: what they say is always HOLD, which scores they name does not depend on it."""


def by_reference(events: Sequence[Event]) -> list[dict[str, Any]]:
    pipeline = reference.Pipeline(INSTRUMENTS, PARAMS, {THEIRS.model_id: THEIRS})
    for event in events:
        pipeline.feed(event)
    return pipeline.signals


def by_package(events: Sequence[Event]) -> list[dict[str, Any]]:
    return package_signals(events, DECLARED, WindowParams(**PARAMS), {OURS.model_id: OURS})


@pytest.fixture(params=[by_reference, by_package], ids=["reference", "package"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


def candle(minute: int) -> Event:
    """That many minutes after noon."""
    close = INSTRUMENTS["EUR/USD"]["tick_size"] * (110_000 + minute * minute % 37)
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    told = {"instrument": "EUR/USD", "kind": "BAR", "event_time": NOON_S * SECOND_US + minute * MINUTE_US}
    return {**NOTHING, **told, **prices, "duration_s": 60}


def in_force() -> Event:
    told = {"instrument": "EUR/USD", "kind": "MODEL", "event_time": 0, "model_id": THEIRS.model_id}
    return {**NOTHING, **told}


def ending_at(signals: Sequence[dict[str, Any]], timeframe: str, minute: int) -> dict[str, Any]:
    """The signal of the window that ends that many minutes after noon."""
    [signal] = [s for s in signals if (s["timeframe"], s["available_at"]) == (timeframe, NOON_S + 60 * minute)]
    return signal


def series(*minutes: int) -> list[Event]:
    """A model, every candle up to noon, then those of these minutes."""
    return [in_force(), *(candle(minute) for minute in (*range(-MINUTES_BEFORE_NOON, 0), *minutes))]


def test_both_have_the_same_model() -> None:
    assert OURS.model_id == THEIRS.model_id


def test_scores_that_end_with_the_minute_count(run: Run) -> None:
    signals = run(series())
    last = ending_at(signals, "M1", 0)
    assert last["m5_signal_id"] == ending_at(signals, "M5", 0)["signal_id"]
    assert last["m15_signal_id"] == ending_at(signals, "M15", 0)["signal_id"]
    assert [s["timeframe"] for s in signals[-3:]] == ["M15", "M5", "M1"]


@pytest.mark.parametrize(("timeframe", "minutes"), [("M5", 6), ("M15", 16)])
def test_a_score_counts_for_its_duration_and_a_minute_and_then_no_more(run: Run, timeframe: str, minutes: int) -> None:
    """A silence after noon: the first minute after it ends exactly at the limit, the next one past it."""
    signals = run(series(minutes - 1, minutes))
    name = f"{timeframe.lower()}_signal_id"
    assert ending_at(signals, "M1", minutes)[name] == ending_at(signals, timeframe, 0)["signal_id"]
    assert ending_at(signals, "M1", minutes + 1)[name] is None


def test_a_minute_that_ended_before_a_silence_does_not_see_what_ended_after(run: Run) -> None:
    """Its bar and the longer ones are closed by one event."""
    quote = {**NOTHING, "instrument": "EUR/USD", "kind": "QUOTE", "bid": candle(0)["close"], "ask": candle(0)["close"]}
    before, after = (
        {**quote, "event_time": NOON_S * SECOND_US + second * SECOND_US} for second in (3 * 60 + 30, 20 * 60)
    )
    signals = run([*series(0, 1, 2), before, after])
    last = ending_at(signals, "M1", 4)
    assert [s["timeframe"] for s in signals[-3:]] == ["M1", "M5", "M15"]
    assert last["m5_signal_id"] == ending_at(signals, "M5", 0)["signal_id"]
    assert last["m15_signal_id"] == ending_at(signals, "M15", 0)["signal_id"]


def test_a_longer_window_under_no_model_does_not_count(run: Run) -> None:
    model, *candles = series()
    signals = run([*candles[:-1], model, candles[-1]])
    assert ending_at(signals, "M1", 0)["m5_signal_id"] is not None
    signals = run([*candles, model, candle(0)])
    [only] = [s for s in signals if s["available_at"] == NOON_S + 60]
    assert (only["timeframe"], only["m5_signal_id"], only["m15_signal_id"]) == ("M1", None, None)


@pytest.mark.parametrize(("timeframe", "limit_s"), [("M5", 360), ("M15", 960)])
def test_the_reference_counts_a_score_to_the_second(timeframe: str, limit_s: int) -> None:
    """Bars end on whole minutes; the package's own score_records is asked by the second in tests/scoring."""
    pipeline = reference.Pipeline(INSTRUMENTS, PARAMS, {THEIRS.model_id: THEIRS})
    for event in series():
        pipeline.feed(event)
    newest = next(w for w in reversed(pipeline.windows) if w["timeframe"] == timeframe)
    for late_s in (0, 1):
        m1 = {timeframe.lower(): newest, "available_at": newest["available_at"] + limit_s + late_s}
        assert (pipeline._counting(m1, timeframe) is None) == (late_s == 1)
