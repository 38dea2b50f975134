"""The library rows whose paths are nearest to a query's, one for each block of rows, exactly as a full sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

TILE_ROWS: Final = 256
"""Rows whose dot products are taken together: one tile of 48 dimensions and its sums stay in the first-level cache."""

_ROWS_PER_LOOK: Final = 32
"""Rows that are passed over together when none of them reaches the bar."""
_QUERIES_PER_PASS: Final = 4
_DIMENSIONS_PER_PASS: Final = 6
"""What four queries add up for six dimensions fits the registers; a row is widened to float32 once for all four."""
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
    padded = np.zeros((q, _passes(width) * _DIMENSIONS_PER_PASS), np.float32)
    padded[:, :width] = queries
    row, cosine, count = np.full((q, k), -1, np.int64), np.zeros((q, k)), np.zeros(q, np.int64)
    seen = np.clip(eligible, 0, tiles.rows).astype(np.int64)
    _search(
        tiles.values, tiles.norm, tiles.inverse, padded, squared_norms(queries), seen, block_rows, k, row, cosine, count
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
    dots = np.empty((_QUERIES_PER_PASS, TILE_ROWS), np.float32)
    bar, block_bar = np.full(q, np.float32(-np.inf)), np.full(q, np.float32(-np.inf))
    block, block_end = np.full(q, -1, np.int64), np.zeros(q, np.int64)
    block_row, block_cosine = np.zeros(q, np.int64), np.zeros(q)
    for tile in range(len(values)):
        base = tile * TILE_ROWS
        tile_inverse = inverse[base : base + TILE_ROWS]
        for first in range(0, q, _QUERIES_PER_PASS):
            group = range(first, min(first + _QUERIES_PER_PASS, q))
            if eligible[first : first + _QUERIES_PER_PASS].max() <= base:
                continue
            if len(group) == _QUERIES_PER_PASS:
                _dots_of_four(dots, values[tile], queries[first : first + _QUERIES_PER_PASS])
            else:
                for j in group:
                    _dots(dots[j - first], values[tile], queries[j])
            for j in group:
                rows = min(TILE_ROWS, eligible[j] - base)
                dot = dots[j - first]
                if rows <= 0 or not _any_above(dot, tile_inverse, bar[j]):
                    continue
                for start in range(0, rows, _ROWS_PER_LOOK):
                    look = slice(start, start + _ROWS_PER_LOOK)
                    if not _any_above(dot[look], tile_inverse[look], bar[j]):
                        continue
                    for i in range(start, min(start + _ROWS_PER_LOOK, rows)):
                        r, score = base + i, dot[i] * tile_inverse[i]
                        same_block = r < block_end[j]
                        if score < bar[j] or (same_block and score < block_bar[j]):
                            continue
                        c = _cosine(np.int64(dot[i]), norm[r], query_norm[j])
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


# Sums of at most 48 products of int8 stay below 2^24: float32 holds them exactly, in any order and contracted or not.
_exact_sums = nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@_exact_sums
def _dots(dots: Any, tile: Any, query: Any) -> None:
    dots[:] = 0
    for d in range(0, len(query), _DIMENSIONS_PER_PASS):
        x0, x1, x2, x3, x4, x5 = tile[d], tile[d + 1], tile[d + 2], tile[d + 3], tile[d + 4], tile[d + 5]
        a0, a1, a2, a3, a4, a5 = query[d], query[d + 1], query[d + 2], query[d + 3], query[d + 4], query[d + 5]
        for i in range(TILE_ROWS):
            u0, u1, u2 = np.float32(x0[i]), np.float32(x1[i]), np.float32(x2[i])
            u3, u4, u5 = np.float32(x3[i]), np.float32(x4[i]), np.float32(x5[i])
            dots[i] += ((u0 * a0 + u1 * a1) + (u2 * a2 + u3 * a3)) + (u4 * a4 + u5 * a5)


@_exact_sums
def _dots_of_four(dots: Any, tile: Any, queries: Any) -> None:
    dots[:] = 0
    p, q, r, s = dots[0], dots[1], dots[2], dots[3]
    for d in range(0, queries.shape[1], _DIMENSIONS_PER_PASS):
        x0, x1, x2, x3, x4, x5 = tile[d], tile[d + 1], tile[d + 2], tile[d + 3], tile[d + 4], tile[d + 5]
        a, b, c, e = queries[0, d : d + 6], queries[1, d : d + 6], queries[2, d : d + 6], queries[3, d : d + 6]
        a0, a1, a2, a3, a4, a5 = a[0], a[1], a[2], a[3], a[4], a[5]
        b0, b1, b2, b3, b4, b5 = b[0], b[1], b[2], b[3], b[4], b[5]
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        e0, e1, e2, e3, e4, e5 = e[0], e[1], e[2], e[3], e[4], e[5]
        for i in range(TILE_ROWS):
            u0, u1, u2 = np.float32(x0[i]), np.float32(x1[i]), np.float32(x2[i])
            u3, u4, u5 = np.float32(x3[i]), np.float32(x4[i]), np.float32(x5[i])
            p[i] += ((u0 * a0 + u1 * a1) + (u2 * a2 + u3 * a3)) + (u4 * a4 + u5 * a5)
            q[i] += ((u0 * b0 + u1 * b1) + (u2 * b2 + u3 * b3)) + (u4 * b4 + u5 * b5)
            r[i] += ((u0 * c0 + u1 * c1) + (u2 * c2 + u3 * c3)) + (u4 * c4 + u5 * c5)
            s[i] += ((u0 * e0 + u1 * e1) + (u2 * e2 + u3 * e3)) + (u4 * e4 + u5 * e5)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _any_above(dots: Any, inverse: Any, bar: Any) -> Any:
    above = np.int32(0)
    for i in range(len(dots)):
        above |= np.int32(dots[i] * inverse[i] >= bar)
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
