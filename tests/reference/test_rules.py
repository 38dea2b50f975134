"""The rules for events, bars and windows, case by case, with values worked out by hand.

Each is asked of the reference, of the package, and of the package reading Avro records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from sep_stream.convert import ConvertParameters
from sep_stream.errors import InputError
from tests.convert.described import DECLARED, Described, by_package, by_reference, by_wire
from tests.market.schema_values import SCHEMAS
from tests.reference.files import NOTHING, time_us
from tests.streams import INSTRUMENTS

Event = dict[str, Any]
Convert = Callable[..., Described]
WEEK = ConvertParameters(history=12, forward=1)
MODELS = ("0" * 64, "1" * 64)


@pytest.fixture(params=["reference", "package", "records"])
def convert(request: pytest.FixtureRequest) -> Convert:
    def by(events: Sequence[Event], parameters: ConvertParameters = WEEK) -> Described:
        if request.param == "reference":
            return by_reference(events, INSTRUMENTS, parameters)
        return (by_package if request.param == "package" else by_wire)(events, DECLARED, parameters)

    return by


ONLY_RECORDS_CAN = pytest.mark.parametrize("convert", ["reference", "records"], indirect=True)
"""For events that Python's own records refuse to be made of."""


def event(kind: str, time: str, symbol: str = "EUR/USD", **values: Any) -> Event:
    """time: "12:03:10" on 2 January 2024, or with another day of that month before it: "09T12:00"."""
    day, _, clock = time.rpartition("T")
    return {
        **NOTHING,
        "instrument": symbol,
        "kind": kind,
        "event_time": time_us(f"2024-01-{day or '02'}T{clock}Z"),
        **values,
    }


def quote(time: str, bid: str = "1.10000", ask: str | None = None, **values: Any) -> Event:
    return event("QUOTE", time, bid=Decimal(bid), ask=Decimal(ask or bid), **values)


def trade(time: str, price: str, **values: Any) -> Event:
    return event("TRADE", time, **{"symbol": "CLZ6", "price": Decimal(price), **values})


def candle(time: str, open_: str, high: str, low: str, close: str, **values: Any) -> Event:
    prices = {"open": Decimal(open_), "high": Decimal(high), "low": Decimal(low), "close": Decimal(close)}
    return event("BAR", time, **{"duration_s": 60, **prices, **values})


def flat(time: str, price: str = "1.10000", **values: Any) -> Event:
    return candle(time, price, price, price, price, **values)


def heartbeat(time: str, **values: Any) -> Event:
    return event("HEARTBEAT", time, **values)


def model(time: str, model_id: str) -> Event:
    return event("MODEL", time, model_id=model_id)


def names(described: Described) -> list[str]:
    """The bars, as "M5 12:00"."""
    return [f"{bar['timeframe']} {datetime.fromtimestamp(bar['open_time'], UTC):%H:%M}" for _, bar in described.bars]


def minutes(described: Described, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(bar[name] for name in fields) for _, bar in described.bars if bar["timeframe"] == "M1"]


# closing


def test_after_a_silence_each_bar_closes_at_its_own_end(convert: Convert) -> None:
    out = convert([quote("12:03:30"), quote("12:09:10")])
    assert names(out) == ["M1 12:03", "M5 12:00"]
    out = convert([quote("12:03:30"), quote("12:09:10"), quote("12:16:00")])
    assert names(out)[2:] == ["M5 12:05", "M1 12:09", "M15 12:00"]


def test_bars_that_end_together_close_longest_first(convert: Convert) -> None:
    out = convert([quote("12:14:30"), quote("12:15:00")])
    assert names(out) == ["M15 12:00", "M5 12:10", "M1 12:14"]


def test_an_event_on_the_boundary_belongs_to_the_next_bar(convert: Convert) -> None:
    out = convert([quote("12:00:59.999999", "1.10000"), quote("12:01:00", "1.20000"), quote("12:02:00")])
    assert minutes(out, "index", "open", "close", "volume") == [(0, 110000, 110000, 1), (1, 120000, 120000, 1)]


def test_a_bar_has_the_first_highest_lowest_and_last_price_of_the_log_not_of_the_clock(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:30", "1.10003"),
            quote("12:00:20", "1.10009"),
            quote("12:00:40", "1.10001"),
            quote("12:00:10", "1.10005"),
            quote("12:01:00"),
        ]
    )
    assert minutes(out, "open", "high", "low", "close") == [(110003, 110009, 110001, 110005)]


def test_longer_bars_add_up_the_minutes_in_them(convert: Convert) -> None:
    out = convert(
        [
            candle("12:01:00", "1.10", "1.13", "1.09", "1.12", volume=Decimal("1.5")),
            candle("12:04:00", "1.12", "1.12", "1.08", "1.11", volume=Decimal("2.25")),
        ]
    )
    assert names(out) == ["M1 12:01", "M5 12:00", "M1 12:04"]
    _, five = out.bars[1]
    assert [five[name] for name in ("open", "high", "low", "close", "volume")] == [
        110000,
        113000,
        108000,
        111000,
        Decimal("3.75"),
    ]


