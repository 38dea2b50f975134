"""The metrics of one window. sep-metrics/1, sections 4 to 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from functools import cache
from itertools import pairwise
from math import factorial
from typing import Any

import numpy as np

Triple = tuple[float, float, float]
"""Entropy H, coherence C, stability S."""

DIGITS = 50
TAYLOR_TERMS = 20


@cache
def m_log2_m(m: int) -> float:
    """T[m]."""
    if m == 0:
        return 0.0
    with localcontext(prec=DIGITS):
        return float(m * (Decimal(m).ln() / Decimal(2).ln()))


@cache
def one_over_n_log2_3(n: int) -> float:
    """R[n]."""
    with localcontext(prec=DIGITS):
        return float(1 / (n * (Decimal(3).ln() / Decimal(2).ln())))


@cache
def inverse(n: int) -> float:
    """I[n]."""
    with localcontext(prec=DIGITS):
        return float(1 / Decimal(n))


@cache
def inverse_factorial(k: int) -> float:
    """E[k]."""
    with localcontext(prec=DIGITS):
        return float(1 / Decimal(factorial(k)))


def clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


def counts(bits: Sequence[int]) -> tuple[int, int, int]:
    """n0, n1, n2: how many adjacent pairs are 00, unequal, 11."""
    n = [0, 0, 0]
    for pair in pairwise(bits):
        n[sum(pair)] += 1
    return n[0], n[1], n[2]


@cache
def quantum(n0: int, n1: int, n2: int) -> Triple:
    """(H, C, S) of event counts."""
    n = n0 + n1 + n2
    entropy = clamp((m_log2_m(n) - ((m_log2_m(n0) + m_log2_m(n1)) + m_log2_m(n2))) * one_over_n_log2_3(n), 0.05, 1.0)
    flip = n1 * inverse(n)
    rupture = n2 * inverse(n)
    raw = (0.6 * (1 - entropy) + 0.33 * (1 - rupture)) + 0.21 * (1 - flip)
    coherence = clamp(1.1 * (raw * raw), 0.0, 1.0)
    stability = 1 - rupture
    return entropy, coherence, stability


def decay(lam: float) -> float:
    """e^-lambda, by the series of its inverse."""
    e = inverse_factorial(TAYLOR_TERMS)
    for k in range(TAYLOR_TERMS - 1, -1, -1):
        e = e * lam + inverse_factorial(k)
    return 1 / e


def trajectory(bits: Sequence[int], history: int) -> tuple[list[Triple], float]:
    """D_0 … D_F of a window, and its lambda."""
    n = list(counts(bits[:history]))
    entropy, coherence, _ = damped = quantum(*n)
    lam = clamp(0.3 * entropy + 0.2 * (1 - coherence), 0.01, 1.0)
    a = 1 - decay(lam)
    steps = [damped]
    for previous_bit, bit in pairwise(bits[history - 1 :]):
        n[previous_bit + bit] += 1
        (h, c, s), (m_h, m_c, m_s) = damped, quantum(*n)
        damped = (h + a * (m_h - h), c + a * (m_c - c), s + a * (m_s - s))
        steps.append(damped)
    return steps, lam


def settled(steps: Sequence[Triple], eps: float, hold: int) -> tuple[int, bool]:
    """settled_at and converged."""
    held = 0
    for s in range(1, len(steps)):
        step = max(abs(now - before) for now, before in zip(steps[s], steps[s - 1], strict=True))
        held = held + 1 if step < eps else 0
        if held == hold:
            return s, True
    return len(steps) - 1, False


def potential(prices: Sequence[int], x: float) -> float:
    """The forward moves from the anchor, each discounted by its distance; points."""
    v = 0.0
    for price in reversed(prices[1:]):
        v = (v + (price - prices[0])) * x
    return v


def corrections(history_bits: Sequence[int]) -> tuple[int, int]:
    """QBSA: (probes, corrections)."""
    probes = wrong = 0
    for t in range(8, len(history_bits), 4):
        ones = sum(history_bits[t - 8 : t])
        expected = 1 if ones >= 6 else 0 if ones <= 2 else history_bits[t - 1]
        probes += 1
        wrong += history_bits[t] != expected
    return probes, wrong


def metrics(bits: Sequence[int], prices: Sequence[int], params: Mapping[str, Any]) -> dict[str, Any]:
    """All metrics of a window of L + F bits and F + 1 prices.

    params: history, forward, samples, eps, hold. The path's values are float32, widened.
    """
    history, forward, samples = params["history"], params["forward"], params["samples"]
    assert len(bits) == history + forward
    assert len(prices) == forward + 1
    steps, lam = trajectory(bits, history)
    settled_at, converged = settled(steps, params["eps"], params["hold"])
    n0, n1, n2 = counts(bits)
    probes, wrong = corrections(bits[:history])
    ratio = wrong * inverse(probes)
    sampled = [steps[k * (forward // samples)] for k in range(1, samples + 1)]
    return {
        "initial": list(steps[0]),
        "lam": lam,
        "damped": list(steps[settled_at]),
        "settled_at": settled_at,
        "converged": converged,
        "path": [float(np.float32(value)) for triple in sampled for value in triple],
        "potential": potential(prices, decay(lam)),
        "counts": [n0, n1, n2],
        "rupture_collapse": n2 * inverse(n0 + n1 + n2) >= 0.5,
        "probes": probes,
        "corrections": wrong,
        "ratio": ratio,
        "qbsa_collapse": ratio >= 0.6,
    }
