"""What the converter remembers: one row per instrument."""

from __future__ import annotations

from typing import Final

import numpy as np

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


def state_dtype(tail: int) -> np.dtype[np.void]:
    """A row of state; `tail` is the number of last bars kept of each timeframe, newest last.

    Times are NULL where there is none. open_*: the bars still open. held_*: the event that jumped.
    """
    return np.dtype(
        [
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
            ("tail_bits", "u1", (N_TIMEFRAMES, tail)),
            ("tail_close", "<i4", (N_TIMEFRAMES, tail)),
            ("tail_time_s", "<i8", (N_TIMEFRAMES, tail)),
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
        ]
    )
