"""Text to integers: exact, by Python's own Decimal and datetime as the oracle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.events import NULL
from sep_stream.market.timeframes import YEAR_2200_US
from sep_stream.sources.text import Fault, parse_decimals, parse_times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decimal(text: str, tick: int = 0) -> int | Fault:
    values, row, fault = parse_decimals(VarColumn.from_list([b"1", text.encode()]), False, tick)
    assert row == (1 if fault else -1)
    return fault or int(values[1])


def time(text: str, assume_utc: bool = False) -> int | Fault:
    values, row, fault = parse_times(VarColumn.from_list([b"0", text.encode()]), assume_utc)
    assert row == (1 if fault else -1)
    return fault or int(values[1])


@given(st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 3), st.integers(-12, 12))
def test_a_decimal_is_exact_however_it_is_written(units: int, zeros: int, exponent: int) -> None:
    value = Decimal(units).scaleb(-9)
    assert decimal(f"{value:f}") == units
    assert decimal(f" {value:f}{'0' * zeros}\t") == units
    assert decimal(f"{value.scaleb(-exponent):f}e{exponent}") == units
    assert decimal(f"{value.scaleb(-exponent):f}E{exponent:+03d}") == units


@given(st.decimals(0, 10**8, allow_nan=False, allow_infinity=False), st.sampled_from([1, 3, 10_000, 250_000_000]))
def test_a_price_with_more_decimals_is_rounded_half_up_to_the_tick_from_its_text(value: Decimal, tick: int) -> None:
    units = value * 10**9
    half_up = int((units / tick + Decimal("0.5")).to_integral_value(ROUND_FLOOR)) * tick
    assert decimal(f"{value:f}", tick) == (int(units) if units == int(units) else half_up)


def test_rounding_sees_no_digit_that_was_cut_off() -> None:
    assert decimal("1.000005" + "0" * 30 + "1", 10_000) == 1_000_010_000
    assert decimal("1.00000499999999999999999999999", 10_000) == 1_000_000_000
    assert decimal("1.1776199999999999", 10_000) == 1_177_620_000
    assert decimal("0.0000000000000000000000001", 10_000) == 0
    assert decimal("1e-9999999", 10_000) == 0


@pytest.mark.parametrize(
    "text", ["x", "1.2.3", "1,5", "--1", "1e", "1e+", ".", "-", "nan", "inf", "0x10", "1 2", "1e5x"]
)
def test_what_is_no_number_is_told(text: str) -> None:
    assert decimal(text) == Fault.NOT_A_DECIMAL


def test_what_the_wire_cannot_hold_is_told() -> None:
    assert decimal("") == Fault.EMPTY
    assert decimal("0.0000000001") == Fault.DECIMALS
    assert decimal("0.00000000010") == Fault.DECIMALS
    assert decimal("1000000000") == Fault.DIGITS
    assert decimal("1e9") == Fault.DIGITS
    assert decimal("1e99999999999999999999") == Fault.DIGITS
    assert decimal("999999999.9999999999", 10_000) == Fault.DIGITS
    assert decimal("0e99") == 0
    assert decimal("000000000000000000000001.5000000000000000000000") == 1_500_000_000


def test_an_empty_text_can_be_null() -> None:
    values, row, _ = parse_decimals(VarColumn.from_list([b"", b" ", None, b"2"]), True, 0)
    assert (values.tolist(), row) == ([NULL, NULL, NULL, 2_000_000_000], -1)


@given(st.integers(0, YEAR_2200_US - 1), st.integers(-1439, 1439))
def test_iso_times_with_a_zone_are_exact(micros: int, offset_min: int) -> None:
    moment = (EPOCH + timedelta(microseconds=micros)).astimezone(timezone(timedelta(minutes=offset_min)))
    expected = (moment - EPOCH) // timedelta(microseconds=1)
    assert time(moment.isoformat()) == expected
    assert time(moment.isoformat(" ")) == expected
    assert time(moment.strftime("%Y-%m-%dT%H:%M:%S.%f123%z")) == expected
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    assert time(utc.isoformat() + "Z") == time(utc.isoformat(), assume_utc=True) == expected


@given(st.integers(10**9, 7_258_118_399))
def test_epochs_are_told_apart_by_size(seconds: int) -> None:
    expected = seconds * 10**6 + 123_456
    assert time(str(seconds)) == seconds * 10**6
    assert time(f"{seconds}.1234567") == expected
    assert time(f"{seconds}123") == expected - 456
    assert time(f"{seconds}123.4569") == expected
    assert time(f"{seconds}123456") == expected
    assert time(f"{seconds}123456789") == expected


def test_a_time_without_a_zone_is_not_guessed() -> None:
    assert time("2024-02-05T00:00:00") == Fault.NAIVE_TIME
    assert time("2024-02-05 00:00") == Fault.NAIVE_TIME
    assert time("2024-02-05 00:00", assume_utc=True) == 1_707_091_200_000_000
    assert time("2024-02-05T02:00+02") == time("2024-02-05T02:00+0200") == 1_707_091_200_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30T00:00Z", "2023-02-29T00:00Z", "2024-13-01T00:00Z", "2024-01-01T24:00Z", "2024-01-01T00:60Z",
        "2024-01-01", "2024-01-01T00:00:60Z", "2024-01-01T00:00:00.Z", "2024-01-01T00:00ZZ", "2024-01-01X00:00Z",
        "2024/01/01 00:00Z", "2024-01-01T00:00+25:00", "2024-01-01T00:00+1", "yesterday", "1.5e9", "12a", "-5", "1.",
    ],
)  # fmt: skip
def test_what_is_no_time_is_told(text: str) -> None:
    assert time(text) == Fault.NOT_A_TIME


def test_times_far_off_are_told() -> None:
    assert time("") == Fault.EMPTY
    assert time("1969-12-31T23:59:59Z") == Fault.TIME_RANGE
    assert time("2200-01-01T00:00:00Z") == Fault.TIME_RANGE
    assert time("9999999999") == Fault.TIME_RANGE
