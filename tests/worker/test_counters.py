"""What the worker says of the records that it handled and refused."""

from __future__ import annotations

from sep_stream.worker.stage import Counters, Refused


def refused(code: str, instrument: str | None) -> Refused:
    return Refused(code, "", 0, 0, None, None, instrument)


def test_refused_records_are_counted_by_instrument_and_reason() -> None:
    counters = Counters()
    counters.add("events", 7)
    counters.add_refused("dead", [refused("CROSSED", "USD/JPY"), refused("CROSSED", "USD/JPY")])
    counters.add_refused("dead", [refused("JUMP", "ESZ6"), refused("BAD_MAGIC", None)])
    counters.add_refused("dead", [refused("NOT_POSITIVE", "USD/JPY")])
    counters.add_refused("late", [refused("LATE", "ESZ6")])
    fields = counters.fields()
    assert fields == {
        "events": 7,
        "dead": {"?": {"bad_magic": 1}, "ESZ6": {"jump": 1}, "USD/JPY": {"crossed": 2, "not_positive": 1}},
        "late": {"ESZ6": {"late": 1}},
    }
    assert list(fields["dead"]) == ["?", "ESZ6", "USD/JPY"]


def test_nothing_refused_is_not_told() -> None:
    counters = Counters()
    counters.add("bars", 0)
    counters.add_refused("dead", [])
    assert counters.fields() == {}


def test_fields_stay_what_they_were_while_counting_goes_on() -> None:
    counters = Counters()
    counters.add_refused("late", [refused("LATE", "ESZ6")])
    before = counters.fields()
    counters.add_refused("late", [refused("LATE", "ESZ6")])
    assert before == {"late": {"ESZ6": {"late": 1}}}
    assert counters.fields() != before
