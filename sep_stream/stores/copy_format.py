"""Bars in the binary format of PostgreSQL's COPY, exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import StateError
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import TIMEFRAMES, US_PER_S

COLUMNS: Final = (
    "pair", "timeframe", '"timestamp"', "bar_index", "open", "high", "low", "close", "volume", "spread",
)  # fmt: skip

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NOT_NEGATIVE: Final = ("open", "high", "low", "close", "volume_units", "volume_nanos")
_EPOCH_2000_S: Final = 946_684_800
"""PostgreSQL counts from the year 2000."""
_BASE: Final = 10_000
"""A numeric is digits of this base, big-endian: `weight` + 1 of them before the point."""
_SCALE: Final = 9
_NUMERIC_BYTES_MAX: Final = 12 + 2 * 8
"""Length, four words of head, five digits of an int64 and three of the nine decimals."""
_FIXED_BYTES_MAX: Final = 2 + 2 * 4 + 2 * 12 + 6 * _NUMERIC_BYTES_MAX
"""Of a row, without the text of pair and timeframe."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Bars of one instrument and timeframe by time. bars: (n,) BAR_DTYPE, at least one"""

    symbol: str
    timeframe: str
    tick_units: int
    bars: npt.NDArray[np.void]


def lanes(bars: npt.NDArray[np.void], instruments: Instruments) -> list[Lane]:
    """Rows (b,) BAR_DTYPE in the order of the table's key: who writes the same rows in another transaction waits, and
    no two wait for each other."""
    code = bars["instrument"].astype(np.int64) * len(TIMEFRAMES) + bars["timeframe"]
    found = []
    for lane in np.unique(code).tolist():
        position, timeframe = divmod(lane, len(TIMEFRAMES))
        rows = bars[code == lane]
        rows = rows[np.argsort(rows["open_time_s"], kind="stable")]
        instrument = instruments[position]
        found.append(Lane(instrument.symbol, TIMEFRAMES[timeframe], instrument.tick_units, rows))
    return sorted(found, key=lambda lane: (lane.symbol, lane.timeframe))


def encode(parts: Sequence[Lane]) -> bytes:
    """A whole COPY of COLUMNS. StateError for a negative price or volume."""
    return b"".join([_HEADER, *map(_encode, parts), _TRAILER])


def _encode(lane: Lane) -> bytes:
    if any((lane.bars[name] < 0).any() for name in _NOT_NEGATIVE):
        raise StateError("bars: a price or volume is negative; the converter lets none through")
    symbol, timeframe = lane.symbol.encode(), lane.timeframe.encode()
    out = np.empty(len(lane.bars) * (_FIXED_BYTES_MAX + len(symbol) + len(timeframe)), np.uint8)
    words = (np.frombuffer(word, np.uint8) for word in (symbol, timeframe))
    return out[: _encode_lane(lane.bars, *words, lane.tick_units, out)].tobytes()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _encode_lane(lane: Any, pair: Any, timeframe: Any, tick_units: int, out: Any) -> int:
    """Rows of one instrument and timeframe into out, which is long enough; how many bytes they take."""
    at = 0
    for k in range(len(lane)):
        bar = lane[k]
        at = _put(out, at, 10, 2)
        for word in (pair, timeframe):
            at = _put(out, at, len(word), 4)
            out[at : at + len(word)] = word
            at += len(word)
        at = _put(out, _put(out, at, 8, 4), (bar.open_time_s - _EPOCH_2000_S) * US_PER_S, 8)
        at = _put(out, _put(out, at, 8, 4), bar.index, 8)
        for points in (bar.open, bar.high, bar.low, bar.close):
            at = _put_units(out, at, points * tick_units)
        at = _put_numeric(out, at, bar.volume_units, bar.volume_nanos)
        at = _put(out, at, -1, 4) if bar.spread < 0 else _put_units(out, at, bar.spread * tick_units)
    return at


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put(out: Any, at: int, value: int, size: int) -> int:
    """Write an integer big-endian; where the next value goes."""
    for k in range(size):
        out[at + k] = value >> 8 * (size - 1 - k) & 0xFF
    return at + size


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put_units(out: Any, at: int, units: int) -> int:
    return _put_numeric(out, at, units // UNITS_PER_ONE, units % UNITS_PER_ONE)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _put_numeric(out: Any, at: int, whole: int, nanos: int) -> int:
    """Write whole + nanos * 1e-9, both not negative, without idle zeros."""
    count, rest = 0, whole
    while rest:
        count, rest = count + 1, rest // _BASE
    last = nanos % 10 * 1_000  # the ninth decimal
    middle, first = nanos // 10 % _BASE, nanos // 100_000
    decimals = 3 if last else 2 if middle else 1 if first else 0
    at = _put(out, at, 8 + 2 * (count + decimals), 4)
    for value in (count + decimals, count - 1, 0, _SCALE):
        at = _put(out, at, value, 2)
    for k in range(count - 1, -1, -1):
        _put(out, at + 2 * k, whole % _BASE, 2)
        whole //= _BASE
    at += 2 * count
    for k, digit in enumerate((first, middle, last)):
        if k < decimals:
            at = _put(out, at, digit, 2)
    return at
