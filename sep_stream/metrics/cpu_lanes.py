"""Neighbouring windows side by side: each lane of a block is one window, each step one loop over the lanes.

What makes it fast: the (H, C) of all counts in a table, one state buffer with fixed offsets (so that LLVM sees that
its rows don't overlap), gathers in loops of their own, and counts as differences of prefix sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.metrics.columns import Shape
from sep_stream.metrics.cpu_scalar import clamp_lambda, fill_qbsa, is_correction, measure
from sep_stream.metrics.params import WindowParams
from sep_stream.metrics.tables import Tables, tables

LANES: Final = 256
"""Windows per block: the state stays in the first-level cache."""

SEGMENT_WINDOWS: Final = 8192
"""Windows per set of prefix sums: they stay in cache, and their counts far below 32 bits."""

TABLE_BYTES_MAX: Final = 64 * 2**20
"""Longer windows, whose table would be larger, take the scalar form."""

_PADDING: Final = 4
"""Keeps a table's rows off a power of two, which would put them on the same cache lines."""

_TRAIL_END: Final = 3 * LANES + 8
"""One step's D of all lanes; a cache line more than needed, for the reason of _PADDING."""

# Rows of the state buffer, LANES values each.
_A, _X, _V, _RUN, _SETTLED, _RUPTURES, _DH, _DC, _DS, _STATE_END = (k * LANES for k in range(10))


def table_bytes(params: WindowParams) -> int:
    """Size of the table that windows of this length need."""
    return (params.forward + 1) * params.window_bars * _row_length(params.window_bars) * 16


def _row_length(window_bars: int) -> int:
    return window_bars + _PADDING


@lru_cache(maxsize=2)
def hc_table(history: int, forward: int) -> npt.NDArray[np.complex128]:
    """(H, C) as the two halves of a complex (forward + 1, …): [s, n1 * row + n2] for the events up to step s."""
    bars = history + forward
    table = tables(bars - 1)
    out = np.zeros((forward + 1, bars * _row_length(bars)), np.complex128)
    _fill_hc(out, history, _row_length(bars), table.t, table.r, table.i)
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_hc(out: Any, history: int, row: int, t: Any, r: Any, i: Any) -> None:
    for s in range(len(out)):
        n = history - 1 + s
        for n1 in range(n + 1):
            for n2 in range(n + 1 - n1):
                h, c, _ = measure(n1, n2, n, t, r[n], i[n])
                out[s, n1 * row + n2] = complex(h, c)