def test_a_minute_without_events_is_no_bar_and_takes_no_index(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("12:02:00"), quote("12:03:00")])
    assert minutes(out, "index") == [(0,), (1,)]
    assert names(out) == ["M1 12:00", "M1 12:02"]


def test_a_heartbeat_closes_bars_and_an_old_one_does_nothing(convert: Convert) -> None:
    out = convert([quote("12:00:30"), heartbeat("12:00:10"), heartbeat("12:01:00"), heartbeat("11:00:00")])
    assert [position for position, _ in out.bars] == [2]
    assert (out.late, out.dead, out.duplicates) == ([], [], [])


def test_a_heartbeat_as_old_as_the_watermark_is_ignored_and_not_counted(convert: Convert) -> None:
    out = convert([quote("12:00:30"), heartbeat("12:00:30"), heartbeat("12:00:29.999999"), quote("12:00:30")])
    assert (out.bars, out.late, out.dead, out.duplicates) == ([], [], [], [])
    out = convert([flat("12:00:00"), heartbeat("12:01:00"), heartbeat("12:00:59"), heartbeat("12:01:00.000001")])
    assert (names(out), out.late, out.dead) == (["M1 12:00"], [], [])


def test_events_of_equal_times_count_in_the_order_of_the_log(convert: Convert) -> None:
    out = convert([quote("12:00:30", price) for price in ("1.10005", "1.10009", "1.10001", "1.10003")])
    assert (out.late, out.duplicates) == ([], [])
    out = convert([*(quote("12:00:30", price) for price in ("1.10005", "1.10009", "1.10003")), heartbeat("12:01:00")])
    assert minutes(out, "open", "high", "low", "close", "volume") == [(110005, 110009, 110003, 110003, 3)]


def test_bars_still_open_at_the_end_are_never_emitted(convert: Convert) -> None:
    assert convert([quote("12:00:00"), quote("12:00:59.999999")]).bars == []
    assert names(convert([flat("12:00:00"), heartbeat("12:01:00")])) == ["M1 12:00"]


def test_a_longer_bar_with_one_minute_in_it_is_a_bar_the_first_of_a_stream_too(convert: Convert) -> None:
    out = convert([flat("12:14:00", "1.10000"), flat("12:29:00", "1.20000")])
    assert names(out) == ["M15 12:00", "M5 12:10", "M1 12:14", "M15 12:15", "M5 12:25", "M1 12:29"]
    assert [bar["index"] for _, bar in out.bars] == [0, 0, 0, 1, 1, 1]


# candles


def test_a_candle_replaces_what_quotes_built_of_its_minute_and_closes_it(convert: Convert) -> None:
    out = convert(
        [quote("12:00:10", "1.20000"), quote("12:00:50", "1.30000"), flat("12:00:00", "1.10000", volume=Decimal(7))]
    )
    assert out.bars[0][0] == 2
    assert minutes(out, "open", "high", "low", "close", "volume", "spread") == [(110000,) * 4 + (Decimal(7), None)]


def test_a_candle_after_its_minute_has_closed_is_late(convert: Convert) -> None:
    out = convert([quote("12:00:10"), heartbeat("12:01:00"), flat("12:00:00"), flat("12:01:00"), flat("12:01:00")])
    assert out.late == [2, 4]


def test_a_candle_closes_the_older_minute_before_its_own(convert: Convert) -> None:
    out = convert([quote("12:03:30", "1.20000"), flat("12:04:00", "1.10000")])
    assert names(out) == ["M1 12:03", "M5 12:00", "M1 12:04"]
    assert [bar["close"] for _, bar in out.bars] == [120000, 110000, 110000]


def test_a_candle_before_the_watermark_has_passed_its_minute_replaces_it_however_late_in_it(convert: Convert) -> None:
    out = convert([quote("12:00:59.999999", "1.20000"), flat("12:00:00", "1.10000"), quote("12:00:59.999999")])
    assert minutes(out, "high", "volume") == [(110000, 0)]
    assert out.late == [2]


def test_a_candle_moves_the_watermark_to_its_end(convert: Convert) -> None:
    out = convert(
        [flat("12:00:00"), quote("12:00:59"), quote("12:01:00"), heartbeat("12:01:00"), heartbeat("12:02:00")]
    )
    assert out.late == [1]
    assert names(out) == ["M1 12:00", "M1 12:01"]


def test_a_minute_of_quotes_and_its_candle_make_the_longer_bars_of_the_candle_alone(convert: Convert) -> None:
    candles = [flat(f"12:{minute:02}:00", f"1.1000{minute}", volume=Decimal(minute)) for minute in range(5)]
    quotes = [quote(f"12:{minute:02}:10", "1.30000") for minute in range(5)]
    mixed = convert([event for pair in zip(quotes, candles, strict=True) for event in pair])
    assert [bar for _, bar in mixed.bars] == [bar for _, bar in convert(candles).bars]


# late


