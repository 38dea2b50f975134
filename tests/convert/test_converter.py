"""The converter under any chunking, from any snapshot, and on real quotes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.convert import ConvertOutput, ConvertParameters, MarketDataConverter
from sep_stream.convert.machine import HELD
from sep_stream.errors import ConfigurationError, StateError
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.market.partitioner import partition_for
from tests.convert.described import DECLARED, PARTITIONS, SHORT, Described, add, bar_of, by_package, by_wire
from tests.reference.files import NOTHING, events_of, time_us
from tests.streams import DAY_US, MINUTE_US, START_US, random_events

COUNT = 400


def fed(events: EventBatch, cuts: Sequence[int], restored: bool = False) -> MarketDataConverter:
    converter = MarketDataConverter(DECLARED, SHORT)
    for start, stop in zip((0, *cuts), (*cuts, len(events)), strict=True):
        converter.feed(events.take(slice(start, stop)))
        if restored:
            converter = MarketDataConverter.restore(converter.snapshot(), DECLARED, SHORT)
    return converter


cuts_of_a_stream = st.lists(st.integers(0, COUNT), max_size=8).map(sorted)


@given(st.integers(0, 2**32), cuts_of_a_stream, st.booleans())
def test_any_chunking_and_any_restart_give_the_same(seed: int, cuts: list[int], restored: bool) -> None:
    events = random_events(seed, COUNT)
    assert by_package(events, DECLARED, SHORT, cuts, restored) == by_package(events, DECLARED)


@given(st.integers(0, 2**32), cuts_of_a_stream, st.booleans())
def test_any_chunking_leaves_the_same_snapshot(seed: int, cuts: list[int], restored: bool) -> None:
    events = events_from_records(DECLARED, random_events(seed, COUNT))
    assert fed(events, cuts, restored).snapshot() == fed(events, ()).snapshot()


@given(st.integers(0, 2**32), st.integers(0, COUNT))
def test_a_prefix_of_the_log_gives_a_prefix_of_the_bars_and_windows(seed: int, count: int) -> None:
    events = random_events(seed, COUNT)
    whole, prefix = by_package(events, DECLARED), by_package(events[:count], DECLARED)
    assert prefix.bars == whole.bars[: len(prefix.bars)]
    assert prefix.windows == whole.windows[: len(prefix.windows)]
    assert not any(position < count for position, _ in whole.bars[len(prefix.bars) :])


@given(st.integers(0, 2**32), st.lists(st.integers(0, COUNT), min_size=1, max_size=3).map(sorted))
def test_outputs_of_several_converters_joined_say_what_each_says(seed: int, cuts: list[int]) -> None:
    """Each with its own instruments and models, as those of the partitions are; stretch by stretch of the log."""
    events = events_from_records(DECLARED, random_events(seed, COUNT))
    parts = [events.take(np.flatnonzero(events.instrument == k)) for k in np.unique(events.instrument).tolist()]
    converters = [MarketDataConverter(DECLARED, SHORT) for _ in parts]
    joined, apart = Described(), Described()
    for start, stop in zip((0, *cuts), (*cuts, COUNT), strict=True):
        stretches = [part.take(np.flatnonzero((part.offset >= start) & (part.offset < stop))) for part in parts]
        outputs = [converter.feed(part) for converter, part in zip(converters, stretches, strict=True)]
        add(joined, ConvertOutput.concatenate(outputs), EventBatch.concatenate(stretches), DECLARED, SHORT)
        for output, part in zip(outputs, stretches, strict=True):
            add(apart, output, part, DECLARED, SHORT)
    assert joined == apart


def test_bars_of_real_quotes_match(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_bars.json").read_text())
    quotes = list(events_of(shared_data / golden["source"], golden["instrument"]))
    output = MarketDataConverter(DECLARED).feed(events_from_records(DECLARED, quotes))
    expected = [dict(zip(golden["columns"], row, strict=True)) for row in golden["bars"]]
    found = [bar_of(row, DECLARED) for row in output.bars]
    assert [{name: bar[name] for name in golden["columns"]} for bar in found] == [
        {**bar, "open_time": time_us(bar["open_time"]) // 10**6} for bar in expected
    ]
    assert output.rejections == ()


def quote(after_us: int, source: str = "a", sequence: int | None = None) -> dict[str, Any]:
    prices = dict.fromkeys(("bid", "ask"), DECLARED[0].tick_size * 110000)
    event = {"instrument": "EUR/USD", "kind": "QUOTE", "event_time": START_US + after_us, "sequence": sequence}
    return {**NOTHING, **event, **prices, "source": source}


@pytest.mark.parametrize("cut", range(5))
def test_a_held_event_keeps_its_source_through_a_snapshot(cut: int) -> None:
    jump = quote(8 * DAY_US, "b", 6)
    events = [quote(0, "b", 5), quote(1, "a", 5), jump, quote(8 * DAY_US + 1, "a", 6), jump]
    assert by_package(events, DECLARED, SHORT, [cut], restored=True).duplicates == [4]


def test_an_event_that_was_held_over_a_snapshot_is_rejected_with_its_own_bytes() -> None:
    batch = events_from_records(DECLARED, [quote(0), quote(8 * DAY_US)])
    converter = MarketDataConverter(DECLARED, SHORT)
    converter.feed(replace(batch, keys=[b"EUR/USD", b"key"], values=[b"first", b"\x00held\xff"]))
    restored = MarketDataConverter.restore(converter.snapshot(), DECLARED, SHORT)
    [rejection] = restored.feed(events_from_records(DECLARED, [quote(1)])).rejections
    assert (rejection.row, rejection.offset, rejection.reason) == (-1, 1, Reason.JUMP)
    assert (rejection.key, rejection.value) == (b"key", b"\x00held\xff")


def test_a_first_event_that_was_held_over_a_snapshot_is_rejected_with_its_own_bytes() -> None:
    converter = MarketDataConverter(DECLARED, SHORT)
    converter.feed(replace(events_from_records(DECLARED, [quote(8 * DAY_US)]), keys=[b"key"], values=[b"held"]))
    restored = MarketDataConverter.restore(converter.snapshot(), DECLARED, SHORT)
    [rejection] = restored.feed(events_from_records(DECLARED, [quote(0)])).rejections
    assert (rejection.row, rejection.offset, rejection.reason) == (-1, 0, Reason.JUMP)
    assert (rejection.key, rejection.value) == (b"key", b"held")


def test_a_row_is_held_only_while_it_waits_or_when_it_is_refused() -> None:
    def reasons(*after_us: int) -> list[int]:
        batch = events_from_records(DECLARED, [quote(t) for t in after_us])
        return MarketDataConverter(DECLARED, SHORT).feed(batch).reason.tolist()

    ok = int(Reason.OK)
    assert reasons(0) == [HELD]
    assert reasons(0, 1) == [ok, ok]
    assert reasons(8 * DAY_US, 0) == [HELD, HELD]
    assert reasons(0, 8 * DAY_US) == [ok, HELD]
    assert reasons(0, 8 * DAY_US, 8 * DAY_US) == [ok, ok, ok]


HOME = partition_for(b"EUR/USD", PARTITIONS)


@pytest.mark.parametrize("key", [b"GBP/USD", b"EURUSD", None])
def test_an_event_under_another_key_is_a_dead_letter_and_changes_nothing(key: bytes | None) -> None:
    events = [quote(9 * MINUTE_US, sequence=9), quote(0, sequence=1), quote(MINUTE_US, sequence=2)]
    out = by_wire(events, DECLARED, SHORT, [key, b"EUR/USD", b"EUR/USD"], HOME)
    assert (out.dead, out.late, out.duplicates, len(out.bars)) == ([(0, "KEY_MISMATCH")], [], [], 1)


@pytest.mark.parametrize("partition", [p for p in range(PARTITIONS) if p != HOME])
def test_events_in_another_partition_than_their_keys_are_dead_letters(partition: int) -> None:
    out = by_wire([quote(0), quote(MINUTE_US)], DECLARED, SHORT, [b"EUR/USD"] * 2, partition)
    assert (out.dead, out.bars) == ([(0, "WRONG_PARTITION"), (1, "WRONG_PARTITION")], [])


def test_the_latest_price_is_the_newest_by_event_time() -> None:
    events = [quote(1), {**quote(0), "ask": quote(0)["ask"] + DECLARED[0].tick_size * 7}]
    converter = MarketDataConverter(DECLARED, SHORT)
    output = converter.feed(events_from_records(DECLARED, events))
    bid, ask = (round(quote(0)[side] / DECLARED[0].tick_size) for side in ("bid", "ask"))
    assert output.prices.tolist() == [(0, START_US + 1, bid, bid, ask)]
    assert not len(converter.feed(events_from_records(DECLARED, events[1:])).prices)


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff\x7f", b"\x02\x00\x00\x00{}"])
def test_bytes_that_are_no_snapshot_are_told(damage: bytes) -> None:
    with pytest.raises(StateError, match="snapshot"):
        MarketDataConverter.restore(damage, DECLARED, SHORT)


def test_a_truncated_snapshot_is_told() -> None:
    snapshot = fed(events_from_records(DECLARED, [quote(0)]), ()).snapshot()
    with pytest.raises(StateError, match="snapshot"):
        MarketDataConverter.restore(snapshot[:-1], DECLARED, SHORT)


def test_a_snapshot_of_an_instrument_that_has_changed_is_told() -> None:
    snapshot = fed(events_from_records(DECLARED, [quote(0)]), ()).snapshot()
    changed = Instruments([replace(DECLARED[0], tick_size=DECLARED[0].tick_size * 10)])
    with pytest.raises(StateError, match="EUR/USD"):
        MarketDataConverter.restore(snapshot, changed, SHORT)
    with pytest.raises(StateError, match="no longer declared"):
        MarketDataConverter.restore(snapshot, Instruments([DECLARED[1]]), SHORT)


def test_a_snapshot_fits_instruments_in_another_order() -> None:
    events = random_events(5, COUNT)
    expected = by_package(events, DECLARED)
    reordered = Instruments(reversed(list(DECLARED)))
    converter = fed(events_from_records(DECLARED, events[:200]), ())
    restored = MarketDataConverter.restore(converter.snapshot(), reordered, SHORT)
    bars = [bar_of(row, reordered) for row in restored.feed(events_from_records(reordered, events[200:])).bars]
    assert bars == [bar for position, bar in expected.bars if position >= 200]


@pytest.mark.parametrize("wrong", [{"history": 11}, {"forward": 0}, {"deadband": -1}, {"max_jump_s": 0}])
def test_parameters_outside_the_contract_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ConvertParameters(**wrong)


def test_two_longer_bars_around_a_silence_both_complete_a_window() -> None:
    """M1 bars at 12:03 and then 12:09 only: the M5 bars of 12:00 and 12:05 each end a window of their own."""
    needed = SHORT.history + SHORT.forward
    five_minutes_us, noon_us = 300_000_000, time_us("2024-01-02T12:00:00Z")
    times = [noon_us - k * five_minutes_us for k in range(needed - 1, 0, -1)]
    times += [noon_us + minute * 60_000_000 for minute in (3, 9, 16)]
    quotes = [
        NOTHING | {"instrument": "EUR/USD", "kind": "QUOTE", "event_time": t, "source": "s"}
        | {"bid": Decimal("1.1"), "ask": Decimal("1.1")}
        for t in times
    ]  # fmt: skip
    for cuts in ((), range(1, len(quotes))):
        out = by_package(quotes, DECLARED, SHORT, cuts)
        ended = [w["available_at"] for _, w in out.windows if w["timeframe"] == "M5"]
        assert ended == [noon_us // 10**6 + 300, noon_us // 10**6 + 600]
