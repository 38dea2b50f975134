"""The metrics of one window in plain floats, in the order that the definition gives. sep-metrics/1, sections 4 to 6."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

VERSION = "sep-metrics/1"


@cache
def t_table(m: int) -> float:
    """m log2 m."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(m) * Decimal(m).ln() / Decimal(2).ln()) if m else 0.0


@cache
def r_table(n: int) -> float:
    """1 / (n log2 3)."""
    with localcontext() as context:
        context.prec = 50
        return float(1 / (Decimal(n) * (Decimal(3).ln() / Decimal(2).ln())))


@cache
def i_table(n: int) -> float:
    """1 / n."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(1) / Decimal(n))


@cache
def e_table(k: int) -> float:
    """1 / k!."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(1) / Decimal(math.factorial(k)))


def as_float32(value: float) -> float:
    """To the nearest float32, ties to even."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def count_events(bits: Sequence[int]) -> list[int]:
    """How many adjacent pairs are NULL (00), FLIP (01 or 10) and RUPTURE (11)."""
    counts = [0, 0, 0]
    for before, after in zip(bits, bits[1:], strict=False):
        counts[before + after] += 1
    return counts


def point(counts: Sequence[int]) -> tuple[float, float, float]:
    """Entropy, coherence and stability of some events."""
    n0, n1, n2 = counts
    n = n0 + n1 + n2
    entropy = clamp((t_table(n) - ((t_table(n0) + t_table(n1)) + t_table(n2))) * r_table(n), 0.05, 1.0)
    flip = n1 * i_table(n)
    rupture = n2 * i_table(n)
    raw = (0.6 * (1 - entropy) + 0.33 * (1 - rupture)) + 0.21 * (1 - flip)
    coherence = clamp(1.1 * (raw * raw), 0.0, 1.0)
    return entropy, coherence, 1 - rupture


def decay_of(lam: float) -> float:
    """e^-lambda."""
    e = e_table(20)
    for k in range(19, -1, -1):
        e = e * lam + e_table(k)
    return 1 / e


def qbsa(history_bits: Sequence[int]) -> tuple[int, int]:
    """Probes and corrections."""
    probes = corrections = 0
    for t in range(8, len(history_bits), 4):
        ones = sum(history_bits[t - 8 : t])
        expected = history_bits[t - 1]
        if ones >= 6:
            expected = 1
        elif ones <= 2:
            expected = 0
        probes += 1
        corrections += history_bits[t] != expected
    return probes, corrections


def metrics(bits: Sequence[int], prices: Sequence[int], params: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a window: history + forward bits, forward + 1 prices. `path` holds float32 values as floats."""
    history, forward = params["history"], params["forward"]
    counts = count_events(bits[:history])
    initial = point(counts)
    lam = clamp(0.3 * initial[0] + 0.2 * (1 - initial[1]), 0.01, 1.0)
    decay = decay_of(lam)
    a = 1 - decay

    damped = initial
    settled, settled_at, still = None, forward, 0
    path: list[float] = []
    for s in range(1, forward + 1):
        counts[bits[history + s - 2] + bits[history + s - 1]] += 1
        target = point(counts)
        moved = tuple(d + a * (m - d) for d, m in zip(damped, target, strict=True))
        step = max(abs(after - before) for after, before in zip(moved, damped, strict=True))
        damped = (moved[0], moved[1], moved[2])
        still = still + 1 if step < params["eps"] else 0
        if settled is None and still >= params["hold"]:
            settled, settled_at = damped, s
        if s % (forward // params["samples"]) == 0:
            path += [as_float32(value) for value in damped]

    potential = 0.0
    for j in range(forward, 0, -1):
        potential = (potential + (prices[j] - prices[0])) * decay

    probes, corrections = qbsa(bits[:history])
    ratio = corrections * i_table(probes)
    return {
        "counts": counts,
        "initial": initial,
        "lambda": lam,
        "damped": damped if settled is None else settled,
        "settled_at": settled_at,
        "converged": settled is not None,
        "path": path,
        "potential": potential,
        "rupture_collapse": counts[2] * i_table(sum(counts)) >= 0.5,
        "qbsa_probes": probes,
        "qbsa_corrections": corrections,
        "qbsa_ratio": ratio,
        "qbsa_collapse": ratio >= 0.6,
    }