def test_an_event_of_a_closed_minute_is_late_and_changes_nothing(convert: Convert) -> None:
    out = convert(
        [
            quote("12:01:00", "1.10000", sequence=5),
            quote("12:00:59.999999", "1.90000", sequence=9),
            quote("12:01:01", "1.10001", sequence=6),
            quote("12:02:00"),
        ]
    )
    assert out.late == [1]
    assert out.duplicates == []
    assert minutes(out, "high", "volume") == [(110001, 2)]


def test_a_minute_that_the_watermark_has_not_left_takes_what_is_older(convert: Convert) -> None:
    out = convert([quote("12:00:59.999999"), quote("12:00:00"), quote("11:59:59.999999"), heartbeat("12:01:00")])
    assert out.late == [2]
    assert minutes(out, "volume") == [(2,)]


# jumps: more than seven days ahead of 12:00 on the 2nd


def test_a_jump_that_the_next_event_confirms_is_processed_first(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("10T12:00:10"), quote("10T12:01:00")])
    assert [position for position, _ in out.bars] == [2, 2, 2, 2]
    assert names(out) == ["M1 12:00", "M5 12:00", "M15 12:00", "M1 12:00"]
    assert out.dead == []


def test_a_jump_that_the_next_event_does_not_confirm_is_a_dead_letter(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("20T12:00:00", sequence=9), quote("12:00:30", sequence=1)])
    assert out.dead == [(1, "JUMP")]
    assert out.bars == []
    assert out.duplicates == []


def test_the_next_event_confirms_a_jump_if_it_is_as_far_ahead_of_the_same_watermark(convert: Convert) -> None:
    held = quote("20T12:00:00")
    assert convert([quote("12:00:00"), held, quote("09T12:00:00.000001")]).dead == []
    assert convert([quote("12:00:00"), held, quote("09T12:00:00")]).dead == [(1, "JUMP")]


def test_a_refused_jump_leaves_the_watermark_where_it_was(convert: Convert) -> None:
    out = convert([quote("12:00:10"), quote("20T12:00:00"), quote("12:00:20"), quote("20T12:00:00"), quote("12:00:30")])
    assert out.dead == [(1, "JUMP"), (3, "JUMP")]
    assert (out.bars, out.late) == ([], [])


@pytest.mark.parametrize("jump", [heartbeat("20T12:00:00"), flat("20T12:00:00")], ids=["heartbeat", "candle"])
def test_a_heartbeat_and_a_candle_are_held_like_any_event(convert: Convert, jump: Event) -> None:
    out = convert([quote("12:00:00"), jump, quote("12:00:30")])
    assert (out.dead, out.bars) == ([(1, "JUMP")], [])
    out = convert([quote("12:00:00"), jump, heartbeat("20T12:05:00")])
    assert out.dead == []
    assert names(out)[:3] == ["M1 12:00", "M5 12:00", "M15 12:00"]


def test_a_heartbeat_decides_on_a_jump_as_any_event_does(convert: Convert) -> None:
    held = quote("20T12:00:00")
    assert convert([quote("12:00:00"), held, heartbeat("12:00:00")]).dead == [(1, "JUMP")]
    assert convert([quote("12:00:00"), held, heartbeat("12:00:30")]).dead == [(1, "JUMP")]
    assert convert([quote("12:00:00"), held, heartbeat("20T12:00:00")]).dead == []


def test_a_jump_is_measured_from_the_end_of_a_candle(convert: Convert) -> None:
    assert names(convert([flat("12:00:00"), flat("09T12:01:00")]))[-1] == "M1 12:01"
    assert names(convert([flat("12:00:00"), flat("09T12:02:00")])) == ["M1 12:00"]
    within = ConvertParameters(history=12, forward=1, max_jump_s=60)
    out = convert([quote("12:00:00"), quote("12:01:00"), quote("12:02:00.000001"), quote("12:01:30")], within)
    assert out.dead == [(2, "JUMP")]


def test_a_jump_that_nothing_follows_waits(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("20T12:00:00"), trade("12:00:00", "70"), model("20T12:00:00", MODELS[0])])
    assert (out.bars, out.dead, out.late) == ([], [], [])


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_repeat_of_a_held_jump_neither_confirms_nor_refuses_it(convert: Convert, times: int) -> None:
    held = [quote("20T12:00:00", sequence=3)] * (1 + times)
    repeats = list(range(2, 2 + times))
    out = convert([quote("12:00:00", sequence=2), *held])
    assert (out.bars, out.dead, out.duplicates) == ([], [], repeats)
    out = convert([quote("12:00:00", sequence=2), *held, quote("12:00:30", sequence=4)])
    assert (out.bars, out.dead, out.late, out.duplicates) == ([], [(1, "JUMP")], [], repeats)
    out = convert([quote("12:00:00", sequence=2), *held, quote("20T12:01:00", sequence=4), *held])
    assert minutes(out, "volume") == [(1,), (1,)]
    assert (out.dead, len(out.duplicates)) == ([], 2 * times + 1)


