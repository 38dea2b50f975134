"""What the converter remembers: one row per instrument, and its last bars."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sep_stream.convert.rules import CHECKED_DTYPE

N_TIMEFRAMES: Final = 3

BAR_DTYPE: Final = np.dtype(
    [
        ("instrument", "<i2"),
        ("timeframe", "u1"),
        ("bit", "u1"),
        ("row", "<i4"),
        ("index", "<i8"),
        ("open_time_s", "<i8"),
        ("open", "<i4"),
        ("high", "<i4"),
        ("low", "<i4"),
        ("close", "<i4"),
        ("spread", "<i8"),
        ("volume_units", "<i8"),
        ("volume_nanos", "<i8"),
        ("model", "<i4"),
        ("m5_count", "<i8"),
        ("m15_count", "<i8"),
    ]
)
"""A closed bar. Prices and spread in points (spread -1: none told); row: the event of the batch that closed it;
model: position in the converter's models, -1 none; m5_count, m15_count: bars of those closed before it."""

WINDOW_DTYPE: Final = np.dtype([("bar", "<i8"), ("anchor", "<i8"), ("m5", "<i8"), ("m15", "<i8")])
"""A complete window: the row of the bar that completed it, its anchor's position in the series, and for M1 the
anchors of the newest complete M5 and M15 windows (-1 where there is none)."""

PRICE_DTYPE: Final = np.dtype(
    [("instrument", "<i2"), ("time_us", "<i8"), ("price", "<i8"), ("bid", "<i8"), ("ask", "<i8")]
)
"""An instrument's newest price, by event time the later of equal ones, in points; bid and ask NULL where not told."""


_FIELDS: Final[tuple[tuple[Any, ...], ...]] = (
    ("watermark_us", "<i8"),
    ("model", "<i4"),
    # the open bars
    ("open_time_us", "<i8", (N_TIMEFRAMES,)),
    ("open_bar", CHECKED_DTYPE, (N_TIMEFRAMES,)),
    # the closed bars
    ("count", "<i8", (N_TIMEFRAMES,)),
    ("last_bit", "u1", (N_TIMEFRAMES,)),
    ("last_close", "<i4", (N_TIMEFRAMES,)),
    ("tail_model", "<i4", (N_TIMEFRAMES,)),
    # the event that is held until the next one tells whether time has jumped
    ("held", "u1"),
    ("held_kind", "u1"),
    ("held_model", "<i4"),
    ("held_time_us", "<i8"),
    ("held_sequence", "<i8"),
    ("held_source", "<i4"),
    ("held_offset", "<i8"),
    ("held_event", CHECKED_DTYPE),
    # the newest price
    ("price_time_us", "<i8"),
    ("price", "<i8"),
    ("price_spread", "<i8"),
)
_TAIL_FIELDS: Final = (("tail_bits", "u1"), ("tail_close", "<i4"), ("tail_time_s", "<i8"))

STATE_DTYPE: Final = np.dtype(list(_FIELDS))
"""A row of state. Times are NULL where there is none. open_*: the bars still open. held_*: the event that jumped.

The last bars of each timeframe are kept beside it, in `Tails`: their number is a parameter, and compiled code is made
for one dtype.
"""


class Tails(NamedTuple):
    """The last closed bars, (instruments, N_TIMEFRAMES, tail) each, the newest last: bits uint8, closes int32 points,
    open times int64 seconds."""

    bits: npt.NDArray[Any]
    close: npt.NDArray[Any]
    time_s: npt.NDArray[Any]

    @classmethod
    def empty(cls, instruments: int, tail: int) -> Tails:
        """Return tails of zeros."""
        return cls(*(np.zeros((instruments, N_TIMEFRAMES, tail), dtype) for _, dtype in _TAIL_FIELDS))


def saved_dtype(tail: int) -> np.dtype[np.void]:
    """Return the dtype of an instrument's row in a snapshot: its state with its tails."""
    at = 1 + [name for name, *_ in _FIELDS].index("tail_model")
    tails = [(name, dtype, (N_TIMEFRAMES, tail)) for name, dtype in _TAIL_FIELDS]
    return np.dtype([*_FIELDS[:at], *tails, *_FIELDS[at:]])


def joined(rows: npt.NDArray[np.void], tails: Tails) -> npt.NDArray[np.void]:
    """Return rows (n,) of STATE_DTYPE and their tails as rows of `saved_dtype`."""
    saved = np.zeros(len(rows), saved_dtype(tails.bits.shape[-1]))
    for name in STATE_DTYPE.names or ():
        saved[name] = rows[name]
    for (name, _), values in zip(_TAIL_FIELDS, tails, strict=True):
        saved[name] = values
    return saved


def parted(saved: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], Tails]:
    """Return the rows and the tails of rows (n,) of `saved_dtype`."""
    rows = np.zeros(len(saved), STATE_DTYPE)
    for name in STATE_DTYPE.names or ():
        rows[name] = saved[name]
    return rows, Tails(*(saved[name] for name, _ in _TAIL_FIELDS))
