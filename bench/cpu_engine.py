"""The CPU engine beside a scalar Numba loop of the same contract, one thread, and with all threads beside one:
`python bench/cpu_engine.py`.

Contiguous windows of a seeded random series; the outputs are compared to the last bit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Final

import numpy as np
from _bench import SCALING_MIN, SEED, Figure, computing_on, main

from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics, cpu_scalar
from sep_stream.metrics.columns import columns_of, shape_of
from sep_stream.metrics.tables import tables
from sep_stream.threads import given
from sep_stream.training.windows import ANCHORS_AT_ONCE

WINDOWS: Final = ANCHORS_AT_ONCE
"""As many as training computes at once: larger columns have new memory each time, which takes a third longer."""


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    params = WindowParams()
    bars = WINDOWS + params.window_bars - 1
    rng = np.random.default_rng(SEED)
    bits = rng.integers(0, 2, bars).astype(np.uint8)
    points = (100_000 + np.cumsum(rng.integers(-9, 10, bars))).astype(np.int32)
    anchors = np.arange(params.history - 1, bars - params.forward)

    expected = scalar_loop(bits, points, anchors, params)
    found = compute_metrics(bits, points, anchors, params, "cpu")
    for field in fields(MetricsBatch):
        assert getattr(found, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name

    scalar: list[float] = []
    one: list[float] = []
    every: list[float] = []
    for _ in range(arguments.runs):
        scalar.append(us_per_window(lambda: scalar_loop(bits, points, anchors, params), arguments.seconds))
        for count, taken in ((1, one), (given(), every)):
            with computing_on(count):
                taken.append(
                    us_per_window(lambda: compute_metrics(bits, points, anchors, params, "cpu"), arguments.seconds)
                )
    yield Figure.times("CPU engine, contiguous anchors, one core", "µs per window", one, "scalar Numba loop", scalar,
                       "<= 0.20 µs, >= 4x")  # fmt: skip
    yield Figure.times(f"CPU engine, {given()} threads", "µs per window", every, "one thread", one,
                       f">= {SCALING_MIN * given():.1f}x")  # fmt: skip


def scalar_loop(bits: np.ndarray, points: np.ndarray, anchors: np.ndarray, params: WindowParams) -> MetricsBatch:
    """Each window on its own, every count and metric worked out from its bits."""
    batch = MetricsBatch.zeros(len(anchors), params.samples)
    rows = np.arange(len(anchors))
    cpu_scalar.compute(bits, points, anchors, rows, shape_of(params), tables(params.events), columns_of(batch))
    return batch


def us_per_window(compute: Callable[[], MetricsBatch], seconds: float) -> float:
    """Over as many passes as end within so many seconds."""
    passes, begun_s = 0, time.perf_counter()
    while not passes or time.perf_counter() - begun_s < seconds:
        compute()
        passes += 1
    return (time.perf_counter() - begun_s) / (passes * WINDOWS) * 1e6


if __name__ == "__main__":
    main(__doc__, measure)
