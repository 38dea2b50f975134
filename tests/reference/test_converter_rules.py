"""The rules for events, bars and windows, each with what must come out written by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.reference.converter import MAX_JUMP_US, Converter, Output
from tests.reference.market import EPOCH, mid, to_points

INSTRUMENTS = {
    "EUR/USD": {"tick_size": Decimal("0.00001"), "price_kind": "quote"},
    "ESZ6": {"tick_size": Decimal("0.25"), "price_kind": "trade"},
}
NOTHING = dict.fromkeys(
    ("bid", "ask", "price", "open", "high", "low", "close", "volume", "duration_s", "sequence", "model_id")
)
TEXTS = ("instrument", "source", "model_id")
DAY_US = 86_400_000_000
MONDAY_US = 19_786 * DAY_US
"""2024-03-04 00:00 UTC."""
MODEL_A, MODEL_B = "a" * 64, "b" * 64


def at(clock: str) -> int:
    """µs of a clock time, HH:MM[:SS[.ffffff]], on the Monday."""
    hours, minutes, seconds = (*clock.split(":"), "0")[:3]
    return MONDAY_US + int((int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)) * 1_000_000)


def event(kind: str, time: int | str, **fields: Any) -> dict[str, Any]:
    time_us = at(time) if isinstance(time, str) else time
    base = {**NOTHING, "instrument": "EUR/USD", "kind": kind, "event_time": time_us, "source": "s"}
    return base | {k: Decimal(v) if isinstance(v, str) and k not in TEXTS else v for k, v in fields.items()}


def quote(time: int | str, points: int = 110_000, spread: int = 0, **fields: Any) -> dict[str, Any]:
    """A quote whose bid is so many points of EUR/USD."""
    bid, ask = (Decimal(p).scaleb(-5) for p in (points, points + spread))
    return event("QUOTE", time, **{"bid": bid, "ask": ask, **fields})


def candle(time: int | str, prices: tuple[int, int, int, int] = (5, 9, 1, 7), **fields: Any) -> dict[str, Any]:
    """A candle of open, high, low, close in points of EUR/USD."""
    decimals = [Decimal(p).scaleb(-5) for p in prices]
    named = dict(zip(("open", "high", "low", "close"), decimals, strict=True))
    return event("BAR", time, **{**named, "duration_s": 60, **fields})


def heartbeat(time: int | str, **fields: Any) -> dict[str, Any]:
    return event("HEARTBEAT", time, **fields)


def model(model_id: str, time: int | str = "00:00") -> dict[str, Any]:
    return event("MODEL", time, model_id=model_id)


def feed(events: list[dict[str, Any]], **parameters: Any) -> list[Output]:
    converter = Converter(INSTRUMENTS, **parameters)
    return [output for e in events for output in converter.feed(e)]


def clock(time_s: int) -> str:
    minutes = (time_s - MONDAY_US // 1_000_000) // 60
    return f"{minutes // 60:02}:{minutes % 60:02}"


def bars(outputs: list[Output]) -> list[tuple[Any, ...]]:
    """(timeframe, open time, open, high, low, close) in order of emission."""
    names = ("open", "high", "low", "close")
    return [(b["timeframe"], clock(b["open_time"]), *(b[n] for n in names)) for kind, b, *_ in outputs if kind == "bar"]


def order(outputs: list[Output]) -> list[str]:
    return [f"{timeframe} {time}" for timeframe, time, *_ in bars(outputs)]


def m1(outputs: list[Output], name: str) -> list[Any]:
    return [b[name] for kind, b, *_ in outputs if kind == "bar" and b["timeframe"] == "M1"]


def others(outputs: list[Output]) -> list[tuple[Any, ...]]:
    """(kind, event time, reason if there is one) of what is no bar and no window."""
    return [(kind, e["event_time"], *reason) for kind, e, *reason in outputs if kind not in ("bar", "window")]


def test_clock_of_these_tests_is_the_fourth_of_march() -> None:
    assert EPOCH.fromtimestamp(MONDAY_US / 1e6, EPOCH.tzinfo).isoformat() == "2024-03-04T00:00:00+00:00"


# prices


@pytest.mark.parametrize(
    ("price", "points"),
    [
        ("1.10000", 110_000),
        ("1.100004999", 110_000),
        ("1.100005", 110_001),
        ("1.100005001", 110_001),
        ("1.100014999", 110_001),
        ("0.000004999", 0),
        ("0.000005", 1),
    ],
)
def test_price_off_the_grid_rounds_half_up(price: str, points: int) -> None:
    assert to_points(Decimal(price), Decimal("0.00001")) == points


@pytest.mark.parametrize(("price", "points"), [("4500.124", 18_000), ("4500.125", 18_001), ("4500.375", 18_002)])
def test_price_rounds_half_up_on_a_grid_of_quarters(price: str, points: int) -> None:
    assert to_points(Decimal(price), Decimal("0.25")) == points


@pytest.mark.parametrize(("bid", "ask", "of_both"), [(10, 10, 10), (10, 11, 11), (10, 12, 11), (10, 13, 12)])
def test_mid_of_an_odd_spread_is_the_upper_point(bid: int, ask: int, of_both: int) -> None:
    assert mid(bid, ask) == of_both


def test_bid_and_ask_round_before_the_mid() -> None:
    # 110,001 and 110,002 points, whose mid rounds up; the mid of the exact prices would be 110,001.
    outputs = feed([quote("12:03", bid="1.100005", ask="1.100015"), heartbeat("12:04")])
    assert bars(outputs) == [("M1", "12:03", 110_002, 110_002, 110_002, 110_002)]


# bars


def test_bars_at_12_03_and_12_09_give_both_m5() -> None:
    outputs = feed([candle("12:03", (5, 9, 1, 7)), candle("12:09", (7, 8, 3, 4)), heartbeat("12:10")])
    assert bars(outputs) == [
        ("M1", "12:03", 5, 9, 1, 7),
        ("M5", "12:00", 5, 9, 1, 7),
        ("M5", "12:05", 7, 8, 3, 4),
        ("M1", "12:09", 7, 8, 3, 4),
    ]


def test_a_candle_that_ends_its_m5_closes_it_with_itself_inside() -> None:
    outputs = feed([candle("12:08", (5, 5, 5, 5)), candle("12:09", (6, 9, 2, 3))])
    assert bars(outputs) == [
        ("M1", "12:08", 5, 5, 5, 5),
        ("M5", "12:05", 5, 9, 2, 3),
        ("M1", "12:09", 6, 9, 2, 3),
    ]


def test_bars_that_end_together_come_longest_first() -> None:
    assert order(feed([candle("12:14")])) == ["M15 12:00", "M5 12:10", "M1 12:14"]


def test_after_a_silence_bars_come_in_the_order_of_their_ends() -> None:
    outputs = feed([quote("12:03:30"), quote("12:40")])
    assert order(outputs) == ["M1 12:03", "M5 12:00", "M15 12:00"]


def test_a_minute_without_events_is_no_bar_and_takes_no_index() -> None:
    outputs = feed([candle("12:00"), candle("12:02")])
    assert order(outputs) == ["M1 12:00", "M1 12:02"]
    assert m1(outputs, "index") == [0, 1]


def test_an_event_on_the_boundary_belongs_to_the_next_bar() -> None:
    outputs = feed([quote("12:00", 5), quote("12:00:59.999999", 6), quote("12:01", 7), heartbeat("12:02")])
    assert bars(outputs) == [("M1", "12:00", 5, 6, 5, 6), ("M1", "12:01", 7, 7, 7, 7)]


def test_bars_still_open_at_the_end_are_not_emitted() -> None:
    assert feed([quote("12:00"), quote("12:00:59.999999")]) == []


def test_a_bar_closes_when_the_watermark_reaches_its_end_not_before() -> None:
    converter = Converter(INSTRUMENTS)
    assert converter.feed(quote("12:00")) == []
    assert converter.feed(heartbeat("12:00:59.999999")) == []
    assert order(converter.feed(heartbeat("12:01"))) == ["M1 12:00"]


def test_close_is_the_last_in_the_log_whatever_its_time() -> None:
    outputs = feed([quote("12:00:40", 5), quote("12:00:10", 8), heartbeat("12:01")])
    assert bars(outputs) == [("M1", "12:00", 5, 8, 5, 8)]


def test_volume_counts_a_tick_without_one_as_one_and_a_candle_as_none() -> None:
    ticks = [quote("12:00"), quote("12:00:01", volume="0.5"), quote("12:00:02", volume="0")]
    outputs = feed([*ticks, candle("12:01"), candle("12:02", volume="7")])
    assert m1(outputs, "volume") == [Decimal("1.5"), 0, 7]


def test_longer_bars_add_volumes_and_take_the_spread_of_their_last_minute() -> None:
    outputs = feed([quote("12:00", spread=3, volume="2"), quote("12:04", spread=5), heartbeat("12:05")])
    [m5] = [b for _, b in outputs if b["timeframe"] == "M5"]
    assert (m5["volume"], m5["spread"]) == (3, 5)


def test_instruments_do_not_share_a_watermark() -> None:
    other = event("TRADE", "18:00", instrument="ESZ6", price="4500")
    assert order(feed([quote("12:00"), other, quote("12:00:30"), heartbeat("12:01")])) == ["M1 12:00"]


# candles


def test_a_candle_replaces_what_quotes_built_of_its_minute_and_closes_it() -> None:
    outputs = feed([quote("12:03:10", 50, spread=4), candle("12:03", (5, 9, 1, 7), volume="11")])
    assert bars(outputs) == [("M1", "12:03", 5, 9, 1, 7)]
    assert (m1(outputs, "volume"), m1(outputs, "spread")) == ([11], [None])


def test_a_candle_closes_its_minute_and_what_follows_in_it_is_late() -> None:
    outputs = feed([candle("12:03"), quote("12:03:59"), candle("12:03")])
    assert order(outputs) == ["M1 12:03"]
    assert others(outputs) == [("late", at("12:03:59")), ("late", at("12:03"))]


def test_a_candle_for_a_minute_that_quotes_have_left_is_late() -> None:
    outputs = feed([quote("12:03:10", 5), quote("12:04", 6), candle("12:03")])
    assert bars(outputs) == [("M1", "12:03", 5, 5, 5, 5)]
    assert others(outputs) == [("late", at("12:03"))]


def test_a_candle_beyond_the_open_minute_closes_both_in_order() -> None:
    outputs = feed([quote("12:03:10", 5), candle("12:05", (7, 7, 7, 7))])
    assert order(outputs) == ["M1 12:03", "M5 12:00", "M1 12:05"]
    assert bars(outputs)[1] == ("M5", "12:00", 5, 5, 5, 5)


def test_a_candle_with_bid_and_ask_tells_a_spread() -> None:
    told = candle("12:00", bid="0.00006", ask="0.00009")
    assert m1(feed([told, candle("12:01", bid="0.00006")]), "spread") == [3, None]


# which events make the price


def test_a_trade_where_quotes_make_the_price_moves_the_watermark_only() -> None:
    trade = event("TRADE", "12:01", price="1.5", volume="9")
    outputs = feed([quote("12:00", 5), trade, heartbeat("12:02")])
    assert bars(outputs) == [("M1", "12:00", 5, 5, 5, 5)]
    assert m1(outputs, "volume") == [1]


def test_a_quote_where_trades_make_the_price_sets_the_spread_of_an_open_bar_only() -> None:
    def es(kind: str, time: str, **prices: str) -> dict[str, Any]:
        return event(kind, time, instrument="ESZ6", **prices)

    outputs = feed(
        [
            es("QUOTE", "12:00:01", bid="4500", ask="4501"),  # no bar yet
            es("TRADE", "12:00:02", price="4500"),
            es("QUOTE", "12:01:01", bid="4500", ask="4501"),  # closes 12:00, opens nothing
            es("TRADE", "12:01:02", price="4500.25"),
            es("QUOTE", "12:01:03", bid="4500", ask="4500.5", volume="8"),
            es("HEARTBEAT", "12:02"),
        ]
    )
    assert bars(outputs) == [
        ("M1", "12:00", 18_000, 18_000, 18_000, 18_000),
        ("M1", "12:01", 18_001, 18_001, 18_001, 18_001),
    ]
    assert (m1(outputs, "spread"), m1(outputs, "volume")) == ([None, 2], [1, 1])


# late events and heartbeats


def test_an_event_of_a_closed_minute_is_late_and_changes_nothing() -> None:
    outputs = feed([quote("12:00", 5), quote("12:01:30", 6), quote("12:00:59.999999", 99), heartbeat("12:02")])
    assert bars(outputs) == [("M1", "12:00", 5, 5, 5, 5), ("M1", "12:01", 6, 6, 6, 6)]
    assert others(outputs) == [("late", at("12:00:59.999999"))]


def test_out_of_order_within_the_open_minute_is_not_late() -> None:
    outputs = feed([quote("12:01:30", 6), quote("12:01", 4), heartbeat("12:02")])
    assert bars(outputs) == [("M1", "12:01", 6, 6, 4, 4)]


def test_a_heartbeat_not_newer_than_the_watermark_is_ignored() -> None:
    assert feed([quote("12:01:30"), heartbeat("12:01:30"), heartbeat("11:00")]) == []


def test_an_ignored_heartbeat_leaves_the_sequence_alone() -> None:
    events = [quote("12:01:30"), heartbeat("12:01:30", sequence=9), quote("12:01:30", sequence=9)]
    assert others(feed(events)) == []


# duplicates


def test_a_duplicate_is_neither_newer_in_sequence_nor_in_time() -> None:
    outputs = feed([quote("12:00:10", sequence=5), quote("12:00:10", sequence=5), quote("12:00:09", sequence=4)])
    assert others(outputs) == [("duplicate", at("12:00:10")), ("duplicate", at("12:00:09"))]


@pytest.mark.parametrize(
    "again",
    [
        quote("12:00:10"),
        quote("12:00:10", sequence=6),
        quote("12:00:10.000001", sequence=1),
        quote("12:00:10", sequence=5, source="t"),
    ],
    ids=["no sequence", "higher sequence", "source restarted", "other source"],
)
def test_what_is_no_duplicate(again: dict[str, Any]) -> None:
    outputs = feed([quote("12:00:10", sequence=5), again, heartbeat("12:01")])
    assert (others(outputs), m1(outputs, "volume")) == ([], [2])


def test_after_a_restart_repeats_are_measured_by_the_new_sequence_and_the_greatest_time() -> None:
    outputs = feed(
        [
            quote("12:00:10", sequence=5),
            quote("12:00:20", sequence=1),
            quote("12:00:15", sequence=2),  # above the last sequence: not a duplicate, the greatest time stays :20
            quote("12:00:18", sequence=2),
        ]
    )
    assert others(outputs) == [("duplicate", at("12:00:18"))]


def test_a_late_event_does_not_take_its_sequence_with_it() -> None:
    outputs = feed([quote("12:01", sequence=1), quote("12:00", sequence=7), quote("12:01", sequence=6)])
    assert others(outputs) == [("late", at("12:00"))]


# jumps

LIMIT = at("12:00") + MAX_JUMP_US


def test_exactly_the_limit_ahead_is_no_jump() -> None:
    assert order(feed([quote("12:00"), quote(LIMIT)])) == ["M1 12:00", "M5 12:00", "M15 12:00"]


def test_the_first_event_of_an_instrument_is_never_a_jump() -> None:
    assert feed([quote("12:00")]) == []


def test_a_jump_is_held_and_refused_by_an_event_that_did_not_jump() -> None:
    outputs = feed([quote("12:00", 5), quote(LIMIT + 1, 99), quote("12:00:30", 6), heartbeat("12:01")])
    assert others(outputs) == [("dead", LIMIT + 1, "JUMP")]
    assert bars(outputs) == [("M1", "12:00", 5, 6, 5, 6)]


def test_a_jump_is_confirmed_by_another_and_both_are_processed() -> None:
    converter = Converter(INSTRUMENTS)
    assert converter.feed(quote("12:00")) == []
    assert converter.feed(quote(LIMIT + 60_000_000, 5)) == []
    assert order(converter.feed(quote(LIMIT + 60_000_001, 6))) == ["M1 12:00", "M5 12:00", "M15 12:00"]
    [first, *_] = converter.feed(heartbeat(LIMIT + 120_000_000))
    assert (first[1]["open"], first[1]["close"], first[1]["volume"]) == (5, 6, 2)


def test_the_event_that_confirms_may_be_late_itself() -> None:
    outputs = feed([quote("12:00"), quote(LIMIT + 120_000_000), quote(LIMIT + 1)])
    assert others(outputs) == [("late", LIMIT + 1)]


def test_a_repeat_of_the_held_event_confirms_it() -> None:
    held = quote(LIMIT + 60_000_000, sequence=3)
    outputs = feed([quote("12:00", sequence=2), held, held])
    assert (others(outputs), order(outputs)) == ([], ["M1 12:00", "M5 12:00", "M15 12:00"])


@pytest.mark.parametrize(
    ("between", "told"),
    [
        (quote("12:00", 0), [("dead", at("12:00"), "NOT_POSITIVE")]),
        (quote("12:00", sequence=1), [("duplicate", at("12:00"))]),
        (model(MODEL_A), []),
        (event("TRADE", "12:00", instrument="ESZ6", price="4500"), []),
    ],
    ids=["dead letter", "duplicate", "model", "other instrument"],
)
def test_what_neither_confirms_nor_refuses(between: dict[str, Any], told: list[Any]) -> None:
    jumped = LIMIT + 60_000_000
    outputs = feed([quote("12:00", sequence=1), quote(jumped), between, quote(jumped)])
    assert (others(outputs), order(outputs)) == (told, ["M1 12:00", "M5 12:00", "M15 12:00"])


@pytest.mark.parametrize(
    ("next_event", "told"),
    [(heartbeat("12:00"), []), (quote("11:00"), [("late", at("11:00"))])],
    ids=["ignored heartbeat", "late event"],
)
def test_what_refuses_without_being_used_itself(next_event: dict[str, Any], told: list[Any]) -> None:
    outputs = feed([quote("12:00"), quote(LIMIT + 1), next_event])
    assert others(outputs) == [("dead", LIMIT + 1, "JUMP"), *told]


def test_a_held_event_left_at_the_end_says_nothing() -> None:
    assert feed([quote("12:00"), quote(LIMIT + 1)]) == []


# dead letters


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (quote("12:01", instrument="XAU/USD"), "UNKNOWN_INSTRUMENT"),
        (event("UNKNOWN", "12:01"), "UNKNOWN_KIND"),
        (quote(-1), "BAD_TIME"),
        (quote(7_258_118_400_000_000), "BAD_TIME"),
        (quote("12:01", ask=None), "MISSING_FIELD"),
        (event("TRADE", "12:01"), "MISSING_FIELD"),
        (candle("12:01", low=None), "MISSING_FIELD"),
        (candle("12:01", duration_s=None), "MISSING_FIELD"),
        (event("MODEL", "12:01"), "MISSING_FIELD"),
        (quote("12:01", bid="0"), "NOT_POSITIVE"),
        (quote("12:01", bid="0.000004999"), "NOT_POSITIVE"),
        (event("TRADE", "12:01", price="-1"), "NOT_POSITIVE"),
        (quote("12:01", ask="21474.83648"), "PRICE_RANGE"),
        (quote("12:01", bid="1.10002", ask="1.10001"), "CROSSED"),
        (candle("12:01", bid="0.00002", ask="0.00001"), "CROSSED"),
        (candle("12:01", duration_s=300), "BAD_DURATION"),
        (candle("12:01:30"), "UNALIGNED"),
        (candle("12:01", (5, 4, 6, 5)), "BAD_CANDLE"),
        (candle("12:01", (10, 9, 1, 7)), "BAD_CANDLE"),
        (candle("12:01", (5, 9, 2, 1)), "BAD_CANDLE"),
        (quote("12:01", volume="-0.000000001"), "BAD_VOLUME"),
        (candle("12:01", volume="-1"), "BAD_VOLUME"),
        (model("A" * 64), "BAD_MODEL_ID"),
        (model("a" * 63), "BAD_MODEL_ID"),
        (model("a" * 64 + "\n"), "BAD_MODEL_ID"),
    ],
)
def test_a_dead_letter_has_its_reason_and_changes_nothing(bad: dict[str, Any], reason: str) -> None:
    outputs = feed([quote("12:00", 5), bad, quote("12:00:30", 6), heartbeat("12:01")])
    assert others(outputs) == [("dead", bad["event_time"], reason)]
    assert bars(outputs) == [("M1", "12:00", 5, 6, 5, 6)]


@pytest.mark.parametrize(
    "good",
    [
        quote("12:00", bid="1.100009", ask="1.100006"),
        quote("12:00", ask="21474.836474999"),
        candle("12:00", open="0.000094999"),
        heartbeat("12:00", volume="-1"),
        candle("12:00", bid="-1"),
        event("TRADE", "12:00", price="1", bid="2", ask="1"),
    ],
    ids=["crossed below a point", "just in range", "sane once rounded", "unused volume", "bid alone", "unused quote"],
)
def test_what_is_no_dead_letter(good: dict[str, Any]) -> None:
    assert others(feed([good])) == []


# windows, with three bars of history and two forward


def windows(outputs: list[Output], timeframe: str) -> list[dict[str, Any]]:
    return [w for kind, w, *_ in outputs if kind == "window" and w["timeframe"] == timeframe]


def candles(closes: dict[str, int]) -> list[dict[str, Any]]:
    return [candle(time, (close, close, close, close)) for time, close in closes.items()]


SIX = {"12:00": 50, "12:01": 52, "12:02": 52, "12:04": 51, "12:05": 50, "12:06": 53}


def test_a_window_holds_bits_of_all_its_bars_and_prices_from_the_anchor_on() -> None:
    first, second = windows(feed(candles(SIX), history=3, forward=2), "M1")
    assert (clock(first["anchor_time"]), clock(first["start_time"])) == ("12:02", "12:00")
    assert clock(first["available_at"]) == "12:06"
    assert (first["bits"], first["prices"]) == ([0, 1, 1, 0, 0], [52, 51, 50])
    assert first["bar"]["index"] == 4
    assert (second["bits"], second["prices"]) == ([1, 1, 0, 0, 1], [51, 50, 53])


def test_a_move_within_the_deadband_keeps_the_last_bit() -> None:
    first, second = windows(feed(candles(SIX), history=3, forward=2, deadband=1), "M1")
    assert (first["bits"], second["bits"]) == ([0, 1, 1, 1, 1], [1, 1, 1, 1, 1])


def test_an_m1_that_ends_with_longer_bars_sees_their_windows() -> None:
    events = candles({"12:00": 5, "12:05": 6, "12:10": 7, "12:14": 8})
    last = windows(feed(events, history=1, forward=1), "M1")[-1]
    assert clock(last["m5"]["available_at"]) == "12:15"
    assert last["m15"] is None  # its second bar is yet to come


def test_an_m1_closed_after_a_silence_sees_no_longer_window_that_ended_later() -> None:
    events = [*candles({"11:50": 5, "11:55": 5, "12:00": 6}), quote("12:03:30", 7), quote("13:00", 8)]
    outputs = feed(events, history=1, forward=1)
    [m1_window] = [w for w in windows(outputs, "M1") if clock(w["bar"]["open_time"]) == "12:03"]
    assert clock(m1_window["m5"]["available_at"]) == "12:00"
    assert m1_window["m15"] is None
    assert [clock(w["available_at"]) for w in windows(outputs, "M5")] == ["12:00", "12:05"]
    assert [clock(w["available_at"]) for w in windows(outputs, "M15")] == ["12:15"]


# the model in force


def test_a_window_has_the_model_that_was_in_force_before_the_event_that_closed_its_bar() -> None:
    closes_1201 = [model(MODEL_A, "18:00"), quote("12:02", 7)]
    closes_1202 = [model(MODEL_B, "00:00"), quote("12:03", 8)]
    events = [*candles({"12:00": 5}), quote("12:01", 6), *closes_1201, *closes_1202]
    found = windows(feed(events, history=1, forward=1), "M1")
    assert [w["model_id"] for w in found] == [MODEL_A, MODEL_B]


def test_windows_without_a_model_have_none() -> None:
    assert [w["model_id"] for w in windows(feed(candles(SIX), history=3, forward=2), "M1")] == [None, None]


def test_a_longer_window_keeps_the_model_of_its_own_last_bar() -> None:
    events = [model(MODEL_A), *candles({"12:00": 5, "12:09": 6}), model(MODEL_B), *candles({"12:10": 7})]
    last = windows(feed(events, history=1, forward=1), "M1")[-1]
    assert (last["model_id"], last["m5"]["model_id"]) == (MODEL_B, MODEL_A)


def test_a_held_event_is_processed_with_the_model_of_when_it_was_read() -> None:
    jumped = LIMIT + 60_000_000
    events = [candle("11:59"), quote("12:00"), model(MODEL_A), quote(jumped), model(MODEL_B), quote(jumped)]
    outputs = feed([*events, heartbeat(jumped + 120_000_000)], history=1, forward=1)
    assert [w["model_id"] for w in windows(outputs, "M1")] == [MODEL_A, MODEL_B]
