"""How numbers are written."""

from __future__ import annotations

import pytest

from sep_stream.backtest.notation import (
    MINUS,
    NOTHING,
    TIED,
    counted,
    decimals_of,
    p_text,
    percent_range,
    plain,
    signed,
    signed_range,
    time_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.25, "+1.25"),
        (-0.1, f"{MINUS}0.10"),
        (0.0, "0.00"),
        (-0.001, "0.00"),
        (12345.0, "+12,345.00"),
        (None, NOTHING),
    ],
)
def test_a_sign_is_written_unless_nothing_is_left(value: float | None, text: str) -> None:
    assert signed(value) == text


def test_a_range_is_written_only_whole() -> None:
    assert signed_range({"low": -0.4, "high": 0.15}) == f"{MINUS}0.40 to +0.15"
    assert percent_range({"low": 0.4812, "high": 0.52}) == f"48.1 to 52.0{TIED}%"
    assert signed_range({"low": None, "high": None}) == NOTHING


def test_small_p_values_are_bounds() -> None:
    assert [p_text(p).replace(TIED, " ") for p in (0.0421, 0.0005, 1.0)] == ["p = 0.042", "p < 0.001", "p = 1.000"]


def test_times_show_seconds_where_there_are_any() -> None:
    assert time_text(1_704_067_260) == "2024-01-01 00:01"
    assert time_text(1_704_067_201) == "2024-01-01 00:00:01"
    assert time_text(0) == "1970-01-01 00:00"


def test_prices_need_no_more_decimals_than_they_have() -> None:
    assert decimals_of([1.08, 1.07991, 1.08 + 3e-16]) == 5
    assert decimals_of([5123.0]) == 0
    assert decimals_of([0.00001]) == 5
    assert decimals_of([]) == 0


def test_one_is_no_plural() -> None:
    assert (counted(1, "trade"), counted(2000, "trade")) == ("1 trade", "2,000 trades")
    assert plain(-1.5, 1) == f"{MINUS}1.5"
