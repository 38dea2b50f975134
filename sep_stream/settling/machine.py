"""The state machine over signals: one pass, in log order.

Everything here is Numba over rows of LANE_DTYPE and PLACE_DTYPE; `settler` wraps it.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

from sep_stream.market.timeframes import DURATION_S

LANE_DTYPE: Final = np.dtype([("last_index", "<i8"), ("last_end_s", "<i8")])
"""The newest bar of an instrument and timeframe; index -1 before the first."""

PLACE_DTYPE: Final = np.dtype(
    [
        ("state", "u1"),
        ("direction", "i1"),
        ("spans_silence", "u1"),
        ("model", "<i4"),
        ("target", "<i8"),
        ("anchor_time_s", "<i8"),
        ("available_at_s", "<i8"),
        ("spread", "<i8"),
        ("entry_time_s", "<i8"),
        ("entry_price", "<i8"),
        ("confidence", "<f8"),
    ]
)
"""A place for a trade. target: index of the bar that ends its horizon · spread, entry_price: points"""

TRADE_DTYPE: Final = np.dtype(
    [
        ("row", "<i8"),
        ("instrument", "<i2"),
        ("timeframe", "u1"),
        ("direction", "i1"),
        ("spans_silence", "?"),
        ("model", "<i4"),
        ("anchor_time_s", "<i8"),
        ("available_at_s", "<i8"),
        ("spread", "<i8"),
        ("entry_time_s", "<i8"),
        ("entry_price", "<i8"),
        ("exit_time_s", "<i8"),
        ("exit_price", "<i8"),
        ("confidence", "<f8"),
    ]
)
"""A closed trade. row: the signal of the batch whose bar ended it · direction: 1 BUY, -1 SELL · spans_silence: its
horizon holds a silence of over SILENCE_S · prices and spread in points, prices after spread and slippage · times in
epoch seconds"""

FREE, WAITS, OPEN = range(3)
COUNTED: Final = ("repeated", "no_entry", "no_room", "exit_missing")
"""What came of signals that were to be traded and gave no trade: seen before; no bar within ENTRY_WAIT_S; as many
trades open as may be; no record of the bar that ends the horizon."""
_REPEATED, _NO_ENTRY, _NO_ROOM, _EXIT_MISSING = range(len(COUNTED))

ENTRY_WAIT_S: Final = 60
"""A bar that opens later than this after the signal comes too late to enter at."""
SILENCE_S: Final = 3_600
"""A longer time without bars is a closed market, not a quiet one."""

_DURATIONS: Final = np.array(DURATION_S, np.int64)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run(
    lanes: Any, places: Any, instrument: Any, timeframe: Any, index: Any, open_time_s: Any, open_price: Any,
    close_price: Any, spread: Any, available_at_s: Any, anchor_time_s: Any, direction: Any, traded: Any,
    confidence: Any, model: Any, horizon: Any, slippage: int, counts: Any,
) -> Any:  # fmt: skip
    """Closed trades (m,) TRADE_DTYPE of signals in log order; lanes (i, 3), places (i, 3, max_open) and counts
    (len(COUNTED),) int64 are updated in place. traded: (n,) bool; the other columns as in SignalRows."""
    trades = np.empty(256, TRADE_DTYPE)
    n = 0
    for k in range(len(index)):
        i, tf, t = instrument[k], timeframe[k], open_time_s[k]
        lane = lanes[i, tf]
        if index[k] <= lane.last_index:
            counts[_REPEATED] += 1
            continue
        if tf == 0:
            _enter(places[i], t, open_price[k], slippage, counts)
        silent = lane.last_index >= 0 and t - lane.last_end_s > SILENCE_S
        lane.last_index, lane.last_end_s = index[k], t + _DURATIONS[tf]
        free = -1
        for s in range(places.shape[2]):
            place = places[i, tf, s]
            if place.state != FREE:
                place.spans_silence |= np.uint8(silent)
                if index[k] < place.target:
                    continue
                if place.state == WAITS:
                    counts[_NO_ENTRY] += 1
                elif index[k] > place.target:
                    counts[_EXIT_MISSING] += 1
                else:
                    if n == len(trades):
                        trades = _doubled(trades)
                    price = _dealt(-place.direction, close_price[k], place.spread, slippage)
                    _write(trades[n], k, i, tf, place, lane.last_end_s, price)
                    n += 1
                place.state = FREE
            if free < 0:
                free = s
        if not traded[k]:
            continue
        if free < 0:
            counts[_NO_ROOM] += 1
            continue
        place = places[i, tf, free]
        place.state, place.direction, place.spans_silence, place.model = WAITS, direction[k], 0, model[k]
        place.target, place.spread = index[k] + horizon[tf], spread[k]
        place.anchor_time_s, place.available_at_s = anchor_time_s[k], available_at_s[k]
        place.entry_time_s, place.entry_price, place.confidence = 0, 0, confidence[k]
    return trades[:n].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _enter(places: Any, t: int, price: int, slippage: int, counts: Any) -> None:
    """Enter what waits, in all timeframes, at the open of an M1 bar."""
    for tf in range(places.shape[0]):
        for s in range(places.shape[1]):
            place = places[tf, s]
            if place.state != WAITS or t < place.available_at_s:
                continue
            if t - place.available_at_s > ENTRY_WAIT_S:
                place.state = FREE
                counts[_NO_ENTRY] += 1
                continue
            place.state, place.entry_time_s = OPEN, t
            place.entry_price = _dealt(place.direction, price, place.spread, slippage)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _dealt(side: int, price: int, spread: int, slippage: int) -> int:
    """Points at which one buys (side 1) or sells (-1) when the price is the mid."""
    ask = price + spread // 2
    return ask + slippage if side > 0 else ask - spread - slippage


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _doubled(trades: Any) -> Any:
    larger = np.empty(2 * len(trades), TRADE_DTYPE)
    for k in range(len(trades)):  # one by one: see `convert.machine`
        larger[k] = trades[k]
    return larger


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _write(trade: Any, row: int, i: int, tf: int, place: Any, exit_time_s: int, exit_price: int) -> None:
    trade.row, trade.instrument, trade.timeframe = row, i, tf
    trade.direction, trade.spans_silence, trade.model = place.direction, place.spans_silence != 0, place.model
    trade.anchor_time_s, trade.available_at_s = place.anchor_time_s, place.available_at_s
    trade.spread, trade.confidence = place.spread, place.confidence
    trade.entry_time_s, trade.entry_price = place.entry_time_s, place.entry_price
    trade.exit_time_s, trade.exit_price = exit_time_s, exit_price