def test_a_jump_is_a_duplicate_if_the_held_one_makes_it_one(convert: Convert) -> None:
    """An older sequence of the same source at an older time, as behind an event that was not held."""
    first, held = quote("12:00:00", sequence=2), quote("20T12:00:00", sequence=5)
    assert convert([first, held, quote("20T11:59:00", sequence=4)]).duplicates == [2]
    for different in (
        quote("20T11:59:00", sequence=6),
        quote("20T12:00:01", sequence=4),
        quote("20T12:00:00", sequence=5, source="other"),
        quote("20T12:00:00"),
    ):
        out = convert([first, held, different])
        assert (out.duplicates, out.dead, names(out)[0]) == ([], [], "M1 12:00")
    assert convert([first, quote("20T12:00:00"), held]).duplicates == []


def test_a_held_jump_makes_no_duplicate_of_what_refuses_it(convert: Convert) -> None:
    """Its sequence is not the source's last: it may be as wrong as its time."""
    out = convert([quote("12:00:00", sequence=2), quote("20T12:00:00", sequence=9), quote("12:00:01", sequence=3)])
    assert (out.dead, out.duplicates) == ([(1, "JUMP")], [])
    out = convert([quote("20T12:00:00", sequence=9), quote("12:00:01", sequence=3), quote("12:01:00", sequence=4)])
    assert (out.dead, out.duplicates, names(out)) == ([(0, "JUMP")], [], ["M1 12:00"])


def test_a_refused_jump_that_is_published_again_is_held_again(convert: Convert) -> None:
    """It changed nothing, so it is no duplicate; that is what lets it be requeued."""
    jump = quote("09T12:00:05", sequence=2)
    first, second = quote("12:00:00", sequence=1), quote("12:00:01", sequence=3)
    assert convert([first, jump, second, jump, second, heartbeat("12:00:02")]).dead == [(1, "JUMP"), (3, "JUMP")]
    out = convert([first, jump, second, jump, heartbeat("12:00:02"), quote("03T12:00:00", sequence=4), jump])
    assert out.dead == [(1, "JUMP"), (3, "JUMP")]
    assert names(out)[:4] == ["M1 12:00", "M5 12:00", "M15 12:00", "M1 12:00"]


def test_seven_days_ahead_is_no_jump_and_a_microsecond_more_is(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("09T12:00:00"), quote("09T12:00:00")])
    assert names(out) == ["M1 12:00", "M5 12:00", "M15 12:00"]
    assert out.bars[0][0] == 1
    out = convert([quote("12:00:00"), quote("09T12:00:00.000001"), quote("12:00:00")])
    assert out.dead == [(1, "JUMP")]


def test_what_confirms_a_jump_may_be_late_behind_it(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("20T12:00:00"), quote("15T12:00:00")])
    assert out.dead == []
    assert out.late == [2]
    assert out.bars[0][0] == 2


def test_dead_letters_duplicates_and_models_leave_a_jump_held(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:00", sequence=1),
            quote("20T12:00:00"),
            quote("20T12:00:00", "1.2", "1.1"),
            quote("12:00:00", sequence=1),
            model("21T12:00:00", MODELS[0]),
            quote("20T12:00:00"),
        ]
    )
    assert out.dead == [(2, "CROSSED")]
    assert out.duplicates == [3]
    assert out.bars[0][0] == 5


def test_an_old_heartbeat_and_a_late_event_refuse_a_jump(convert: Convert) -> None:
    for follower in (heartbeat("11:00:00"), quote("11:00:00")):
        assert (1, "JUMP") in convert([quote("12:00:00"), quote("20T12:00:00"), follower]).dead


def test_a_jump_closes_bars_under_the_model_in_force_when_it_was_read(convert: Convert) -> None:
    series = [flat(f"12:{minute:02}:00") for minute in range(12)]
    out = convert(
        [
            *series,
            model("12:00:00", MODELS[0]),
            quote("12:12:00"),
            quote("20T12:00:00"),
            model("12:00:00", MODELS[1]),
            quote("20T12:01:00"),
        ]
    )
    assert [window["model_id"] for _, window in out.windows] == list(MODELS)


# the first event of an instrument


def test_the_first_event_of_an_instrument_is_neither_jump_nor_late(convert: Convert) -> None:
    out = convert([quote("20T12:00:00"), trade("12:00:00", "70")])
    assert (out.late, out.dead) == ([], [])


FIRSTS = pytest.mark.parametrize(
    "first", [quote("20T12:00:00"), heartbeat("20T12:00:00"), flat("20T12:00:00")], ids=["quote", "heartbeat", "candle"]
)


@FIRSTS
def test_a_first_event_whose_time_the_next_one_refuses_changes_nothing(convert: Convert, first: Event) -> None:
    right = [quote("12:00:00"), quote("12:00:30"), quote("12:01:00")]
    out, expected = convert([first, *right]), convert(right)
    assert (out.dead, out.late, out.duplicates) == ([(0, "JUMP")], [], [])
    assert [bar for _, bar in out.bars] == [bar for _, bar in expected.bars]


