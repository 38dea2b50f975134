"""Closed bars side by side with those before them, and the windows that they complete. sep-metrics/1, section 3.

Compiled: as array operations, lane by lane, it would cost more than all else for a batch of one bar.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from sep_stream.convert.state import N_TIMEFRAMES, WINDOW_DTYPE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def extend(state: Any, tails: Any, bars: Any, window_bars: int, forward: int) -> Any:
    """(bits, close, open_time_s, model, windows): the columns of a Series and the WINDOW_DTYPE rows of new bars.

    state: (instruments,) STATE_DTYPE, its counts those after the bars · tails: those before them, which move on
    bars: (b,) BAR_DTYPE. The lanes are those of the instruments that have a bar among them.
    """
    lanes = len(state) * N_TIMEFRAMES
    new = np.zeros(lanes, np.int64)
    for b in range(len(bars)):
        new[bars[b].instrument * N_TIMEFRAMES + bars[b].timeframe] += 1
    carried, at = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
    base = np.zeros(lanes, np.int64)  # position of a lane's bar 0, were it there
    length = 0
    for i in range(len(state)):
        first = i * N_TIMEFRAMES
        if new[first : first + N_TIMEFRAMES].sum() == 0:
            continue
        for tf in range(N_TIMEFRAMES):
            before = state[i].count[tf] - new[first + tf]
            carried[first + tf] = min(before, window_bars)
            at[first + tf] = length + carried[first + tf]
            base[first + tf] = at[first + tf] - before
            length = at[first + tf] + new[first + tf]
    bits, close = np.empty(length, np.uint8), np.empty(length, np.int32)
    open_time_s, model = np.empty(length, np.int64), np.full(length, -1, np.int32)
    for lane in range(lanes):
        i, tf, kept = lane // N_TIMEFRAMES, lane % N_TIMEFRAMES, carried[lane]
        for k in range(kept):
            to, of = at[lane] - kept + k, window_bars - kept + k
            bits[to], close[to] = tails.bits[i, tf, of], tails.close[i, tf, of]
            open_time_s[to] = tails.time_s[i, tf, of]
        if kept > 0:
            model[at[lane] - 1] = state[i].tail_model[tf]
    windows, n = np.empty(len(bars), WINDOW_DTYPE), 0
    for b in range(len(bars)):
        bar = bars[b]
        lane = bar.instrument * N_TIMEFRAMES + bar.timeframe
        to = at[lane]
        bits[to], close[to], open_time_s[to], model[to] = bar.bit, bar.close, bar.open_time_s, bar.model
        at[lane] += 1
        if bar.index >= window_bars - 1:
            window = windows[n]
            window.bar, window.anchor, window.m5, window.m15 = b, base[lane] + bar.index - forward, -1, -1
            if bar.timeframe == 0:
                if bar.m5_count >= window_bars:
                    window.m5 = base[lane + 1] + bar.m5_count - 1 - forward
                if bar.m15_count >= window_bars:
                    window.m15 = base[lane + 2] + bar.m15_count - 1 - forward
            n += 1
    for lane in range(lanes):
        if new[lane] == 0:
            continue
        i, tf, kept = lane // N_TIMEFRAMES, lane % N_TIMEFRAMES, min(carried[lane] + new[lane], window_bars)
        for k in range(kept):
            to, of = window_bars - kept + k, at[lane] - kept + k
            tails.bits[i, tf, to], tails.close[i, tf, to] = bits[of], close[of]
            tails.time_s[i, tf, to] = open_time_s[of]
        state[i].tail_model[tf] = model[at[lane] - 1]
    return bits, close, open_time_s, model, windows[:n].copy()
