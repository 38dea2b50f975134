"""Nearest paths among a million rows for 64 queries, beside the bare product of numpy: `python bench/nearest.py`.

Ours is the exact search of the contract: the best row of each block of 64, then the best 32 blocks, in integers. The
baseline is one float32 matrix product of the same shape and nothing after it. One thread each.
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
from _bench import SEED, Figure, main

from sep_stream.scoring.nearest import Tiles, nearest_blocks

ROWS: Final = 1_000_000
QUERIES: Final = 64
WIDTH: Final = 48
BLOCK_ROWS: Final = 64
MATCHES: Final = 32


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    rng = np.random.default_rng(SEED)
    # Neighbours share nearly all their bars: a slow walk, as the rows of a library are.
    walk = np.cumsum(rng.normal(size=(ROWS, WIDTH)), axis=0)
    rows = np.clip(np.rint(walk / walk.std(axis=0) * 32), -127, 127).astype(np.int8)
    tiles, queries = Tiles.of(rows), rows[rng.integers(0, ROWS, QUERIES)]
    eligible = np.full(QUERIES, ROWS, np.int64)
    left, right = queries.astype(np.float32), np.ascontiguousarray(rows.astype(np.float32).T)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(arguments.runs):
        ours.append(ms(lambda: nearest_blocks(tiles, queries, eligible, BLOCK_ROWS, MATCHES), arguments.seconds))
        bare.append(ms(lambda: left @ right, arguments.seconds))
    yield Figure.times("nearest paths, 1 M rows, 64 queries", "ms", ours, "numpy float32 product", bare, ">= 1x")


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
