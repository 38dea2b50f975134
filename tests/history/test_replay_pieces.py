"""Parts of a replay that need no broker: its id, its transactions' cuts, and where it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sep_stream.errors import StateError
from sep_stream.history import replay
from sep_stream.history.replay import Course, behind, chunks
from sep_stream.history.span import Span
from sep_stream.runtime.log_reader import Record

COURSE = Course("market.events", "to.", "market.events")


def records(count: int, value: bytes = b"") -> list[Record]:
    return [Record(0, offset, 0, None, value, ()) for offset in range(count)]


def test_what_a_replay_gives_decides_its_id_and_where_it_goes_does_not() -> None:
    same = replace(COURSE, symbols=("EUR/USD", "USD/JPY"))
    assert same.id("s") == replace(same, symbols=("USD/JPY", "EUR/USD"), to_prefix="other.").id("s")
    courses = (
        COURSE, same, replace(COURSE, with_requeued=True), replace(COURSE, span=Span(start_ms=5)),
        replace(COURSE, span=Span(stop_ms=5)), replace(COURSE, span=Span(start_offset=5)),
        replace(COURSE, span=Span(stop_offset=5)),
    )  # fmt: skip
    ids = {course.id(source, by) for course in courses for source in "st" for by in ((), (1, ["EUR/USD"]))}
    assert len(ids) == len(courses) * 4


def test_transactions_are_cut_by_records_bytes_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "TRANSACTION_RECORDS_MAX", 4)
    monkeypatch.setattr(replay, "TRANSACTION_BYTES_MAX", 10)
    assert [len(chunk) for chunk in chunks(records(9))] == [4, 4, 1]
    assert [len(chunk) for chunk in chunks(records(5, b"12345"))] == [2, 2, 1]
    a, b = records(2)
    assert list(chunks([None, a, None, None, b, None])) == [[a], [b]]
    assert list(chunks([])) == []


def test_a_replay_goes_on_behind_the_last_record() -> None:
    assert [record.offset for record in behind(records(4), 1)] == [2, 3]
    assert len(list(behind(records(4), None))) == 4
    with pytest.raises(StateError, match="offset 7, which was replayed before, is no longer"):
        behind(records(4), 7)


def test_a_span_tells_what_it_holds() -> None:
    assert [Span(5, 7).holds_time(ms) for ms in (4, 5, 6, 7)] == [False, True, True, False]
    assert Span().holds_time(-1)
    assert Span(5, 5).empty
    assert Span(start_offset=5, stop_offset=4).empty
    assert not Span(5, start_offset=5, stop_offset=6).empty
