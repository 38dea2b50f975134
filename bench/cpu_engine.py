"""The CPU engine beside a scalar Numba loop of the same contract, in one run: `python bench/cpu_engine.py`."""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numba
import numpy as np
from llvmlite.binding import llvm_version_info

from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics, cpu_scalar
from sep_stream.metrics.columns import columns_of, shape_of
from sep_stream.metrics.tables import tables

RUNS = 3
SEED = 20_240_229


def scalar_loop(bits: np.ndarray, points: np.ndarray, anchors: np.ndarray, params: WindowParams) -> MetricsBatch:
    """Each window on its own, every count and metric worked out from its bits."""
    batch = MetricsBatch.zeros(len(anchors), params.samples)
    rows = np.arange(len(anchors))
    cpu_scalar.compute(bits, points, anchors, rows, shape_of(params), tables(params.events), columns_of(batch))
    return batch


def median_s(compute: Callable[[], MetricsBatch]) -> tuple[float, MetricsBatch]:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        result = compute()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200_000)
    arguments = parser.parse_args()

    params = WindowParams()
    bars = arguments.windows + params.window_bars - 1
    rng = np.random.default_rng(SEED)
    bits = rng.integers(0, 2, bars).astype(np.uint8)
    points = (100_000 + np.cumsum(rng.integers(-9, 10, bars))).astype(np.int32)
    anchors = np.arange(params.history - 1, bars - params.forward)

    print(f"{cpu_name()}, {platform.system()} {platform.release()}, one thread")
    print(
        f"Python {platform.python_version()}, numba {numba.__version__}, LLVM {'.'.join(map(str, llvm_version_info))}",
        end="",
    )
    print(f", numpy {np.__version__}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {' '.join(sys.argv)}")
    print(f"{len(anchors)} contiguous windows of a seeded random series, {params}; median of {RUNS}")

    compute_metrics(bits, points, anchors[:1000], params, "cpu")  # compiles, and builds the table
    scalar_loop(bits, points, anchors[:1000], params)
    scalar_s, expected = median_s(lambda: scalar_loop(bits, points, anchors, params))
    lanes_s, found = median_s(lambda: compute_metrics(bits, points, anchors, params, "cpu"))
    for field in fields(MetricsBatch):
        assert getattr(found, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name

    for name, seconds in (("scalar Numba loop", scalar_s), ("CPU engine", lanes_s)):
        print(f"{name:20} {seconds / len(anchors) * 1e9:8.0f} ns per window {len(anchors) / seconds / 1e6:8.2f} M/s")
    print(f"ratio {scalar_s / lanes_s:.2f}, outputs equal to the last bit")


if __name__ == "__main__":
    main()
