"""Launches as an engine makes them: series, windows and libraries into the kernels' arguments, results out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.metrics.tables import tables

Launch = Callable[..., None]

GRID = (3, 7)
"""Thread blocks and threads of each: fewer threads than items, so that each takes several."""


@dataclass(frozen=True, eq=False)
class Scales:
    """library: (n,) int32, whose scales quantise each window's path · mu, sigma: (libraries, 3K) float64"""

    library: npt.NDArray[np.int32] | None
    mu: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """words: (block_rows, words, blocks) int32 · norm: (block_rows, blocks) int32"""

    words: npt.NDArray[np.int32]
    norm: npt.NDArray[np.int32]


def packed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Bits (m,) in words, and one word of padding whose bits are set: nothing may depend on them."""
    padding = np.ones(-len(bits) % 64 + 64, np.uint8)
    return np.packbits(np.concatenate([bits, padding]), bitorder="little").view("<u8").astype(np.uint64)


def word_count(width: int) -> int:
    return -(-width // 4)


def window_metrics(
    launch: Launch,
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    anchors: npt.NDArray[np.int64],
    params: WindowParams,
    grid: tuple[int, int] = GRID,
) -> MetricsBatch:
    """All metrics of the windows at `anchors`, without quantised paths."""
    return _batch(launch, bits, points, (anchors, 0, len(anchors)), params, grid, None)[0]


def neighbouring_metrics(
    launch: Launch,
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    first_anchor: int,
    n: int,
    params: WindowParams,
) -> MetricsBatch:
    """The same for n neighbours, whose anchors are not listed."""
    return _batch(launch, bits, points, (None, first_anchor, n), params, GRID, None)[0]


def quantised_metrics(
    launch: Launch,
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    anchors: npt.NDArray[np.int64],
    params: WindowParams,
    scales: Scales,
    keep_path: bool = True,
) -> tuple[MetricsBatch, Rows]:
    """All metrics, and the paths quantised on the way; NaN for a path that is not kept."""
    batch, rows = _batch(launch, bits, points, (anchors, 0, len(anchors)), params, GRID, scales, keep_path)
    assert rows is not None
    return batch, rows


def _batch(
    launch: Launch,
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    windows: tuple[npt.NDArray[np.int64] | None, int, int],
    params: WindowParams,
    grid: tuple[int, int],
    scales: Scales | None,
    keep_path: bool = True,
) -> tuple[MetricsBatch, Rows | None]:
    anchors, first_anchor, n = windows
    table, width, words = tables(params.events), params.path_values, packed(bits)
    initial, damped = np.full((3, n), np.nan), np.full((3, n), np.nan)
    lam, potential, ratio = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    counts, settled_at, corrections = np.full((3, n), -1, np.int32), np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    converged, rupture, qbsa = np.full(n, 9, np.uint8), np.full(n, 9, np.uint8), np.full(n, 9, np.uint8)
    path = np.full((width, n), np.nan, np.float32)
    rows = scales and Rows(np.full((1, word_count(width), n), -1, np.int32), np.full((1, n), -1, np.int32))
    launch(
        "qfh", *grid, words, points, anchors, first_anchor, n, params.history, params.forward, params.samples,
        params.hold, params.eps, table.t, table.r, table.i, table.e,
        scales and scales.library, scales and scales.mu, scales and scales.sigma,
        initial, damped, lam, potential, counts, settled_at, converged, rupture,
        path if keep_path else None,
        rows and rows.words, rows and rows.norm,
    )  # fmt: skip
    launch("qbsa", *grid, words, anchors, first_anchor, n, params.history, table.i, corrections, ratio, qbsa)
    batch = MetricsBatch(
        initial=_by_row(initial), lam=lam, damped=_by_row(damped), settled_at=settled_at, converged=_flag(converged),
        path=_by_row(path), potential=potential, counts=_by_row(counts), rupture_collapse=_flag(rupture),
        probes=np.full(n, params.probes, np.int32), corrections=corrections, ratio=ratio, qbsa_collapse=_flag(qbsa),
    )  # fmt: skip
    return batch, rows


def _by_row(columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(columns.T)


def _flag(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    assert values.max(initial=0) <= 1
    return values.astype(np.bool_)


def quantised_rows(
    launch: Launch,
    paths: npt.NDArray[np.float32],
    mu: npt.NDArray[np.float64],
    sigma: npt.NDArray[np.float64],
    block_rows: int,
    strides: tuple[int, int] | None = None,
) -> Rows:
    """Paths (n, 3K) by the kernel; `strides` where they lie otherwise."""
    n, width = paths.shape
    blocks = -(-n // block_rows)
    rows = np.full((block_rows, word_count(width), blocks), -1, np.int32)
    norm = np.full((block_rows, blocks), -1, np.int32)
    row_stride, value_stride = strides or (width, 1)
    launch("quantise", *GRID, paths, row_stride, value_stride, n, width, block_rows, mu, sigma, rows, norm)
    return Rows(rows, norm)


def laid_out(quantised: npt.NDArray[np.int8], block_rows: int) -> Rows:
    """Quantised rows (n, 3K) int8 as the kernels want them, made by numpy."""
    n, width = quantised.shape
    blocks = -(-n // block_rows)
    whole = np.zeros((blocks * block_rows, 4 * word_count(width)), np.int8)
    whole[:n, :width] = quantised
    words = whole.view("<i4").reshape(blocks, block_rows, word_count(width))
    norm = np.einsum("nd,nd->n", whole, whole, dtype=np.int32).reshape(blocks, block_rows)
    return Rows(np.ascontiguousarray(words.transpose(1, 2, 0), np.int32), np.ascontiguousarray(norm.T))


def nearest(
    launch: Launch,
    library: Rows,
    n_rows: int,
    queries: Rows,
    eligible: npt.NDArray[np.int64],
    k: int,
    group: int,
    query_at: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """row, cosine (q, k) of the best blocks for each query."""
    block_rows, words, blocks = library.words.shape
    q, n = len(eligible), blocks
    cosine, row = np.full((q, n), np.nan), np.full((q, n), -9, np.int32)
    launch(
        "best_rows", *GRID, library.words, library.norm, n_rows, block_rows, words, queries.words, queries.norm,
        queries.norm.size, query_at, eligible, q, cosine, row,
    )  # fmt: skip
    while True:
        groups = max(1, -(-n // group))
        best_cosine, best_row = np.full((q, groups * k), np.nan), np.full((q, groups * k), -9, np.int32)
        launch("best_blocks", *GRID, cosine, row, n, q, group, k, best_cosine, best_row)
        if groups == 1:
            return best_row, best_cosine
        cosine, row, n = best_cosine, best_row, groups * k
