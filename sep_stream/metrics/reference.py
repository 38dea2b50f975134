"""The reference engine: sep-metrics/1, sections 4 to 6, in plain Python floats, one window at a time.

Slow and obvious on purpose: it is what the other engines are tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.params import WindowParams
from sep_stream.metrics.tables import Tables, tables

Metrics = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Damped:
    """D at each step 0 … F, and the step where it came to rest (F if it did not)."""

    steps: list[Metrics]
    settled_at: int
    converged: bool


def compute(
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    anchors: npt.NDArray[np.int64],
    params: WindowParams,
) -> MetricsBatch:
    """Metrics of the windows at `anchors`, which lie inside the series."""
    batch = MetricsBatch.zeros(len(anchors), params.samples)
    table = tables(params.events)
    for row, anchor in enumerate(anchors.tolist()):
        window_bits = bits[anchor - params.history + 1 : anchor + params.forward + 1].tolist()
        prices = points[anchor : anchor + params.forward + 1].tolist()
        _fill(batch, row, window_bits, prices, params, table)
    return batch


def _fill(
    batch: MetricsBatch, row: int, bits: list[int], prices: list[int], params: WindowParams, table: Tables
) -> None:
    history = params.history
    measured = [qfh(bits[: history + s], table) for s in range(params.forward + 1)]
    h, c, _ = measured[0]
    lam = clamp(0.3 * h + 0.2 * (1.0 - c), 0.01, 1.0)
    x = decay(lam, table)
    damped = damp(measured, x, params)
    corrections = qbsa_corrections(bits[:history])
    counts = event_counts(bits)

    batch.initial[row] = measured[0]
    batch.lam[row] = lam
    batch.damped[row] = damped.steps[damped.settled_at]
    batch.settled_at[row] = damped.settled_at
    batch.converged[row] = damped.converged
    batch.path[row] = [value for step in damped.steps[params.stride :: params.stride] for value in step]
    batch.potential[row] = potential(prices, x)
    batch.counts[row] = counts
    batch.rupture_collapse[row] = counts[2] * float(table.i[params.events]) >= 0.5
    batch.probes[row] = params.probes
    batch.corrections[row] = corrections
    batch.ratio[row] = corrections * float(table.i[params.probes])
    batch.qbsa_collapse[row] = batch.ratio[row] >= 0.6


def clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


def event_counts(bits: Sequence[int]) -> tuple[int, int, int]:
    """How many NULL, FLIP and RUPTURE events adjacent bits make."""
    events = [a + b for a, b in pairwise(bits)]
    return events.count(0), events.count(1), events.count(2)


def qfh(bits: Sequence[int], table: Tables) -> Metrics:
    """Entropy, coherence and stability of some bits."""
    n0, n1, n2 = event_counts(bits)
    n = n0 + n1 + n2
    t = table.t
    h = clamp((float(t[n]) - ((float(t[n0]) + float(t[n1])) + float(t[n2]))) * float(table.r[n]), 0.05, 1.0)
    flip = n1 * float(table.i[n])
    rupture = n2 * float(table.i[n])
    raw = (0.6 * (1.0 - h) + 0.33 * (1.0 - rupture)) + 0.21 * (1.0 - flip)
    return h, clamp(1.1 * (raw * raw), 0.0, 1.0), 1.0 - rupture


def decay(lam: float, table: Tables) -> float:
    """e^-lambda, from the series of e^lambda: its terms are all positive."""
    e = float(table.e[20])
    for k in range(19, -1, -1):
        e = e * lam + float(table.e[k])
    return 1.0 / e


def damp(measured: list[Metrics], x: float, params: WindowParams) -> Damped:
    """D through the forward window, from the metrics measured at each step."""
    a = 1.0 - x
    steps = [measured[0]]
    settled_at, run = 0, 0
    for s in range(1, params.forward + 1):
        last = steps[-1]
        now = tuple(d + a * (m - d) for d, m in zip(last, measured[s], strict=True))
        steps.append((now[0], now[1], now[2]))
        step = max(abs(d - e) for d, e in zip(now, last, strict=True))
        run = run + 1 if step < params.eps else 0
        if run >= params.hold and not settled_at:
            settled_at = s
    return Damped(steps, settled_at or params.forward, settled_at > 0)


def potential(prices: Sequence[int], x: float) -> float:
    """Moves from the anchor's price, the later the more decayed, in points."""
    v = 0.0
    for j in range(len(prices) - 1, 0, -1):
        v = (v + float(prices[j] - prices[0])) * x
    return v


def qbsa_corrections(history: Sequence[int]) -> int:
    """How many probes of the history found another bit than the 8 before made them expect."""
    corrections = 0
    for t in range(8, len(history), 4):
        ones = sum(history[t - 8 : t])
        expected = 1 if ones >= 6 else 0 if ones <= 2 else history[t - 1]
        corrections += history[t] != expected
    return corrections
