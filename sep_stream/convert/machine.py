"""The state machine over events: one pass, in log order. sep-metrics/1, section 1.

Everything here is Numba over rows of STATE_DTYPE; `converter` wraps it.
"""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

from sep_stream.convert.encodings import next_bit
from sep_stream.convert.state import BAR_DTYPE, N_TIMEFRAMES, PRICE_DTYPE
from sep_stream.market.events import NULL, Kind, Reason
from sep_stream.market.instruments import UNITS_PER_ONE
from sep_stream.market.timeframes import DURATION_US, MINUTE_US, US_PER_S

HELD: Final = 250
"""A row's outcome while the event waits for the next one of its instrument, and after that one has refused it."""
IGNORED: Final = 251
"""A row's outcome where a heartbeat brought nothing new."""

_BARS_PER_EVENT_MAX: Final = 12  # a candle can close all three timeframes twice, and a held event as much before it
_OK, _DUPLICATE, _LATE = int(Reason.OK), int(Reason.DUPLICATE), int(Reason.LATE)
_QUOTE, _TRADE, _BAR, _HEARTBEAT, _MODEL = (
    int(k) for k in (Kind.QUOTE, Kind.TRADE, Kind.BAR, Kind.HEARTBEAT, Kind.MODEL)
)
_DURATIONS: Final = np.array(DURATION_US, np.int64)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run(
    state: Any, last_sequence: Any, last_time_us: Any, priced_by_trades: Any, instrument: Any, kind: Any,
    event_time: Any, sequence: Any, source: Any, model: Any, offset: Any, checked: Any, deadband: int,
    max_jump_us: int, reason: Any, held_row: Any,
) -> Any:  # fmt: skip
    """Feed the rows whose reason is OK; reasons are updated in place.

    last_sequence, last_time_us: (instruments, sources) int64 · held_row: (instruments,) int64, -1 where the held
    event is not of this batch. Returns the closed BAR_DTYPE rows; the refused held events as (m, 3) int64: instrument,
    row in this batch or -1, offset; the rows (r,) int64 whose reason is now one to refuse them for; and the PRICE_DTYPE
    rows of the instruments whose price is news.
    """
    price_before = np.empty((len(state), 3), np.int64)
    for i in range(len(state)):
        st = state[i]
        price_before[i, 0], price_before[i, 1], price_before[i, 2] = st.price_time_us, st.price, st.price_spread
    bars = np.empty(1024, BAR_DTYPE)
    n_bars = 0
    refused = np.empty((16, 3), np.int64)
    n_refused = 0
    for k in range(len(kind)):
        if reason[k] != _OK:
            continue
        i = instrument[k]
        st = state[i]
        if kind[k] == _MODEL:
            st.model = model[k]
            continue
        t, seq, src = event_time[k], sequence[k], source[k]
        if seq != NULL and seq <= last_sequence[i, src] and t <= last_time_us[i, src]:
            reason[k] = _DUPLICATE
            continue
        if n_bars + _BARS_PER_EVENT_MAX > len(bars):
            bars = _grown_bars(bars)
        confirmed = False
        if st.held:
            refuses = _refuses_held(st, kind[k], t, max_jump_us)
            # duplicate: metrics.md 1, against the source's last as it will be once the held event is processed
            repeats = seq != NULL and src == st.held_source and seq <= st.held_sequence and t <= st.held_time_us
            if repeats and not refuses:
                reason[k] = _DUPLICATE
                continue
            st.held = 0
            if refuses:
                if n_refused == len(refused):
                    refused = _grown_refused(refused)
                refused[n_refused, 0], refused[n_refused, 1], refused[n_refused, 2] = i, held_row[i], st.held_offset
                n_refused += 1
            else:
                confirmed = st.watermark_us != NULL  # a first event says nothing of how far ahead the next may be
                if st.held_sequence != NULL:
                    last_sequence[i, st.held_source] = st.held_sequence
                    last_time_us[i, st.held_source] = max(last_time_us[i, st.held_source], st.held_time_us)
                n_bars = _apply(
                    st, i, k, st.held_kind, st.held_time_us, st.held_event, st.held_model, priced_by_trades[i],
                    deadband, bars, n_bars,
                )  # fmt: skip
                if held_row[i] >= 0:
                    reason[held_row[i]] = _OK
        # jump: metrics.md 1; without a watermark, of the first event, any time is one
        if not confirmed and (st.watermark_us == NULL or t - st.watermark_us > max_jump_us):
            _hold(st, kind[k], t, seq, src, offset[k], checked[k])
            held_row[i] = k
            reason[k] = HELD
            continue
        if kind[k] == _HEARTBEAT:
            if t <= st.watermark_us:
                reason[k] = IGNORED
                continue
        elif t < st.watermark_us // MINUTE_US * MINUTE_US:
            reason[k] = _LATE
            continue
        if seq != NULL:
            last_sequence[i, src] = seq
            last_time_us[i, src] = max(last_time_us[i, src], t)
        n_bars = _apply(
            st, i, k, kind[k], t, checked[k], st.model, priced_by_trades[i], deadband, bars, n_bars
        )  # fmt: skip
    return bars[:n_bars].copy(), refused[:n_refused].copy(), _rejected(reason), _news(state, price_before)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _rejected(reason: Any) -> Any:
    rows, n = np.empty(len(reason), np.int64), 0
    for k in range(len(reason)):
        if reason[k] != _OK and reason[k] != _DUPLICATE and reason[k] < HELD:
            rows[n] = k
            n += 1
    return rows[:n].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _news(state: Any, before: Any) -> Any:
    prices, n = np.empty(len(state), PRICE_DTYPE), 0
    for i in range(len(state)):
        st = state[i]
        time_us, price, spread = st.price_time_us, st.price, st.price_spread
        if time_us == before[i, 0] and price == before[i, 1] and spread == before[i, 2]:
            continue
        out = prices[n]
        out.instrument, out.time_us, out.price, out.bid, out.ask = i, time_us, price, NULL, NULL
        if spread >= 0:  # the mid is floor((bid + ask + 1) / 2), which gives both back
            out.bid = price - (spread + 1) // 2
            out.ask = out.bid + spread
        n += 1
    return prices[:n].copy()


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grown_bars(bars: Any) -> Any:
    # One by one: Numba takes seconds to compile the assignment of a slice.
    grown = np.empty(2 * len(bars), BAR_DTYPE)
    for k in range(len(bars)):
        grown[k] = bars[k]
    return grown


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grown_refused(refused: Any) -> Any:
    grown = np.empty((2 * len(refused), 3), np.int64)
    for k in range(len(refused)):
        grown[k, 0], grown[k, 1], grown[k, 2] = refused[k, 0], refused[k, 1], refused[k, 2]
    return grown


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _refuses_held(st: Any, kind: int, t: int, max_jump_us: int) -> bool:
    """Whether an event of this time shows that the held one's is wrong: it is not far ahead of the watermark as well,
    or the held one is the first and would be far ahead of this one."""
    if st.watermark_us != NULL:
        return bool(t - st.watermark_us <= max_jump_us)
    told_us = t + MINUTE_US if kind == _BAR else t
    return bool(st.held_time_us - told_us > max_jump_us)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _hold(st: Any, kind: int, t: int, seq: int, src: int, offset: int, event: Any) -> None:
    st.held = 1
    st.held_kind = kind
    st.held_model = st.model
    st.held_time_us = t
    st.held_sequence = seq
    st.held_source = src
    st.held_offset = offset
    _copy(st.held_event, event)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _copy(to: Any, of: Any) -> None:
    to.open = of.open
    to.high = of.high
    to.low = of.low
    to.close = of.close
    to.spread = of.spread
    to.volume_units = of.volume_units
    to.volume_nanos = of.volume_nanos


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _apply(
    st: Any, i: int, row: int, kind: int, t: int, event: Any, model: int, by_trades: bool, deadband: int,
    bars: Any, n_bars: int,
) -> int:  # fmt: skip
    """An accepted event: time first, then the price."""
    n_bars = _advance(st, i, row, t, model, deadband, bars, n_bars)
    if kind == _BAR:
        st.open_time_us[0] = t
        _copy(st.open_bar[0], event)
        _set_price(st, t + MINUTE_US, event)
        return _advance(st, i, row, t + MINUTE_US, model, deadband, bars, n_bars)
    if kind == (_TRADE if by_trades else _QUOTE):
        _tick(st, t, event)
        _set_price(st, t, event)
    elif kind == _QUOTE and st.open_time_us[0] != NULL:
        st.open_bar[0].spread = event.spread
    return n_bars


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _set_price(st: Any, t: int, event: Any) -> None:
    if t >= st.price_time_us:
        st.price_time_us = t
        st.price = event.close
        st.price_spread = event.spread


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _tick(st: Any, t: int, event: Any) -> None:
    bar = st.open_bar[0]
    price = event.close
    if st.open_time_us[0] == NULL:
        st.open_time_us[0] = t // MINUTE_US * MINUTE_US
        _copy(bar, event)
        bar.open, bar.high, bar.low = price, price, price
        return
    bar.high = max(bar.high, price)
    bar.low = min(bar.low, price)
    bar.close = price
    if event.spread >= 0:
        bar.spread = event.spread
    _add_volume(bar, event)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add_volume(bar: Any, of: Any) -> None:
    nanos = bar.volume_nanos + of.volume_nanos
    bar.volume_units += of.volume_units + nanos // UNITS_PER_ONE
    bar.volume_nanos = nanos % UNITS_PER_ONE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _advance(
    st: Any, i: int, row: int, t: int, model: int, deadband: int, bars: Any, n_bars: int
) -> int:  # fmt: skip
    """Move the watermark to `t` if that is ahead, and close the bars that end by then, in the order of their end,
    the longest first where they end together."""
    if st.watermark_us != NULL and t <= st.watermark_us:
        return n_bars
    st.watermark_us = t
    if st.open_time_us[0] != NULL and st.open_time_us[0] + MINUTE_US <= t:
        _fold(st)
    for _ in range(N_TIMEFRAMES):
        due, due_end = -1, np.int64(0)
        for tf in range(N_TIMEFRAMES):
            end = st.open_time_us[tf] + _DURATIONS[tf]
            if st.open_time_us[tf] != NULL and end <= t and (due < 0 or end <= due_end):
                due, due_end = tf, end
        if due < 0:
            break
        _emit(st, i, row, due, model, deadband, bars, n_bars)
        n_bars += 1
    return n_bars


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fold(st: Any) -> None:
    """Add the M1 bar that closes to the M5 and M15 bars that it lies in."""
    m1 = st.open_bar[0]
    for tf in range(1, N_TIMEFRAMES):
        bar = st.open_bar[tf]
        if st.open_time_us[tf] == NULL:
            st.open_time_us[tf] = st.open_time_us[0] // _DURATIONS[tf] * _DURATIONS[tf]
            _copy(bar, m1)
            continue
        bar.high = max(bar.high, m1.high)
        bar.low = min(bar.low, m1.low)
        bar.close = m1.close
        bar.spread = m1.spread
        _add_volume(bar, m1)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _emit(
    st: Any, i: int, row: int, tf: int, model: int, deadband: int, bars: Any, n_bars: int
) -> None:  # fmt: skip
    bar, out = st.open_bar[tf], bars[n_bars]
    bit = np.uint8(0)
    if st.count[tf] > 0:
        bit = next_bit(bar.close - st.last_close[tf], deadband, st.last_bit[tf])
    out.instrument = i
    out.timeframe = tf
    out.bit = bit
    out.row = row
    out.index = st.count[tf]
    out.open_time_s = st.open_time_us[tf] // US_PER_S
    out.open, out.high, out.low, out.close = bar.open, bar.high, bar.low, bar.close
    out.spread = bar.spread
    out.volume_units = bar.volume_units
    out.volume_nanos = bar.volume_nanos
    out.model = model
    out.m5_count = st.count[1]
    out.m15_count = st.count[2]
    st.last_bit[tf] = bit
    st.last_close[tf] = bar.close
    st.count[tf] += 1
    st.open_time_us[tf] = NULL
