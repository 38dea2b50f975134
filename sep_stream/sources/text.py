"""Decimals and times out of text, a column at a time and exactly: no float comes between."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.events import NULL
from sep_stream.market.timeframes import YEAR_2200_US


class Fault(IntEnum):
    """What is wrong with a text."""

    NONE = 0
    EMPTY = 1
    NOT_A_DECIMAL = 2
    DECIMALS = 3
    DIGITS = 4
    NOT_A_TIME = 5
    NAIVE_TIME = 6
    TIME_RANGE = 7


EXPECTED: Final[dict[Fault, str]] = {
    Fault.EMPTY: "expected a value",
    Fault.NOT_A_DECIMAL: "expected a decimal number",
    Fault.DECIMALS: "expected at most 9 decimals",
    Fault.DIGITS: "expected a number below 10^9",
    Fault.NOT_A_TIME: "expected ISO 8601 with a zone (2024-02-05T00:00:00Z), or epoch s, ms, µs or ns",
    Fault.NAIVE_TIME: "expected a time with its zone; if the times are UTC, say so with --assume-utc",
    Fault.TIME_RANGE: "expected a time between the years 1970 and 2200",
}

DIGITS_MAX: Final = 18
DECIMALS_MAX: Final = 9
"""Of the wire, decimal(18,9)."""
# A count of seconds has 11 digits until the year 5138, one of milliseconds at least 12 from 1973 on, and so on by
# three digits.
_SECONDS_BELOW: Final = 10**11
_MILLIS_BELOW: Final = 10**14
_MICROS_BELOW: Final = 10**17
_EXPONENT_MAX: Final = 10_000
_UNITS_BELOW: Final = 10**DIGITS_MAX

_NONE, _EMPTY, _NOT_A_DECIMAL = int(Fault.NONE), int(Fault.EMPTY), int(Fault.NOT_A_DECIMAL)
_DECIMALS, _DIGITS, _NOT_A_TIME = int(Fault.DECIMALS), int(Fault.DIGITS), int(Fault.NOT_A_TIME)
_NAIVE, _RANGE = int(Fault.NAIVE_TIME), int(Fault.TIME_RANGE)
_ZERO, _NINE, _POINT, _PLUS, _MINUS, _COLON, _SPACE, _TAB = (ord(c) for c in "09.+-: \t")
_BIG_E, _SMALL_E, _BIG_T, _SMALL_T, _BIG_Z, _SMALL_Z = (ord(c) for c in "EeTtZz")


def parse_decimals(column: VarColumn, nullable: bool, tick: int) -> tuple[npt.NDArray[np.int64], int, Fault]:
    """Counts of 1e-9 (n,) int64, then the first row that is none and what is wrong with it (-1 if all are well).

    Zeros at the end don't count as decimals, an exponent is understood. nullable: an empty text is NULL.
    tick: a number with more than 9 decimals is rounded half up, exactly, to a multiple of this many counts, as
    sep-metrics/1 rounds prices off the tick grid (files hold 1.1776199999999999 for 1.17762); 0: it is an error
    """
    out = np.empty(len(column), np.int64)
    row, fault = _decimals(column.data, column.start, column.length, nullable, tick, out)
    return out, int(row), Fault(int(fault))


def parse_times(column: VarColumn, assume_utc: bool) -> tuple[npt.NDArray[np.int64], int, Fault]:
    """Times (n,) int64 in µs since the epoch, then the first row that is none and what is wrong with it (-1 if none).

    What is finer than a microsecond is cut off. assume_utc: a time without a zone is UTC.
    """
    out = np.empty(len(column), np.int64)
    row, fault = _times(column.data, column.start, column.length, assume_utc, out)
    return out, int(row), Fault(int(fault))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decimals(data: Any, start: Any, length: Any, nullable: bool, tick: int, out: Any) -> Any:
    for row in range(len(start)):
        begin, end = _trim(data, start[row], start[row] + max(length[row], 0))
        if begin == end:
            if not nullable:
                return row, _EMPTY
            out[row] = NULL
            continue
        out[row], fault = _decimal(data, begin, end, tick)
        if fault != _NONE:
            return row, fault
    return -1, _NONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _times(data: Any, start: Any, length: Any, assume_utc: bool, out: Any) -> Any:
    for row in range(len(start)):
        begin, end = _trim(data, start[row], start[row] + max(length[row], 0))
        if begin == end:
            return row, _EMPTY
        if end - begin > 4 and data[begin + 4] == _MINUS:
            out[row], fault = _iso_time(data, begin, end, assume_utc)
        else:
            out[row], fault = _epoch_time(data, begin, end)
        if fault == _NONE and not 0 <= out[row] < YEAR_2200_US:
            fault = _RANGE
        if fault != _NONE:
            return row, fault
    return -1, _NONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _trim(data: Any, begin: int, end: int) -> Any:
    while begin < end and (data[begin] == _SPACE or data[begin] == _TAB):
        begin += 1
    while begin < end and (data[end - 1] == _SPACE or data[end - 1] == _TAB):
        end -= 1
    return begin, end


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _is_digit(byte: int) -> bool:
    return _ZERO <= byte <= _NINE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _decimal(data: Any, p: int, end: int, tick: int) -> Any:
    """(units of 1e-9, fault). The mantissa is the leading digits, without zeros at their end."""
    negative = data[p] == _MINUS
    if negative or data[p] == _PLUS:
        p += 1
    mantissa, digits, zeros = np.int64(0), 0, 0
    seen, whole, last = 0, -1, -1  # digits seen; of them before the point; position of the mantissa's last
    is_cut = False
    while p < end and (_is_digit(data[p]) or (data[p] == _POINT and whole < 0)):
        if data[p] == _POINT:
            whole = seen
        elif data[p] == _ZERO:
            zeros += 1
            seen += 1
        else:
            width = digits + zeros + 1 if digits else 1
            if width <= DIGITS_MAX:
                mantissa = mantissa * np.int64(10) ** (width - digits) + np.int64(data[p] - _ZERO)
                digits, zeros, last = width, 0, seen
            else:
                is_cut = True
            seen += 1
        p += 1
    exponent, p = _exponent(data, p, end)
    if seen == 0 or p != end:
        return np.int64(0), _NOT_A_DECIMAL
    if digits == 0:
        return np.int64(0), _NONE
    place = exponent + (seen if whole < 0 else whole) - 1 - last  # power of ten of the mantissa's last digit
    if digits + place + DECIMALS_MAX > DIGITS_MAX:
        return np.int64(0), _DIGITS
    if place >= -DECIMALS_MAX and not is_cut:
        units = mantissa * np.int64(10) ** (place + DECIMALS_MAX)
    elif tick > 0:
        units = _on_tick(mantissa, place + DECIMALS_MAX, tick)
        if units >= _UNITS_BELOW:
            return np.int64(0), _DIGITS
    else:
        return np.int64(0), _DECIMALS
    return -units if negative else units, _NONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _on_tick(mantissa: int, power: int, tick: int) -> int:
    """mantissa * 10^power units rounded half up to a multiple of `tick`; digits cut off below don't matter.

    Twice the value is compared with odd multiples of the tick, which are whole: what is below one unit can go.
    """
    twice: Any = 2 * mantissa
    if power >= 0:
        twice *= np.int64(10) ** power
    else:
        twice //= np.int64(10) ** min(-power, DIGITS_MAX)
        if -power > DIGITS_MAX:
            twice = 0
    return (twice + tick) // (2 * tick) * tick


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _exponent(data: Any, p: int, end: int) -> Any:
    """(exponent, position after it); the position does not move where there is none."""
    if p >= end or (data[p] != _SMALL_E and data[p] != _BIG_E):
        return 0, p
    q = p + 1
    negative = q < end and data[q] == _MINUS
    if q < end and (negative or data[q] == _PLUS):
        q += 1
    if q == end:
        return 0, p
    value = 0
    while q < end and _is_digit(data[q]):
        if value < _EXPONENT_MAX:
            value = value * 10 + int(data[q] - _ZERO)
        q += 1
    return -value if negative else value, q


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _number(data: Any, p: int, end: int, width: int) -> int:
    """The number of exactly `width` digits at p, or -1."""
    if p + width > end:
        return -1
    value = 0
    for k in range(p, p + width):
        if not _is_digit(data[k]):
            return -1
        value = value * 10 + int(data[k] - _ZERO)
    return value


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fraction(data: Any, p: int, end: int, width: int) -> Any:
    """(the first `width` digits of a fraction as a number, position after all of them)."""
    value, seen = 0, 0
    while p < end and _is_digit(data[p]):
        if seen < width:
            value = value * 10 + int(data[p] - _ZERO)
            seen += 1
        p += 1
    return value * 10 ** (width - seen), p


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _epoch_time(data: Any, p: int, end: int) -> Any:
    """(µs, fault) of a count of s, ms, µs or ns since the epoch, told apart by its size."""
    count, digits = np.int64(0), 0
    while p < end and _is_digit(data[p]) and digits <= DIGITS_MAX:
        count = count * 10 + np.int64(data[p] - _ZERO)
        digits += 1
        p += 1
    has_fraction = digits > 0 and p + 1 < end and data[p] == _POINT
    if digits == 0 or (p < end and not has_fraction):
        return np.int64(0), _NOT_A_TIME
    if count < _SECONDS_BELOW:
        factor, width = 1_000_000, 6
    elif count < _MILLIS_BELOW:
        factor, width = 1_000, 3
    else:
        factor, width = 1, 0
    part = 0
    if has_fraction:
        part, p = _fraction(data, p + 1, end, width)
    if p != end:
        return np.int64(0), _NOT_A_TIME
    if count >= _MICROS_BELOW:
        return count // 1_000, _NONE
    return count * factor + part, _NONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _iso_time(data: Any, p: int, end: int, assume_utc: bool) -> Any:
    """(µs, fault) of YYYY-MM-DD, T or a space, HH:MM with optional :SS and fraction, and a zone."""
    year, month, day = _number(data, p, end, 4), _number(data, p + 5, end, 2), _number(data, p + 8, end, 2)
    hour, minute = _number(data, p + 11, end, 2), _number(data, p + 14, end, 2)
    if year < 0 or hour < 0 or minute < 0 or not 1 <= month <= 12 or hour > 23 or minute > 59:
        return np.int64(0), _NOT_A_TIME
    if not 1 <= day <= _month_days(year, month):
        return np.int64(0), _NOT_A_TIME
    if data[p + 7] != _MINUS or data[p + 13] != _COLON:
        return np.int64(0), _NOT_A_TIME
    if data[p + 10] != _BIG_T and data[p + 10] != _SMALL_T and data[p + 10] != _SPACE:
        return np.int64(0), _NOT_A_TIME
    p += 16
    second, part = 0, 0
    if p < end and data[p] == _COLON:
        second = _number(data, p + 1, end, 2)
        if not 0 <= second <= 59:
            return np.int64(0), _NOT_A_TIME
        p += 3
        if p + 1 < end and data[p] == _POINT and _is_digit(data[p + 1]):
            part, p = _fraction(data, p + 1, end, 6)
    offset_min, fault = _zone(data, p, end, assume_utc)
    minutes = (_days(year, month, day) * 24 + hour) * 60 + minute - offset_min
    return (np.int64(minutes) * 60 + second) * 1_000_000 + part, fault


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _zone(data: Any, p: int, end: int, assume_utc: bool) -> Any:
    """(minutes east of UTC, fault) of Z, +HH, +HHMM or +HH:MM."""
    if p == end:
        return 0, _NONE if assume_utc else _NAIVE
    if data[p] == _BIG_Z or data[p] == _SMALL_Z:
        return 0, _NONE if p + 1 == end else _NOT_A_TIME
    if data[p] != _PLUS and data[p] != _MINUS:
        return 0, _NOT_A_TIME
    hours, minutes = _number(data, p + 1, end, 2), 0
    q = p + 3
    if q < end:
        if data[q] == _COLON:
            q += 1
        minutes = _number(data, q, end, 2)
        q += 2
    if q != end or not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return 0, _NOT_A_TIME
    total = hours * 60 + minutes
    return -total if data[p] == _MINUS else total, _NONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, counted in years that begin in March."""
    y = year - 1 if month <= 2 else year
    m = month + 9 if month <= 2 else month - 3
    return y * 365 + y // 4 - y // 100 + y // 400 + (153 * m + 2) // 5 + day - 1 - 719_468
