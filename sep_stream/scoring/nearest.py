"""The library rows whose paths are nearest to a query's, one for each block of rows, exactly as a full sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

TILE_ROWS: Final = 1024
"""Rows whose dot products are taken together: one tile of 48 dimensions and its sums stay in the first-level cache."""

_ROWS_PER_LOOK: Final = 64
"""Rows that are passed over together when none of them reaches the bar."""
_DIMENSIONS_PER_PASS: Final = 2
_MARGIN: Final = 1e-5
"""A row is dropped unseen if its float32 score is this much below the bar; the score's own error is below 1e-6."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Quantised rows, as the search wants them.

    rows: how many · values: (t, d, TILE_ROWS) int8, d the path's length rounded up to whole passes, rest 0
    norm: (t * TILE_ROWS,) int64, each row's dot product with itself · inverse: float32, 1 / sqrt(norm), 0 for norm 0
    """

    rows: int
    values: npt.NDArray[np.int8]
    norm: npt.NDArray[np.int64]
    inverse: npt.NDArray[np.float32]

    @classmethod
    def of(cls, quantised: npt.NDArray[np.int8]) -> Tiles:
        """Tiles of rows (n, 3K) int8, each value in -127 … 127."""
        n, width = quantised.shape
        tiles = -(-n // TILE_ROWS)
        padded = np.zeros((tiles * TILE_ROWS, _passes(width) * _DIMENSIONS_PER_PASS), np.int8)
        padded[:n, :width] = quantised
        values = padded.reshape(tiles, TILE_ROWS, padded.shape[1]).transpose(0, 2, 1)
        norm = squared_norms(padded)
        root = np.sqrt(np.where(norm > 0, norm, 1))
        return cls(n, np.ascontiguousarray(values), norm, np.where(norm > 0, 1.0 / root, 0.0).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The best rows of q queries, one a block, best first.

    row: (q, k) int64, -1 where there are fewer than k · cosine: (q, k) float64, 0 there · count: (q,) int64
    """

    row: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]


def squared_norms(quantised: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Each row's dot product with itself, (n,) int64."""
    return np.einsum("nd,nd->n", quantised, quantised, dtype=np.int64)


def nearest_blocks(
    tiles: Tiles, queries: npt.NDArray[np.int8], eligible: npt.NDArray[np.int64], block_rows: int, k: int
) -> Nearest:
    """The k best blocks of `block_rows` rows for each query, each by its row of greatest cosine.

    queries: (q, 3K) int8 · eligible: (q,) int64, how many rows, from the first, each query may see
    A later row or block wins a tie. sep-metrics/1, section 7.
    """
    q, width = queries.shape
    padded = np.zeros((q, _passes(width) * _DIMENSIONS_PER_PASS), np.int8)
    padded[:, :width] = queries
    row, cosine, count = np.full((q, k), -1, np.int64), np.zeros((q, k)), np.zeros(q, np.int64)
    seen = np.clip(eligible, 0, tiles.rows).astype(np.int64)
    _search(
        tiles.values, tiles.norm, tiles.inverse, padded, squared_norms(padded), seen, block_rows, k, row, cosine, count
    )
    return Nearest(row, cosine, count)


def _passes(width: int) -> int:
    return -(-width // _DIMENSIONS_PER_PASS)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _search(
    values: Any, norm: Any, inverse: Any, queries: Any, query_norm: Any, eligible: Any, block_rows: int, k: int,
    row: Any, cosine: Any, count: Any,
) -> None:  # fmt: skip
    """Tiles outside, queries inside: a tile is read from memory once. Each query keeps the best row of the block that
    it is in, and its best blocks so far, whose last sets the bar."""
    q = len(queries)
    dots = np.empty(TILE_ROWS, np.int32)
    bar, block_bar = np.full(q, np.float32(-np.inf)), np.full(q, np.float32(-np.inf))
    block, block_end = np.full(q, -1, np.int64), np.zeros(q, np.int64)
    block_row, block_cosine = np.zeros(q, np.int64), np.zeros(q)
    for tile in range(len(values)):
        base = tile * TILE_ROWS
        tile_inverse = inverse[base : base + TILE_ROWS]
        for j in range(q):
            rows = min(TILE_ROWS, eligible[j] - base)
            if rows <= 0:
                continue
            _dots(dots, values[tile], queries[j])
            for start in range(0, rows, _ROWS_PER_LOOK):
                look = slice(start, start + _ROWS_PER_LOOK)
                if not _any_above(dots[look], tile_inverse[look], bar[j]):
                    continue
                for i in range(start, min(start + _ROWS_PER_LOOK, rows)):
                    r, score = base + i, np.float32(dots[i]) * tile_inverse[i]
                    same_block = r < block_end[j]
                    if score < bar[j] or (same_block and score < block_bar[j]):
                        continue
                    c = _cosine(dots[i], norm[r], query_norm[j])
                    if not same_block:
                        _enter(block_row[j], block_cosine[j], block[j], k, row[j], cosine[j], count, j)
                        if count[j] == k:
                            bar[j] = _bar(cosine[j, k - 1], query_norm[j])
                        block[j] = r // block_rows
                        block_end[j] = (block[j] + 1) * block_rows
                    elif c < block_cosine[j]:
                        continue
                    block_row[j], block_cosine[j], block_bar[j] = r, c, _bar(c, query_norm[j])
    for j in range(q):
        _enter(block_row[j], block_cosine[j], block[j], k, row[j], cosine[j], count, j)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _dots(dots: Any, tile: Any, query: Any) -> None:
    dots[:] = 0
    for d in range(0, len(query), _DIMENSIONS_PER_PASS):
        first, second = np.int32(query[d]), np.int32(query[d + 1])
        first_row, second_row = tile[d], tile[d + 1]
        for i in range(TILE_ROWS):
            dots[i] += np.int32(np.int32(first_row[i]) * first + np.int32(second_row[i]) * second)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _any_above(dots: Any, inverse: Any, bar: Any) -> Any:
    above = np.int32(0)
    for i in range(_ROWS_PER_LOOK):
        above |= np.int32(np.float32(dots[i]) * inverse[i] >= bar)
    return above > 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _cosine(dot: int, norm: int, query_norm: int) -> float:
    product = np.float64(norm * query_norm)
    return np.float64(dot) / np.sqrt(product) if product > 0.0 else 0.0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _enter(r: int, c: float, block: int, k: int, row: Any, cosine: Any, count: Any, j: int) -> None:
    """Put a finished block among the best, before those that it equals: it is the later one."""
    if block < 0 or (count[j] == k and c < cosine[k - 1]):
        return
    at = count[j] if count[j] < k else k - 1
    count[j] = at + 1
    while at > 0 and cosine[at - 1] <= c:
        row[at], cosine[at] = row[at - 1], cosine[at - 1]
        at -= 1
    row[at], cosine[at] = r, c


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _bar(cosine: float, query_norm: int) -> Any:
    """The float32 score below which a row's cosine is certainly less than this one."""
    return np.float32((cosine - _MARGIN) * np.sqrt(np.float64(query_norm)))
