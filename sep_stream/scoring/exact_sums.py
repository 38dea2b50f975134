"""Sums of the columns of large arrays, each rounded once: what math.fsum gives, at a few nanoseconds a value."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

# A column's sum is kept as one wide integer in units of the least float64, 2^-1074, by digits to the base 2^32. A digit
# is an int64 and may outgrow its 32 bits until carries are taken. After R. M. Neal, "Fast exact summation using small
# and large superaccumulators" (2015).
_DIGIT_BITS: Final = 32
_DIGIT_BITS_LOG2: Final = 5
_DIGIT_MASK: Final = (1 << _DIGIT_BITS) - 1
_DIGITS: Final = 66
"""A float64 ends below bit 2098, a sum of 2^40 of them below bit 2138; the last digit keeps its sign and all above."""
_SPOILED: Final = _DIGITS
"""A place after the digits: not 0 where a column holds a NaN or an infinity."""
_ROWS_PER_CARRY: Final = 1024
"""A value adds less than 2^52 to a digit: this many stay below 2^63 with what was left there."""
_LEAST_BITS: Final = 1074

_MANTISSA_BITS: Final = 52
_MANTISSA_MASK: Final = (1 << _MANTISSA_BITS) - 1
_EXPONENT_MAX: Final = 0x7FF


def column_sums(values: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The sum (d,) float64 of each column of values (n, d), float32 widened: that of math.fsum, to the bit.

    NaN for a column that holds a NaN or an infinity. Raises OverflowError for a sum that no float64 can hold.
    """
    digits = np.zeros((values.shape[1], _DIGITS + 1), np.int64)
    _add_values(values, digits)
    return _rounded(digits)


def column_square_sums(
    values: npt.NDArray[np.float32] | npt.NDArray[np.float64], centre: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The sum (d,) float64 of (x - centre)² over each column of values (n, d), as `column_sums`.

    Differences and squares are rounded to float64, their sum once.
    """
    digits = np.zeros((values.shape[1], _DIGITS + 1), np.int64)
    _add_square_deviations(values, centre, digits)
    return _rounded(digits)


def _rounded(digits: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The float64 nearest to each row of digits, ties to even: so divides Python two integers."""
    sums = np.empty(len(digits))
    for d, (*column, spoiled) in enumerate(digits.tolist()):
        total = sum(digit << (_DIGIT_BITS * place) for place, digit in enumerate(column) if digit)
        sums[d] = np.nan if spoiled else total / (1 << _LEAST_BITS)
    return sums


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add_values(values: Any, digits: Any) -> None:
    for start in range(0, len(values), _ROWS_PER_CARRY):
        for row in range(start, min(start + _ROWS_PER_CARRY, len(values))):
            for d in range(len(digits)):
                _add(np.float64(values[row, d]), digits, d)
        _carry(digits)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add_square_deviations(values: Any, centre: Any, digits: Any) -> None:
    for start in range(0, len(values), _ROWS_PER_CARRY):
        for row in range(start, min(start + _ROWS_PER_CARRY, len(values))):
            for d in range(len(digits)):
                deviation = np.float64(values[row, d]) - centre[d]
                _add(deviation * deviation, digits, d)
        _carry(digits)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add(x: Any, digits: Any, d: int) -> None:
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> _MANTISSA_BITS) & _EXPONENT_MAX
    mantissa = bits & _MANTISSA_MASK
    if exponent == _EXPONENT_MAX:
        digits[d, _SPOILED] = 1
    if exponent > 0:
        mantissa |= 1 << _MANTISSA_BITS
        exponent -= 1
    # The value is mantissa * 2^exponent of the least ones; its bits past the low digit go into the next.
    place, shift = exponent >> _DIGIT_BITS_LOG2, exponent & (_DIGIT_BITS - 1)
    low = (mantissa << shift) & _DIGIT_MASK
    high = mantissa >> (_DIGIT_BITS - shift)
    if bits < 0:
        low, high = -low, -high
    digits[d, place] += low
    digits[d, place + 1] += high


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _carry(digits: Any) -> None:
    """Bring all digits but the last into 0 … 2^32 - 1."""
    for d in range(len(digits)):
        for place in range(_DIGITS - 1):
            digits[d, place + 1] += digits[d, place] >> _DIGIT_BITS
            digits[d, place] &= _DIGIT_MASK
