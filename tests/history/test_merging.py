"""Requeued events in their places: against a slow and obvious reference, and case by case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import InputError
from sep_stream.history import merging
from sep_stream.history.merging import Requeued, merged
from sep_stream.runtime.log_reader import Record

TOPIC = "x.market.events"
EURO, YEN = b"EUR/USD", b"USD/JPY"
JUMP_MS = 1_000


def record(offset: int, time_ms: int, key: bytes | None = EURO, origin: str | None = None) -> Record:
    """origin: of a requeued one"""
    headers = () if origin is None else (("source", origin.encode()), ("requeued-from", b"late/0/0"))
    return Record(0, offset, time_ms, key, b"", headers)


def placed(*log: Record) -> list[int]:
    """Offsets in merged order."""
    return [r.offset for r in merged(log, gathered(log), 0)]


def gathered(log: Sequence[Record]) -> Requeued:
    requeued = Requeued(TOPIC, {EURO, YEN}, JUMP_MS)
    requeued.gather(log)
    return requeued


def test_a_requeued_event_stands_before_the_first_later_one() -> None:
    assert placed(record(0, 10), record(1, 20), record(2, 30), record(3, 20, origin="")) == [0, 1, 3, 2]


def test_the_newest_stands_at_the_end() -> None:
    assert placed(record(0, 10), record(1, 20), record(2, 25, origin="")) == [0, 1, 2]


def test_only_its_own_instrument_decides() -> None:
    log = (record(0, 10), record(1, 30), record(2, 10, YEN), record(3, 30, YEN), record(4, 20, YEN, ""))
    assert placed(*log) == [0, 1, 2, 4, 3]


def test_the_record_that_was_refused_is_left_out() -> None:
    assert placed(record(0, 10), record(1, 5), record(2, 20), record(3, 15, origin=f"{TOPIC}/0/1")) == [0, 3, 2]
    assert placed(record(0, 10), record(1, 5), record(2, 15, origin="y.market.events/0/1")) == [0, 1, 2]


def test_what_was_refused_and_requeued_twice_is_there_once() -> None:
    log = (record(0, 5), record(1, 20), record(2, 5, origin=f"{TOPIC}/3/7"), record(3, 5, origin=f"{TOPIC}/0/2"))
    assert placed(*log) == [0, 3, 1]


def test_a_lone_wrong_time_draws_no_event_to_its_place() -> None:
    log = (record(0, 0), record(1, 9_000), record(2, 10), record(3, 40), record(4, 30, origin=""))
    assert placed(*log) == [0, 1, 2, 4, 3]


def test_a_jump_that_the_next_event_confirms_is_a_later_time() -> None:
    log = (record(0, 0), record(1, 9_000), record(2, 9_010), record(3, 30, origin=""))
    assert placed(*log) == [0, 3, 1, 2]


def test_an_event_of_no_declared_instrument_stays_where_it_is() -> None:
    assert placed(record(0, 10, b"?"), record(1, 5, b"?", ""), record(2, 7, None, "")) == [0, 1, 2]


def test_an_origin_that_is_no_place_is_none() -> None:
    assert placed(record(0, 10), record(1, 20), record(2, 15, origin="a/b/c"), record(3, 15, origin="x")) == [
        0,
        2,
        3,
        1,
    ]


def test_more_than_memory_is_meant_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "REQUEUED_MAX", 1)
    with pytest.raises(InputError, match="more than 1 requeued events"):
        placed(record(0, 1, origin=""), record(1, 2, origin=""))


logs = st.lists(st.tuples(st.integers(0, 50), st.sampled_from([EURO, YEN]), st.booleans()), max_size=30)


@given(logs)
def test_merging_equals_the_reference(rows: list[tuple[int, bytes, bool]]) -> None:
    log = [record(offset, ms, key, "" if again else None) for offset, (ms, key, again) in enumerate(rows)]
    ordinary = [r for r in log if not r.headers]
    before: dict[int, list[int]] = defaultdict(list)
    for r in sorted((r for r in log if r.headers), key=lambda r: (r.timestamp_ms, r.offset)):
        later = (o.offset for o in ordinary if o.key == r.key and o.timestamp_ms > r.timestamp_ms)
        before[next(later, -1)].append(r.offset)
    expected = [offset for o in ordinary for offset in (*before[o.offset], o.offset)] + before[-1]
    assert placed(*log) == expected


@given(logs, logs)
def test_whatever_comes_changes_what_the_order_is_decided_by(
    rows: list[tuple[int, bytes, bool]], more: list[tuple[int, bytes, bool]]
) -> None:
    log = [record(offset, ms, key, "" if again else None) for offset, (ms, key, again) in enumerate(rows + more)]
    assert (gathered(log).decided_by() == gathered(log[: len(rows)]).decided_by()) == (not more)