@FIRSTS
def test_repeats_of_a_wrong_first_event_don_t_confirm_it(convert: Convert, first: Event) -> None:
    wrong = {**first, "sequence": 7}
    out = convert([wrong, wrong, wrong, quote("12:00:00", sequence=1), quote("12:01:00", sequence=2)])
    assert (out.dead, out.late, out.duplicates) == ([(0, "JUMP")], [], [1, 2])
    assert names(out) == ["M1 12:00"]


def test_several_wrong_times_before_the_first_right_one_are_each_refused(convert: Convert) -> None:
    out = convert(
        [quote("31T12:00:00"), quote("20T12:00:00"), quote("10T12:00:00"), quote("12:00:00"), flat("12:01:00")]
    )
    assert out.dead == [(0, "JUMP"), (1, "JUMP"), (2, "JUMP")]
    assert out.late == []
    assert names(out) == ["M1 12:00", "M1 12:01"]


def test_a_first_event_takes_effect_with_the_next_of_its_instrument(convert: Convert) -> None:
    first = flat("12:04:00")
    assert convert([first, trade("12:00:00", "70"), model("12:00:00", MODELS[0])]).bars == []
    for follower in (quote("12:04:00"), heartbeat("12:03:00"), quote("09T12:04:00"), quote("20T12:00:00")):
        out = convert([first, follower])
        assert [(position, bar["timeframe"]) for position, bar in out.bars[:2]] == [(1, "M5"), (1, "M1")]
        assert out.dead == []


def test_a_first_event_stands_if_it_is_seven_days_ahead_of_the_next_and_no_more(convert: Convert) -> None:
    assert convert([quote("09T12:00:00"), quote("12:00:00")]).late == [1]
    assert convert([quote("09T12:00:00.000001"), quote("12:00:00")]).dead == [(0, "JUMP")]
    assert convert([quote("09T12:01:00"), flat("12:00:00")]).late == [1]
    assert convert([quote("09T12:01:00.000001"), flat("12:00:00")]).dead == [(0, "JUMP")]


def test_a_jump_behind_the_first_event_is_held(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("20T12:00:00"), quote("12:00:30"), quote("12:01:00")])
    assert (out.dead, out.late, names(out)) == ([(1, "JUMP")], [], ["M1 12:00"])


def test_a_first_event_counts_its_sequence_once_it_takes_effect(convert: Convert) -> None:
    first = quote("12:00:00", sequence=5)
    out = convert([first, first, quote("12:00:00", sequence=6), first, quote("12:01:00", sequence=7)])
    assert out.duplicates == [1, 3]
    assert minutes(out, "volume") == [(2,)]


# duplicates


def test_a_sequence_seen_before_is_a_duplicate_unless_its_time_is_newer(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:10", sequence=5),
            quote("12:00:10", sequence=5),
            quote("12:00:10", sequence=4),
            quote("12:00:10", sequence=6),
            quote("12:00:11", sequence=1),
            quote("12:00:11", sequence=1),
            quote("12:00:05", sequence=2),
            quote("12:00:11", sequence=2),
        ]
    )
    assert out.duplicates == [1, 2, 5, 7]


def test_sequences_are_counted_by_instrument_and_source(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:10", sequence=5),
            quote("12:00:10", sequence=5, source="other"),
            trade("12:00:10", "70", sequence=5),
            quote("12:00:10"),
            quote("12:00:10"),
        ]
    )
    assert out.duplicates == []


def test_only_an_accepted_event_takes_its_sequence_along(convert: Convert) -> None:
    """Neither a late event nor a heartbeat that is ignored."""
    out = convert(
        [
            quote("12:01:30", sequence=1),
            quote("12:00:00", sequence=7),
            heartbeat("12:01:30", sequence=9),
            quote("12:01:30", sequence=6),
        ]
    )
    assert (out.late, out.duplicates) == ([1], [])


def test_a_source_that_restarts_its_sequence_is_followed_from_there(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:10", sequence=1000),
            quote("12:00:11", sequence=1),
            quote("12:00:11", sequence=2),
            quote("12:00:11", sequence=2),
            quote("12:00:10.5", sequence=3),
            quote("12:00:10.5", sequence=1),
        ]
    )
    assert out.duplicates == [3, 5]


def test_of_two_reasons_the_first_in_the_order_of_the_rules_is_told(convert: Convert) -> None:
    """Dead letter, duplicate, jump, late."""
    first = [quote("12:01:00", sequence=5)]
    out = convert([*first, quote("12:00:00", "1.2", "1.1", sequence=5)])
    assert (out.dead, out.duplicates, out.late) == ([(1, "CROSSED")], [], [])
    out = convert([*first, quote("12:00:00", sequence=5)])
    assert (out.dead, out.duplicates, out.late) == ([], [1], [])
    out = convert([*first, heartbeat("12:00:00", sequence=5)])
    assert out.duplicates == [1]


