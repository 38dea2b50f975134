"""An event published several times counts once and confirms nothing, also while it is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sep_stream.convert import MarketDataConverter
from sep_stream.market.decode import events_from_records
from tests.convert.described import DECLARED, SHORT, Described, by_package, by_reference
from tests.reference.converter import Converter
from tests.reference.files import NOTHING
from tests.streams import DAY_US, INSTRUMENTS, MINUTE_US, SECOND_US, START_US, Event

SYMBOL = "EUR/USD"
SHORT_US = (0, 1, SECOND_US, 30 * SECOND_US, MINUTE_US, 4 * MINUTE_US)
SILENCES_US = (2 * DAY_US, 8 * DAY_US)
WRONG_US = (8 * DAY_US, 9 * DAY_US, 400 * DAY_US)
KINDS = ("QUOTE", "QUOTE", "BAR", "HEARTBEAT")


def event(time_us: int, sequence: int, kind: str) -> Event:
    """An event whose price tells its sequence."""
    price = Decimal(110_000 + sequence) / 100_000
    values: dict[str, Any] = {}
    if kind == "QUOTE":
        values = {"bid": price, "ask": price}
    elif kind == "BAR":
        time_us = time_us // MINUTE_US * MINUTE_US
        values = {**dict.fromkeys(("open", "high", "low", "close"), price), "duration_s": 60}
    given = {"instrument": SYMBOL, "kind": kind, "event_time": time_us, "sequence": sequence}
    return {**NOTHING, **given, **values}


def events_of(steps: Sequence[tuple[int, str, int]]) -> Iterator[Event]:
    """One event a step: how far time has moved, the kind, and how far ahead of it the event's own time is."""
    clock = START_US
    for sequence, (moved_us, kind, wrong_us) in enumerate(steps, 1):
        clock += moved_us
        yield event(clock + wrong_us, sequence, kind)
        if kind == "BAR" and not wrong_us:
            clock = clock // MINUTE_US * MINUTE_US + MINUTE_US


any_step = st.tuples(
    st.sampled_from((*SHORT_US, *SILENCES_US)), st.sampled_from(KINDS), st.sampled_from((0, 0, 0, *WRONG_US))
)
right_step = st.tuples(st.sampled_from(SHORT_US), st.sampled_from(KINDS), st.just(0))
any_streams = st.lists(any_step, min_size=1, max_size=25).map(lambda steps: list(events_of(steps)))
"""Wrong times and long silences anywhere, so that jumps are refused, confirmed and confirmed wrongly."""


@st.composite
def streams_with_one_wrong_time(draw: st.DrawFn) -> list[Event]:
    """One event has a wrong time, which the others come nowhere near, and two that are right follow it."""
    steps = draw(st.lists(right_step, min_size=3, max_size=25))
    at = draw(st.integers(0, len(steps) - 3))
    moved_us, kind, _ = steps[at]
    steps[at] = (moved_us, kind, draw(st.sampled_from(WRONG_US)))
    return list(events_of(steps))


def ends_of_repeats(events: Sequence[Event]) -> list[int]:
    """For each event: the position up to which a repeat is told by the rule for duplicates.

    The end of the stream for one that was accepted or is still held, that of the event which refuses it for a refused
    jump, none for a late event and an ignored heartbeat: what changed nothing is judged anew when it comes again.
    """
    converter = Converter(INSTRUMENTS)
    ends: list[int] = []
    for position, this in enumerate(events):
        for kind, item, *_ in converter.feed(this):
            if kind == "dead":
                ends[item["sequence"] - 1] = position
        log = converter._logs[SYMBOL]
        held = log.held is not None and log.held[0] is this
        counts = held or log.last_sequence.get(this["source"]) == this["sequence"]
        ends.append(len(events) if counts else position)
    return ends


def with_repeats(draw: st.DrawFn, events: Sequence[Event], ends: Sequence[int]) -> list[Event]:
    """The events, some of them again, each anywhere behind itself up to its end."""
    before: list[list[Event]] = [[] for _ in range(len(events) + 1)]
    for k in draw(st.lists(st.integers(0, len(events) - 1), max_size=12)):
        if k < ends[k]:
            before[draw(st.integers(k + 1, ends[k]))].append(events[k])
    return [e for position in range(len(events) + 1) for e in (*before[position], *events[position : position + 1])]


def outcome(events: Sequence[Event]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int, Described]:
    """Bars and windows, the watermark after all, and all that is told."""
    described = by_package(events, DECLARED)
    converter = MarketDataConverter(DECLARED, SHORT)
    converter.feed(events_from_records(DECLARED, events))
    watermark_us = int(converter.rows["watermark_us"][DECLARED.position(SYMBOL)])
    return [bar for _, bar in described.bars], [w for _, w in described.windows], watermark_us, described


@given(st.data())
def test_repeats_of_what_counts_or_is_held_change_nothing(data: st.DataObject) -> None:
    events = data.draw(any_streams)
    repeated = with_repeats(data.draw, events, ends_of_repeats(events))
    *expected, once = outcome(events)
    *found, again = outcome(repeated)
    assert found == expected
    assert len(again.duplicates) == len(repeated) - len(events)
    assert refused(again, repeated) == refused(once, events)
    assert again == by_reference(repeated, INSTRUMENTS)


def refused(described: Described, events: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Sequences of the dead letters and of the late events."""
    dead, late = [position for position, _ in described.dead], described.late
    return [events[k]["sequence"] for k in dead], [events[k]["sequence"] for k in late]


@given(st.data())
def test_with_one_wrong_time_repeats_of_any_event_anywhere_behind_it_change_nothing(data: st.DataObject) -> None:
    events = data.draw(streams_with_one_wrong_time())
    repeated = with_repeats(data.draw, events, [len(events)] * len(events))
    *expected, _ = outcome(events)
    *found, again = outcome(repeated)
    assert found == expected
    assert again == by_reference(repeated, INSTRUMENTS)


@given(streams_with_one_wrong_time())
def test_one_wrong_time_the_first_too_gives_the_bars_of_the_stream_without_it(events: list[Event]) -> None:
    bars, _, watermark_us, described = outcome(events)
    [(wrong, reason)] = described.dead
    assert reason == "JUMP"
    rest = [e for k, e in enumerate(events) if k != wrong]
    assert (bars, watermark_us) == (outcome(rest)[0], outcome(rest)[2])
    assert described.late == []


@given(st.data(), st.booleans())
def test_any_chunking_and_any_restart_give_the_same_with_held_events_and_repeats(
    data: st.DataObject, restored: bool
) -> None:
    events = data.draw(any_streams)
    events = with_repeats(data.draw, events, [len(events)] * len(events))
    cuts = data.draw(st.one_of(st.just(list(range(1, len(events)))), st.lists(st.integers(0, len(events))).map(sorted)))
    assert by_package(events, DECLARED, SHORT, cuts, restored) == by_reference(events, INSTRUMENTS)
    assert snapshot(events, cuts, restored) == snapshot(events, [], False)


def snapshot(events: Sequence[Event], cuts: Sequence[int], restored: bool) -> bytes:
    batch = events_from_records(DECLARED, events)
    converter = MarketDataConverter(DECLARED, SHORT)
    for start, stop in zip((0, *cuts), (*cuts, len(batch)), strict=True):
        converter.feed(batch.take(slice(start, stop)))
        if restored:
            converter = MarketDataConverter.restore(converter.snapshot(), DECLARED, SHORT)
    return converter.snapshot()
