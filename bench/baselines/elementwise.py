"""The contract's metrics as whole-array operations, step after step: what one writes with CuPy before any kernel.

`xp` is cupy or numpy. With numpy the results have the contract's bits. CuPy may fuse products inside an operation of
its own: there they need not.
"""

from __future__ import annotations

from typing import Any

from sep_stream.metrics import WindowParams
from sep_stream.metrics.tables import tables


def metrics(xp: Any, bits: Any, points: Any, anchors: Any, params: WindowParams) -> dict[str, Any]:
    """All columns of a MetricsBatch but `probes`. bits: (m,) int32 · points: (m,) float64 · anchors: (n,) int64"""
    table = tables(params.events)
    t, i_of = xp.asarray(table.t), table.i
    first = anchors - (params.history - 1)
    flips, ruptures = (_prefix(xp, pairs) for pairs in (bits[1:] ^ bits[:-1], bits[1:] & bits[:-1]))

    def measured(step: int) -> tuple[Any, Any, Any]:
        n = params.history - 1 + step
        n1, n2 = flips[first + n] - flips[first], ruptures[first + n] - ruptures[first]
        h = xp.clip((t[n] - ((t[n - n1 - n2] + t[n1]) + t[n2])) * table.r[n], 0.05, 1.0)
        flip, rupture = n1 * i_of[n], n2 * i_of[n]
        raw = (0.6 * (1.0 - h) + 0.33 * (1.0 - rupture)) + 0.21 * (1.0 - flip)
        return h, xp.clip(1.1 * (raw * raw), 0.0, 1.0), 1.0 - rupture

    d = initial = measured(0)
    lam = xp.clip(0.3 * d[0] + 0.2 * (1.0 - d[1]), 0.01, 1.0)
    e = xp.full(len(anchors), table.e[20])
    for k in range(19, -1, -1):
        e = e * lam + table.e[k]
    x = 1.0 / e
    a = 1.0 - x
    quiet, settled_at = xp.zeros(len(anchors), xp.int32), xp.zeros(len(anchors), xp.int32)
    damped, path = d, []
    for step in range(1, params.forward + 1):
        now = tuple(v + a * (m - v) for v, m in zip(d, measured(step), strict=True))
        moved = [abs(after - before) for after, before in zip(now, d, strict=True)]
        d = now
        quiet = xp.where(xp.maximum(xp.maximum(moved[0], moved[1]), moved[2]) < params.eps, quiet + 1, 0)
        settles = (settled_at == 0) & (quiet >= params.hold)
        settled_at = xp.where(settles, step, settled_at)
        damped = tuple(xp.where(settles, after, before) for after, before in zip(d, damped, strict=True))
        if step % params.stride == 0:
            path += [v.astype(xp.float32) for v in d]
    converged = settled_at > 0
    damped = tuple(xp.where(converged, at, last) for at, last in zip(damped, d, strict=True))

    potential, price = xp.zeros(len(anchors)), points[anchors]
    for j in range(params.forward, 0, -1):
        potential = (potential + (points[anchors + j] - price)) * x
    n = params.events
    n1, n2 = flips[first + n] - flips[first], ruptures[first + n] - ruptures[first]
    corrections = _corrections(xp, bits, first, params)
    ratio = corrections * i_of[params.probes]
    return {
        "initial": xp.stack(initial, 1), "lam": lam, "damped": xp.stack(damped, 1),
        "settled_at": xp.where(converged, settled_at, params.forward).astype(xp.int32), "converged": converged,
        "path": xp.stack(path, 1), "potential": potential,
        "counts": xp.stack([n - n1 - n2, n1, n2], 1).astype(xp.int32), "rupture_collapse": n2 * i_of[n] >= 0.5,
        "corrections": corrections, "ratio": ratio, "qbsa_collapse": ratio >= 0.6,
    }  # fmt: skip


def _prefix(xp: Any, values: Any) -> Any:
    return xp.concatenate([xp.zeros(1, xp.int32), xp.cumsum(values, dtype=xp.int32)])


def _corrections(xp: Any, bits: Any, first: Any, params: WindowParams) -> Any:
    sums, corrections = _prefix(xp, bits), xp.zeros(len(first), xp.int32)
    for at in range(8, params.history, 4):
        ones = sums[first + at] - sums[first + at - 8]
        expected = xp.where(ones >= 6, 1, xp.where(ones <= 2, 0, bits[first + at - 1]))
        corrections += bits[first + at] != expected
    return corrections