def test_a_duplicate_changes_nothing(convert: Convert) -> None:
    out = convert(
        [
            quote("12:00:10", sequence=5),
            quote("12:00:10", "1.90000", sequence=4, volume=Decimal(9)),
            quote("12:00:10", sequence=5),
            heartbeat("12:01:00"),
        ]
    )
    assert out.duplicates == [1, 2]
    assert minutes(out, "high", "volume") == [(110000, 1)]


# prices, volume, spread


def test_prices_are_rounded_half_up_before_the_mid_which_is_rounded_up(convert: Convert) -> None:
    out = convert([quote("12:00:00", "1.100005", "1.100024999"), quote("12:01:00")])
    assert minutes(out, "close", "spread") == [(110002, 1)]
    out = convert([trade("12:00:00", "70.005"), trade("12:01:00", "70.004999999"), trade("12:02:00", "70")])
    assert minutes(out, "close") == [(7001,), (7000,)]


def test_bid_and_ask_are_each_rounded_before_the_mid(convert: Convert) -> None:
    """Their mean, 110001.0, would round to itself; 110000.5 and 110001.5 round to 110001 and 110002."""
    out = convert([quote("12:00:00", "1.100005", "1.100015"), heartbeat("12:01:00")])
    assert minutes(out, "close", "spread") == [(110002, 1)]
    out = convert([quote("12:00:00", "1.100004999", "1.100014999"), heartbeat("12:01:00")])
    assert minutes(out, "close", "spread") == [(110001, 1)]


@pytest.mark.parametrize(
    ("price", "points"),
    [("1.100004999", 110000), ("1.100005", 110001), ("1.100005001", 110001), ("0.000005", 1), ("0.000014999", 1)],
)
def test_a_price_off_the_grid_is_rounded_half_up_exactly(convert: Convert, price: str, points: int) -> None:
    assert minutes(convert([flat("12:00:00", price), heartbeat("12:01:00")]), "close") == [(points,)]


def test_a_volume_of_zero_is_not_a_missing_one(convert: Convert) -> None:
    out = convert([quote("12:00:00", volume=Decimal(0)), quote("12:00:01", volume=Decimal(0)), heartbeat("12:01:00")])
    assert minutes(out, "volume") == [(0,)]
    out = convert(
        [trade("12:00:00", "70"), trade("12:00:01", "70", volume=Decimal("0.25")), heartbeat("12:01:00", symbol="CLZ6")]
    )
    assert minutes(out, "volume") == [(Decimal("1.25"),)]


def test_volumes_add_up_past_what_one_event_can_hold(convert: Convert) -> None:
    most = Decimal("999999999.999999999")
    out = convert(
        [*(quote("12:00:00", volume=most) for _ in range(3)), flat("12:01:00", volume=most), quote("12:05:00")]
    )
    assert [bar["volume"] for _, bar in out.bars] == [3 * most, most, 4 * most]


def test_volume_is_the_sum_and_one_where_there_is_none(convert: Convert) -> None:
    out = convert([quote("12:00:00"), quote("12:00:01", volume=Decimal("0.5")), quote("12:01:00")])
    assert minutes(out, "volume") == [(Decimal("1.5"),)]
    assert minutes(convert([flat("12:00:00"), heartbeat("12:01:00")]), "volume") == [(Decimal(0),)]


def test_the_spread_is_that_of_the_last_quote_or_told_by_the_candle(convert: Convert) -> None:
    out = convert([quote("12:00:00", "1.1", "1.10007"), quote("12:00:01", "1.1", "1.10002"), heartbeat("12:01:00")])
    assert minutes(out, "spread") == [(2,)]
    told: dict[str, Any] = {"bid": Decimal("1.09999"), "ask": Decimal("1.10003")}
    assert minutes(convert([flat("12:00:00", **told), heartbeat("12:01:00")]), "spread") == [(4,)]
    assert minutes(convert([flat("12:00:00", bid=Decimal(1)), heartbeat("12:01:00")]), "spread") == [(None,)]
    out = convert([quote("12:03:00", "1.1", "1.10007"), flat("12:04:00")])
    assert [bar["spread"] for _, bar in out.bars] == [7, None, None]


def test_a_quote_of_what_trades_price_tells_time_and_the_spread_of_an_open_bar(convert: Convert) -> None:
    oil = {"symbol": "CLZ6"}
    out = convert(
        [
            quote("12:00:00", "70.00", "70.05", **oil),
            trade("12:00:10", "71.00"),
            quote("12:00:20", "70.00", "70.03", **oil),
            trade("12:01:10", "72.00"),
            quote("12:02:00", "70.00", "70.09", **oil),
        ]
    )
    assert minutes(out, "open", "low", "close", "volume", "spread") == [
        (7100, 7100, 7100, 1, 3),
        (7200, 7200, 7200, 1, None),
    ]


