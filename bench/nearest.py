"""Nearest paths in a library of a million rows for 64 queries, beside numpy's bare product: `python bench/nearest.py`.

Ours is the exact search of the contract: the best row of each block of 64, then the best 32 blocks, in integers. The
baseline is one float32 matrix product of the same shape and nothing after it. One thread each; then ours with all
threads beside one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # before numpy

import numpy as np
import numpy.typing as npt
from _bench import SCALING_MIN, SEED, TOPOLOGY, Figure, computing_on, main, note

from sep_stream.convert import MarketDataConverter
from sep_stream.scoring.library import quantise
from sep_stream.scoring.model import ModelParameters
from sep_stream.scoring.nearest import Tiles, nearest_blocks
from sep_stream.sources.synthetic import synthetic_candles
from sep_stream.threads import given
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train

ROWS: Final = 1_000_000
TRADING_DAYS: Final = 700
"""Of 1,440 minutes: enough for the rows."""
QUERIES: Final = 64
BLOCK_ROWS: Final = 64
MATCHES: Final = 32


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    rng = np.random.default_rng(SEED)
    rows = library_rows()
    note(f"library of {len(rows):,} rows made")
    tiles, queries = Tiles.of(rows), rows[rng.integers(0, ROWS, QUERIES)]
    eligible = np.full(QUERIES, ROWS, np.int64)
    left, right = queries.astype(np.float32), np.ascontiguousarray(rows.astype(np.float32).T)
    one: list[float] = []
    every: list[float] = []
    bare: list[float] = []
    for _ in range(arguments.runs):
        for count, taken in ((1, one), (given(), every)):
            with computing_on(count):
                taken.append(
                    ms(lambda: nearest_blocks(tiles, queries, eligible, BLOCK_ROWS, MATCHES), arguments.seconds)
                )
        bare.append(ms(lambda: left @ right, arguments.seconds))
    yield Figure.times("nearest paths, 1 M rows, 64 queries", "ms", one, "numpy float32 product", bare, ">= 1x")
    rate = ROWS * QUERIES / statistics.median(one) / 1e6
    yield Figure("the same, one core", "G row·queries/s", rate, target=">= 0.8")
    yield Figure.times(
        f"the same, {given()} threads", "ms", every, "one thread", one, f">= {SCALING_MIN * given():.1f}x"
    )


def library_rows() -> npt.NDArray[np.int8]:
    """The quantised paths of as many windows of one synthetic market: neighbours share nearly all their bars."""
    candles = synthetic_candles(TOPOLOGY.instruments, ("EUR/USD",), TRADING_DAYS, SEED)
    bars = closed_bars(MarketDataConverter(TOPOLOGY.instruments), candles)
    series = {("EUR/USD", "M1"): bars["EUR/USD", "M1"]}
    (library,) = train(series, ModelParameters(), int(series["EUR/USD", "M1"].open_time_s[-1])).libraries
    return quantise(library.paths[:ROWS], library.mu, library.sigma)


def ms(search: Callable[[], object], seconds: float) -> float:
    """Median time of one search over so many seconds."""
    search()
    taken: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        begun_s = time.perf_counter()
        search()
        taken.append((time.perf_counter() - begun_s) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    main(__doc__, measure)