def compute(
    bits: Any, points: Any, first_anchor: int, count: int, first_row: int, shape: Shape, hc: Any, table: Tables,
    out: Any,
) -> None:  # fmt: skip
    """Fill `count` rows of `out` from `first_row` with the windows at the anchors from `first_anchor`. hc: hc_table"""
    bars = shape.history + shape.forward
    for done in range(0, count, SEGMENT_WINDOWS):
        size = min(SEGMENT_WINDOWS, count - done)
        start = first_anchor + done - shape.history + 1
        part = slice(start, start + size + bars - 1)
        _segment(
            bits[part], points[part], size, first_row + done, shape, hc, _row_length(bars), table.i, table.e, out
        )  # fmt: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _segment(
    bits: Any, points: Any, count: int, first_row: int, shape: Shape, hc: Any, row: int, i: Any, e: Any, out: Any
) -> None:
    length = len(bits) + LANES
    packed, ruptures = np.empty(length, np.int32), np.empty(length)
    corrections, prices = np.empty(length, np.int32), np.empty(length)
    _prefix_sums(bits, points, row, packed, ruptures, corrections, prices)
    state, trail = np.empty(_STATE_END), np.empty((shape.forward + 1, _TRAIL_END))
    pair = np.empty(LANES, np.complex128)
    for w in range(0, count, LANES):
        size = min(LANES, count - w)
        end = w + shape.history - 1
        _start(state, trail, pair, packed, ruptures, w, end, hc, i[shape.history - 1], e)
        _store_start(trail[0], first_row + w, size, out)
        for s in range(1, shape.forward + 1):
            _gather(pair, packed[end + s :], packed[w:], hc[s])
            _count(state, ruptures[end + s :], ruptures[w:])
            _damp(state, pair, trail[s], i[shape.history - 1 + s], float(s), shape.eps, float(shape.hold))
        for j in range(shape.forward, 0, -1):
            _add_potential(state, prices[end + j :], prices[end:])
        _store(state, trail, packed, corrections, w, first_row + w, size, shape, row, i, out)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _prefix_sums(bits: Any, points: Any, row: int, packed: Any, ruptures: Any, corrections: Any, prices: Any) -> None:
    """Sums up to each bit: of events as n1 * row + n2, of ruptures, and of the corrections at every fourth bit.

    Past the last bit they stay as they are: there lie the lanes of a block that have no window.
    """
    n = len(bits)
    packed[0], ruptures[0], prices[0] = 0, 0.0, points[0]
    for j in range(1, n):
        rupture = np.int32(bits[j - 1] & bits[j])
        packed[j] = packed[j - 1] + np.int32(bits[j - 1] ^ bits[j]) * np.int32(row) + rupture
        ruptures[j] = ruptures[j - 1] + rupture
        prices[j] = points[j]
    corrections[:8] = 0
    for j in range(8, n):
        corrections[j] = corrections[j - 4] + is_correction(bits, j)
    for j in range(n, len(packed)):
        packed[j], ruptures[j], prices[j], corrections[j] = packed[n - 1], ruptures[n - 1], prices[n - 1], 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _gather(pair: Any, to: Any, since: Any, hc: Any) -> None:
    for w in range(LANES):
        pair[w] = hc[np.uint32(to[w] - since[w])]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _count(state: Any, to: Any, since: Any) -> None:
    for w in range(LANES):
        state[_RUPTURES + w] = to[w] - since[w]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _start(
    state: Any, trail: Any, pair: Any, packed: Any, ruptures: Any, w: int, end: int, hc: Any, i_n: float, e: Any
) -> None:
    """Metrics of the histories, and the decay that follows from them."""
    _gather(pair, packed[end:], packed[w:], hc[0])
    _count(state, ruptures[end:], ruptures[w:])
    for k in range(LANES):
        h, c = pair[k].real, pair[k].imag
        state[_DH + k], state[_DC + k] = h, c
        state[_DS + k] = 1.0 - state[_RUPTURES + k] * i_n
        state[_X + k] = clamp_lambda(h, c)
        state[_V + k] = e[20]
        state[_RUN + k] = 0.0
        state[_SETTLED + k] = 0.0
    trail[0, : 3 * LANES] = state[_DH:_STATE_END]
    for k in range(19, -1, -1):
        _horner(state, e[k])
    for k in range(LANES):
        x = 1.0 / state[_V + k]
        state[_X + k] = x
        state[_A + k] = 1.0 - x
        state[_V + k] = 0.0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _horner(state: Any, term: float) -> None:
    for w in range(LANES):
        state[_V + w] = state[_V + w] * state[_X + w] + term


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _damp(state: Any, pair: Any, trail: Any, i_n: float, s: float, eps: float, hold: float) -> None:
    for w in range(LANES):
        a = state[_A + w]
        dh, dc, ds = state[_DH + w], state[_DC + w], state[_DS + w]
        gh = dh + a * (pair[w].real - dh)
        gc = dc + a * (pair[w].imag - dc)
        gs = ds + a * ((1.0 - state[_RUPTURES + w] * i_n) - ds)
        state[_DH + w], state[_DC + w], state[_DS + w] = gh, gc, gs
        trail[w], trail[LANES + w], trail[2 * LANES + w] = gh, gc, gs
        eh, ec, es = abs(gh - dh), abs(gc - dc), abs(gs - ds)
        step = eh if eh > ec else ec
        step = step if step > es else es
        run = state[_RUN + w] + 1.0 if step < eps else 0.0
        state[_RUN + w] = run
        settled = state[_SETTLED + w]
        state[_SETTLED + w] = s if (settled == 0.0) & (run >= hold) else settled


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add_potential(state: Any, price: Any, anchor_price: Any) -> None:
    for w in range(LANES):
        state[_V + w] = (state[_V + w] + (price[w] - anchor_price[w])) * state[_X + w]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _store(
    state: Any, trail: Any, packed: Any, corrections: Any, first: int, first_row: int, size: int, shape: Shape,
    row: int, i: Any, out: Any,
) -> None:  # fmt: skip
    events = shape.history + shape.forward - 1
    last_probe = 4 + 4 * shape.probes
    for w in range(size):
        at = first_row + w
        step = int(state[_SETTLED + w])
        out.converged[at] = step > 0
        step = step if step > 0 else shape.forward
        out.settled_at[at] = step
        for v in range(3):
            out.damped[at, v] = trail[step, v * LANES + w]
        out.potential[at] = state[_V + w]
        both = packed[first + w + events] - packed[first + w]
        n1, n2 = both // row, both % row
        out.counts[at, 0], out.counts[at, 1], out.counts[at, 2] = events - n1 - n2, n1, n2
        out.rupture_collapse[at] = n2 * i[events] >= 0.5
        fill_qbsa(corrections[first + w + last_probe] - corrections[first + w + 4], shape.probes, i, at, out)
        for k in range(shape.samples):
            sample = trail[(k + 1) * shape.stride]
            for v in range(3):
                out.path[at, 3 * k + v] = sample[v * LANES + w]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _store_start(trail: Any, first_row: int, size: int, out: Any) -> None:
    for w in range(size):
        h, c = trail[w], trail[LANES + w]
        out.initial[first_row + w, 0] = h
        out.initial[first_row + w, 1] = c
        out.initial[first_row + w, 2] = trail[2 * LANES + w]
        out.lam[first_row + w] = clamp_lambda(h, c)