def test_a_trade_of_what_quotes_price_tells_only_time(convert: Convert) -> None:
    out = convert(
        [quote("12:00:00"), trade("12:00:30", "2", symbol="EUR/USD"), trade("12:01:00", "2", symbol="EUR/USD")]
    )
    assert minutes(out, "high", "volume", "spread") == [(110000, 1, 0)]
    assert out.bars[0][0] == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (event("UNKNOWN", "12:00:00"), "UNKNOWN_KIND"),
        ({**quote("12:00:00"), "event_time": -1}, "BAD_TIME"),
        ({**quote("12:00:00"), "event_time": 7_258_118_400_000_000}, "BAD_TIME"),
        ({**quote("12:00:00"), "ask": None}, "MISSING_FIELD"),
        (trade("12:00:00", "0.004999999"), "NOT_POSITIVE"),
        (trade("12:00:00", "0"), "NOT_POSITIVE"),
        (trade("12:00:00", "-70"), "NOT_POSITIVE"),
        (trade("12:00:00", "-0.004999999"), "NOT_POSITIVE"),
        (quote("12:00:00", "-1.1"), "NOT_POSITIVE"),
        (quote("12:00:00", "0", "1.1"), "NOT_POSITIVE"),
        (quote("12:00:00", "0.000004999", "1.1"), "NOT_POSITIVE"),
        (candle("12:00:00", "1.1", "1.1", "0", "1.1"), "NOT_POSITIVE"),
        (candle("12:00:00", "-1.1", "1.1", "1.1", "1.1"), "NOT_POSITIVE"),
        (trade("12:00:00", "21474836.48"), "PRICE_RANGE"),
        (quote("12:00:00", "1.10001", "1.10000"), "CROSSED"),
        (flat("12:00:00", bid=Decimal("1.2"), ask=Decimal("1.1")), "CROSSED"),
        *((flat("12:00:00", duration_s=seconds), "BAD_DURATION") for seconds in (-60, 0, 1, 59, 61, 300, 900, 3600)),
        (flat("12:00:30"), "UNALIGNED"),
        (flat("12:00:00.000001"), "UNALIGNED"),
        (flat("11:59:59.999999"), "UNALIGNED"),
        (candle("12:00:00", "1.1", "1.1", "1.2", "1.1"), "BAD_CANDLE"),
        (candle("12:00:00", "1.3", "1.2", "1.1", "1.2"), "BAD_CANDLE"),
        (candle("12:00:00", "1.2", "1.2", "1.1", "1.09"), "BAD_CANDLE"),
        (candle("12:00:00", "1.09", "1.2", "1.1", "1.2"), "BAD_CANDLE"),
        (candle("12:00:00", "1.2", "1.2", "1.1", "1.20001"), "BAD_CANDLE"),
        (quote("12:00:00", volume=Decimal("-0.000000001")), "BAD_VOLUME"),
        (flat("12:00:00", volume=Decimal(-1)), "BAD_VOLUME"),
        (model("12:00:00", "A" * 64), "BAD_MODEL_ID"),
        (model("12:00:00", "0" * 63), "BAD_MODEL_ID"),
        (event("MODEL", "12:00:00"), "MISSING_FIELD"),
        *(
            ({**flat("12:00:00"), name: None}, "MISSING_FIELD")
            for name in ("open", "high", "low", "close", "duration_s")
        ),
    ],
)
def test_an_event_that_breaks_a_rule_is_a_dead_letter_and_changes_nothing(
    convert: Convert, wrong: Event, reason: str
) -> None:
    out = convert([{**wrong, "sequence": 9}, {**flat("11:00:00"), "sequence": 1}, heartbeat("11:01:00")])
    assert out.dead == [(0, reason)]
    assert len(out.bars) == 1


@ONLY_RECORDS_CAN
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (event("QUOTE", "12:00:00", "XAU/USD", bid=Decimal(1), ask=Decimal(1)), "UNKNOWN_INSTRUMENT"),
        (event("QUOTE", "12:00:00", "EURUSD", bid=Decimal(1), ask=Decimal(1)), "UNKNOWN_INSTRUMENT"),
        (event("QUOTE", "12:00:00", "", bid=Decimal(1), ask=Decimal(1)), "UNKNOWN_INSTRUMENT"),
        (quote("12:00:00", "1000000000"), "DECIMAL_RANGE"),
        (quote("12:00:00", "1234567890.123456789"), "DECIMAL_RANGE"),
        (quote("12:00:00", "-1000000000"), "DECIMAL_RANGE"),
        (quote("12:00:00", volume=Decimal(10**9)), "DECIMAL_RANGE"),
        (heartbeat("12:00:00", price=Decimal(10**20)), "DECIMAL_RANGE"),
    ],
)
def test_an_event_that_only_a_record_can_be_is_a_dead_letter_and_changes_nothing(
    convert: Convert, wrong: Event, reason: str
) -> None:
    out = convert([{**wrong, "sequence": 9}, {**flat("11:00:00"), "sequence": 1}, heartbeat("11:01:00")])
    assert out.dead == [(0, reason)]
    assert len(out.bars) == 1


