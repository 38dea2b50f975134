"""Bars in the binary format of PostgreSQL's COPY: whole columns at once, exact."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import StateError
from sep_stream.market.instruments import UNITS_PER_ONE, Instruments
from sep_stream.market.timeframes import TIMEFRAMES, US_PER_S

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
WRITTEN_COLUMNS: Final = (
    "pair", "timeframe", '"timestamp"', "bar_index", "open", "high", "low", "close", "volume", "spread",
)  # fmt: skip

_PRICES: Final = ("open", "high", "low", "close")
_EPOCH_2000_S: Final = 946_684_800
"""PostgreSQL counts from the year 2000."""
_BASE: Final = 10_000
"""A numeric is digits of this base: `weight` + 1 of them before the point, and its sign."""
_FRACTION_DIGITS: Final = 3
"""They hold nine decimals, the last one in thousands."""
_LAST: Final = 1_000
_PRICE_DIGITS: Final = 3
"""Before the point of numeric(18,9)."""
_VOLUME_DIGITS: Final = 8
"""Of numeric(38,9)."""


def encode_bars(bars: npt.NDArray[np.void], instruments: Instruments) -> bytes:
    """Rows (b,) BAR_DTYPE as a whole COPY of WRITTEN_COLUMNS, in the order of the table's key: who writes the same
    rows in another transaction waits, and no two wait for each other."""
    symbols = np.array(instruments.symbols)
    lanes = sorted(
        (symbols[instrument], TIMEFRAMES[timeframe], instrument, timeframe)
        for instrument, timeframe in set(zip(bars["instrument"].tolist(), bars["timeframe"].tolist(), strict=True))
    )
    parts = []
    for symbol, name, instrument, timeframe in lanes:
        lane = bars[(bars["instrument"] == instrument) & (bars["timeframe"] == timeframe)]
        lane = lane[np.argsort(lane["open_time_s"], kind="stable")]
        parts.append(_encode_lane(lane, str(symbol), name, int(instruments.tick_units[instrument])))
    return b"".join([HEADER, *parts, TRAILER])


def _encode_lane(lane: npt.NDArray[np.void], symbol: str, timeframe: str, tick_units: int) -> bytes:
    words = {"pair": symbol.encode(), "timeframe": timeframe.encode()}
    rows = np.zeros(len(lane), _row_dtype(words))
    rows["columns"] = len(WRITTEN_COLUMNS)
    for name, word in words.items():
        rows[name]["bytes"], rows[name]["value"] = len(word), word
    for name, values in (
        ("timestamp", (lane["open_time_s"] - _EPOCH_2000_S) * US_PER_S),
        ("bar_index", lane["index"]),
    ):
        rows[name]["bytes"], rows[name]["value"] = 8, values
    for name in _PRICES:
        _fill_numeric(rows[name], *np.divmod(lane[name] * np.int64(tick_units), UNITS_PER_ONE))
    _fill_numeric(rows["volume"], lane["volume_units"], lane["volume_nanos"])
    told = lane["spread"] >= 0
    _fill_numeric(rows["spread"], *np.divmod(np.where(told, lane["spread"], 0) * tick_units, UNITS_PER_ONE))
    return _without_value(rows, ~told)


def _row_dtype(words: dict[str, bytes]) -> np.dtype[np.void]:
    """A row with every field of its greatest length, spread last."""
    word = {name: np.dtype([("bytes", ">i4"), ("value", f"S{len(word)}")]) for name, word in words.items()}
    long = np.dtype([("bytes", ">i4"), ("value", ">i8")])
    price, volume = _numeric_dtype(_PRICE_DIGITS), _numeric_dtype(_VOLUME_DIGITS)
    columns: list[Any] = [("columns", ">i2"), *word.items(), ("timestamp", long), ("bar_index", long)]
    return np.dtype([*columns, *((name, price) for name in _PRICES), ("volume", volume), ("spread", price)])


def _numeric_dtype(whole_digits: int) -> np.dtype[np.void]:
    names = ("digit_count", "weight", "sign", "scale")
    digits = ("digits", ">i2", (whole_digits + _FRACTION_DIGITS,))
    return np.dtype([("bytes", ">i4"), *((name, ">i2") for name in names), digits])


def _fill_numeric(column: npt.NDArray[np.void], whole: npt.NDArray[Any], nanos: npt.NDArray[Any]) -> None:
    """Write whole + nanos * 1e-9 with leading zeros: the server strips them."""
    digits = column["digits"]
    whole_digits = digits.shape[1] - _FRACTION_DIGITS
    if (whole < 0).any():
        raise StateError("bars: a price, spread or volume is negative; the converter lets none through")
    column["bytes"] = column.dtype.itemsize - 4
    column["digit_count"], column["weight"], column["scale"] = digits.shape[1], whole_digits - 1, 9
    for k in reversed(range(whole_digits)):
        whole, digits[:, k] = np.divmod(whole, _BASE)
        if not whole.any():
            break
    digits[:, whole_digits] = nanos // 10**5
    digits[:, whole_digits + 1] = nanos // 10 % _BASE
    digits[:, whole_digits + 2] = nanos % 10 * _LAST


def _without_value(rows: npt.NDArray[np.void], null: npt.NDArray[np.bool_]) -> bytes:
    """The rows' bytes, with no value of the last field where it is null."""
    if not null.any():
        return rows.tobytes()
    rows["spread"]["bytes"][null] = -1
    table = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
    kept = rows.itemsize - (rows.dtype["spread"].itemsize - 4)
    if null.all():
        return np.ascontiguousarray(table[:, :kept]).tobytes()
    there = np.ones(table.shape, np.bool_)
    there[null, kept:] = False
    return table[there].tobytes()
