"""One window at a time, compiled: for anchors that have no neighbours, and for windows too long for tables."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from sep_stream.metrics.columns import Shape
from sep_stream.metrics.tables import Tables


@nb.njit(cache=True, nogil=True, error_model="numpy")
def measure(n1: int, n2: int, n: int, t: Any, r_n: float, i_n: float) -> tuple[float, float, float]:
    """H, C, S of n events, n1 of them FLIP and n2 RUPTURE."""
    h = (t[n] - ((t[n - n1 - n2] + t[n1]) + t[n2])) * r_n
    h = 0.05 if h < 0.05 else h
    h = 1.0 if h > 1.0 else h
    flip = n1 * i_n
    rupture = n2 * i_n
    raw = (0.6 * (1.0 - h) + 0.33 * (1.0 - rupture)) + 0.21 * (1.0 - flip)
    c = 1.1 * (raw * raw)
    return h, 1.0 if c > 1.0 else c, 1.0 - rupture


@nb.njit(cache=True, nogil=True, error_model="numpy")
def clamp_lambda(h: float, c: float) -> float:
    lam = 0.3 * h + 0.2 * (1.0 - c)
    lam = 0.01 if lam < 0.01 else lam
    return 1.0 if lam > 1.0 else lam


def compute(bits: Any, points: Any, anchors: Any, rows: Any, shape: Shape, tables: Tables, out: Any) -> None:
    """Fill the given rows of `out` with the metrics of the windows at `anchors`."""
    _windows(bits, points, anchors, rows, shape, tables.t, tables.r, tables.i, tables.e, out)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _windows(
    bits: Any, points: Any, anchors: Any, rows: Any, shape: Shape, t: Any, r: Any, i: Any, e: Any, out: Any
) -> None:
    for k in range(len(anchors)):
        start = anchors[k] - shape.history + 1
        _window(bits[start:], points[anchors[k] :], shape, t, r, i, e, rows[k], out)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _window(bits: Any, points: Any, shape: Shape, t: Any, r: Any, i: Any, e: Any, row: int, out: Any) -> None:
    n1, n2 = 0, 0
    for j in range(1, shape.history):
        n1 += bits[j - 1] ^ bits[j]
        n2 += bits[j - 1] & bits[j]
    n = shape.history - 1
    dh, dc, ds = measure(n1, n2, n, t, r[n], i[n])
    lam = clamp_lambda(dh, dc)
    growth = e[20]
    for k in range(19, -1, -1):
        growth = growth * lam + e[k]
    x = 1.0 / growth
    a = 1.0 - x
    out.initial[row, 0], out.initial[row, 1], out.initial[row, 2] = dh, dc, ds
    out.lam[row] = lam

    run, settled, sample, until_sample = 0, 0, 0, shape.stride
    for s in range(1, shape.forward + 1):
        last, bit = bits[shape.history + s - 2], bits[shape.history + s - 1]
        n1 += last ^ bit
        n2 += last & bit
        n = shape.history - 1 + s
        h, c, stability = measure(n1, n2, n, t, r[n], i[n])
        gh, gc, gs = dh + a * (h - dh), dc + a * (c - dc), ds + a * (stability - ds)
        step = max(abs(gh - dh), abs(gc - dc), abs(gs - ds))
        dh, dc, ds = gh, gc, gs
        run = run + 1 if step < shape.eps else 0
        if settled == 0 and (run >= shape.hold or s == shape.forward):
            settled = s
            out.converged[row] = run >= shape.hold
            out.damped[row, 0], out.damped[row, 1], out.damped[row, 2] = dh, dc, ds
        until_sample -= 1
        if until_sample == 0:
            until_sample = shape.stride
            out.path[row, sample], out.path[row, sample + 1], out.path[row, sample + 2] = dh, dc, ds
            sample += 3
    out.settled_at[row] = settled

    v = 0.0
    for j in range(shape.forward, 0, -1):
        v = (v + (np.float64(points[j]) - np.float64(points[0]))) * x
    out.potential[row] = v
    n = shape.history - 1 + shape.forward
    out.counts[row, 0], out.counts[row, 1], out.counts[row, 2] = n - n1 - n2, n1, n2
    out.rupture_collapse[row] = n2 * i[n] >= 0.5
    fill_qbsa(_corrections(bits, shape.history), shape.probes, i, row, out)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _corrections(bits: Any, history: int) -> int:
    corrections = 0
    for t in range(8, history, 4):
        corrections += is_correction(bits, t)
    return corrections


@nb.njit(cache=True, nogil=True, error_model="numpy")
def is_correction(bits: Any, t: int) -> int:
    """1 where bit t is not what the 8 before it make expected: their majority if clear, else the last."""
    ones = 0
    for j in range(t - 8, t):
        ones += bits[j]
    expected = bits[t - 1]
    if ones >= 6:
        expected = 1
    elif ones <= 2:
        expected = 0
    return 1 if expected != bits[t] else 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def fill_qbsa(corrections: int, probes: int, i: Any, row: int, out: Any) -> None:
    ratio = corrections * i[probes]
    out.probes[row] = probes
    out.corrections[row] = corrections
    out.ratio[row] = ratio
    out.qbsa_collapse[row] = ratio >= 0.6