def test_a_price_of_ten_decimals_is_no_event_anywhere() -> None:
    """On the wire there is no room for the tenth: who writes the record is told."""
    wrong = quote("12:00:00", "1.1000000001")
    assert by_reference([wrong], INSTRUMENTS).dead == [(0, "DECIMAL_RANGE")]
    with pytest.raises(InputError, match="bid: expected at most 18 digits, 9 of them decimals"):
        by_package([wrong], DECLARED)
    with pytest.raises(InputError, match="market_event: the record does not fit its schema"):
        SCHEMAS.encode("market_event", wrong)


def test_sanity_is_tested_on_the_rounded_points(convert: Convert) -> None:
    out = convert([quote("12:00:00", "1.100004", "1.100001"), candle("12:01:00", "1.1", "1.1", "1.1", "1.100004")])
    assert out.dead == []
    assert minutes(out, "close") == [(110000,), (110000,)]
    assert convert([trade("12:00:00", "21474836.474999999")]).dead == []


# bits and windows


def test_a_window_has_the_bits_and_prices_of_its_bars(convert: Convert) -> None:
    closes = [100, 101, 101, 99, 99, 102, 101, 101, 103, 104, 104, 103, 105, 104]
    events = [flat(f"12:{minute:02}:00", f"1.{close:05}") for minute, close in enumerate(closes)]
    out = convert(events)
    (_, first), (_, second) = [item for item in out.windows if item[1]["timeframe"] == "M1"]
    assert first["bits"] == [0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 1]
    assert second["bits"] == [1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 1, 0]
    assert first["prices"] == [100103, 100105]
    noon = time_us("2024-01-02T12:00Z") // 10**6
    assert [first[name] - noon for name in ("start_time", "anchor_time", "available_at")] == [0, 660, 780]
    assert (first["m5"], first["m15"]) == (None, None)
    deadband = convert(events, ConvertParameters(history=12, forward=1, deadband=2))
    assert deadband.windows[0][1]["bits"] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_the_minute_that_closes_with_a_longer_bar_sees_it_and_the_one_before_a_silence_does_not(
    convert: Convert,
) -> None:
    closing = [flat(f"{hour:02}:{minute:02}:00") for hour in (10, 11) for minute in range(60)]
    out = convert([*closing[:63], quote("11:03:30"), quote("11:06:00")])
    last = [window for _, window in out.windows if window["timeframe"] == "M1"][-1]
    assert [window["timeframe"] for _, window in out.windows[-2:]] == ["M1", "M5"]
    assert last["m5"] is None
    out = convert(closing[:65])
    assert [window["timeframe"] for _, window in out.windows[-2:]] == ["M5", "M1"]
    assert out.windows[-1][1]["m5"]["available_at"] == out.windows[-1][1]["available_at"]


def test_a_model_is_in_force_for_bars_that_close_after_it_whatever_its_time(convert: Convert) -> None:
    series = [flat(f"12:{minute:02}:00") for minute in range(13)]
    out = convert([*series, model("11:00:00", MODELS[1]), flat("12:13:00"), flat("12:14:00")])
    assert [window["model_id"] for _, window in out.windows] == [None, MODELS[1], MODELS[1]]
    assert (out.late, out.dead) == ([], [])


def test_a_model_moves_no_watermark_is_never_late_and_never_a_duplicate(convert: Convert) -> None:
    series = [flat(f"12:{minute:02}:00") for minute in range(13)]
    ahead, behind = model("25T00:00:00", MODELS[0]), model("01T00:00:00", MODELS[1])
    out = convert(
        [
            ahead,
            *series[:6],
            ahead,
            {**ahead, "sequence": 5},
            {**ahead, "sequence": 5},
            *series[6:12],
            behind,
            series[12],
        ]
    )
    assert (out.late, out.dead, out.duplicates) == ([], [], [])
    assert [window["model_id"] for _, window in out.windows] == [MODELS[1]]


def test_fewer_bars_than_a_window_has_make_none(convert: Convert) -> None:
    series = [flat(f"12:{minute:02}:00") for minute in range(21)]
    parameters = ConvertParameters(history=13, forward=8)
    assert convert(series[:20], parameters).windows == []
    [(position, window)] = convert(series, parameters).windows
    assert position == 20
    assert (len(window["bits"]), len(window["prices"])) == (21, 9)


def test_the_first_bit_of_a_log_is_zero_and_an_equal_close_keeps_the_last(convert: Convert) -> None:
    closes = ["1.10001", "1.10001", "1.10002", "1.10002", "1.10001", "1.10001", *["1.10009"] * 7]
    out = convert([flat(f"12:{minute:02}:00", close) for minute, close in enumerate(closes)])
    assert out.windows[0][1]["bits"] == [0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_a_move_as_large_as_the_deadband_keeps_the_last_bit(convert: Convert) -> None:
    closes = [10, 12, 15, 13, 10, 12, 14, *[14] * 6]
    events = [flat(f"12:{minute:02}:00", f"1.{close:05}") for minute, close in enumerate(closes)]
    out = convert(events, ConvertParameters(history=12, forward=1, deadband=2))
    assert out.windows[0][1]["bits"] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
