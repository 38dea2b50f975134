"""Neighbouring windows side by side: each lane of a block is one window, each pass over the lanes takes some steps.

What makes it fast: the (H, C) of all counts in a table, one state buffer with fixed offsets (so that LLVM sees that
its rows don't overlap), gathers in loops of their own, several steps between a load of the state and its store, and
counts as differences of prefix sums.
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

LANES: Final = 128
"""Windows per block: the state stays in the first-level cache."""

STEPS: Final = 4
"""Steps of a pass, where the path's samples lie so many apart or a multiple; else a pass is one step."""

SEGMENT_WINDOWS: Final = 8192
"""Windows per set of prefix sums: they stay in cache, and their counts far below 32 bits."""

TABLE_BYTES_MAX: Final = 64 * 2**20
"""Longer windows, whose table would be larger, take the scalar form."""

_PADDING: Final = 4
"""Keeps a table's rows off a power of two, which would put them on the same cache lines."""

_SAMPLES_END: Final = 3 * LANES + 16
"""One sample of all lanes; a cache line more than needed, for the reason of _PADDING."""

# Rows of the state buffer, LANES values each. _OPEN: 1.0 until a lane has settled · _AT: the steps until then
# _REST_H …: its D then
_A, _X, _V, _RUN, _OPEN, _AT, _REST_H, _REST_C, _REST_S, _DH, _DC, _DS, _STATE_END = (k * LANES for k in range(13))


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
    state, path = np.empty(_STATE_END), np.empty((shape.samples, _SAMPLES_END), np.float32)
    pair = np.empty(STEPS * LANES, np.complex128)
    steps, hold = STEPS if shape.stride % STEPS == 0 else 1, float(shape.hold)
    for w in range(0, count, LANES):
        size = min(LANES, count - w)
        end = w + shape.history - 1
        _start(state, pair, packed, ruptures, w, end, hc, i[shape.history - 1], e)
        _store_start(state, first_row + w, size, out)
        for s in range(1, shape.forward + 1, steps):
            for u in range(steps):
                _gather(pair[u * LANES :], packed[end + s + u :], packed[w:], hc[s + u])
            to, since, i_n = ruptures[end + s :], ruptures[w:], i[shape.history - 1 + s :]
            if steps == STEPS:
                _damp_steps(state, pair, to, since, i_n, shape.eps, hold)
            else:
                _damp_step(state, pair, to, since, i_n, shape.eps, hold)
            done = s + steps - 1
            if done % shape.stride == 0:
                _sample(path[done // shape.stride - 1], state)
        for j in range(shape.forward, 0, -steps):
            if steps == STEPS:
                _add_potential_steps(state, prices[end + j - STEPS + 1 :], prices[end:])
            else:
                _add_potential_step(state, prices[end + j :], prices[end:])
        _store(state, path, packed, corrections, w, first_row + w, size, shape, row, i, out)


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
def _start(state: Any, pair: Any, packed: Any, ruptures: Any, w: int, end: int, hc: Any, i_n: float, e: Any) -> None:
    """Metrics of the histories, and the decay that follows from them."""
    _gather(pair, packed[end:], packed[w:], hc[0])
    to, since = ruptures[end:], ruptures[w:]
    for k in range(LANES):
        h, c = pair[k].real, pair[k].imag
        state[_DH + k], state[_DC + k] = h, c
        state[_DS + k] = 1.0 - (to[k] - since[k]) * i_n
        state[_X + k] = clamp_lambda(h, c)
        state[_V + k] = e[20]
        state[_RUN + k], state[_OPEN + k], state[_AT + k] = 0.0, 1.0, 0.0
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


def _damping(steps: int) -> Any:
    """A pass over the lanes of so many steps; as it is compiled for the number, a lane's values stay in registers."""

    @nb.njit(cache=True, nogil=True, error_model="numpy")
    def damp(state: Any, pair: Any, to: Any, since: Any, i_n: Any, eps: float, hold: float) -> None:
        for w in range(LANES):
            a, run, still, at = state[_A + w], state[_RUN + w], state[_OPEN + w], state[_AT + w]
            dh, dc, ds = state[_DH + w], state[_DC + w], state[_DS + w]
            rest_h, rest_c, rest_s = state[_REST_H + w], state[_REST_C + w], state[_REST_S + w]
            before = since[w]
            for u in range(steps):
                hc = pair[u * LANES + w]
                gh = dh + a * (hc.real - dh)
                gc = dc + a * (hc.imag - dc)
                gs = ds + a * ((1.0 - (to[w + u] - before) * i_n[u]) - ds)
                eh, ec, es = abs(gh - dh), abs(gc - dc), abs(gs - ds)
                dh, dc, ds = gh, gc, gs
                step = eh if eh > ec else ec
                step = step if step > es else es
                run = run + 1.0 if step < eps else 0.0
                unsettled = still > 0.0
                rest_h = gh if unsettled else rest_h
                rest_c = gc if unsettled else rest_c
                rest_s = gs if unsettled else rest_s
                at = at + still
                still = still if run < hold else 0.0
            state[_RUN + w], state[_OPEN + w], state[_AT + w] = run, still, at
            state[_DH + w], state[_DC + w], state[_DS + w] = dh, dc, ds
            state[_REST_H + w], state[_REST_C + w], state[_REST_S + w] = rest_h, rest_c, rest_s

    return damp


def _potential(steps: int) -> Any:
    """The same for the potential, from the last of the steps to the first."""

    @nb.njit(cache=True, nogil=True, error_model="numpy")
    def add_potential(state: Any, price: Any, anchor_price: Any) -> None:
        for w in range(LANES):
            v, x, anchor = state[_V + w], state[_X + w], anchor_price[w]
            for u in range(steps):
                v = (v + (price[w + (steps - 1 - u)] - anchor)) * x
            state[_V + w] = v

    return add_potential


_damp_step, _damp_steps = _damping(1), _damping(STEPS)
_add_potential_step, _add_potential_steps = _potential(1), _potential(STEPS)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sample(path: Any, state: Any) -> None:
    for k in range(3 * LANES):
        path[k] = np.float32(state[_DH + k])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _store(
    state: Any, path: Any, packed: Any, corrections: Any, first: int, first_row: int, size: int, shape: Shape,
    row: int, i: Any, out: Any,
) -> None:  # fmt: skip
    events = shape.history + shape.forward - 1
    last_probe = 4 + 4 * shape.probes
    for w in range(size):
        at = first_row + w
        out.converged[at] = state[_OPEN + w] == 0.0
        out.settled_at[at] = int(state[_AT + w])
        for v in range(3):
            out.damped[at, v] = state[_REST_H + v * LANES + w]
        out.potential[at] = state[_V + w]
        both = packed[first + w + events] - packed[first + w]
        n1, n2 = both // row, both % row
        out.counts[at, 0], out.counts[at, 1], out.counts[at, 2] = events - n1 - n2, n1, n2
        out.rupture_collapse[at] = n2 * i[events] >= 0.5
        fill_qbsa(corrections[first + w + last_probe] - corrections[first + w + 4], shape.probes, i, at, out)
        for k in range(shape.samples):
            for v in range(3):
                out.path[at, 3 * k + v] = path[k, v * LANES + w]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _store_start(state: Any, first_row: int, size: int, out: Any) -> None:
    for w in range(size):
        h, c = state[_DH + w], state[_DC + w]
        out.initial[first_row + w, 0] = h
        out.initial[first_row + w, 1] = c
        out.initial[first_row + w, 2] = state[_DS + w]
        out.lam[first_row + w] = clamp_lambda(h, c)
