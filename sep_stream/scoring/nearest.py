"""The library rows whose paths are nearest to a query's, one for each block of rows, exactly as a full sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.threads import part_count, run_parts

TILE_ROWS: Final = 256
"""Rows whose bounds are taken together: what is needed of them, and the bounds, stay in the first-level cache."""
BASIS_MAX: Final = 11
"""Directions in which paths differ most. Paths are smooth: of those of a synthetic market 98 % of the squared length
lie in them, and of a million rows fewer than one in a thousand has to be looked at whole."""

_BOUND_DIMENSIONS: Final = BASIS_MAX + 1
_DIMENSIONS_PER_PASS: Final = 6
_QUERIES_PER_PASS: Final = 4
_ROWS_PER_LOOK: Final = 32
"""Rows that are passed over together when none of them can reach the bar."""
_MARGIN: Final = 2e-5
"""A row is passed over if its float32 bound is this much below the bar; the bound's own error is below 5e-6."""
_ROWS_AT_ONCE_MAX: Final = 131_072
"""With more eligible rows, the bounds of all at once leave the caches and take longer than they save."""
_SAMPLE_ROWS: Final = 2_048
"""The basis is made of so many rows; any basis gives the same result, a worse one later."""
_TURNS: Final = 8
"""After so many the basis holds as much of the rows as the best one, to 0.01 %."""
_REST_MIN: Final = 1e-9
"""Less than this share of a direction is what rounding leaves of nothing."""
_CHUNK_ROWS: Final = 65_536
_PART_ROW_QUERIES_MIN: Final = 1 << 20
"""Fewest rows times queries worth a thread of their own: a millisecond's work."""

_inlined = nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
"""Inlined by Numba itself: a call that hands on arrays takes longer than most of these functions do."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Quantised rows, as the search wants them.

    values: (n, 3K) int8 · norm: (n,) int64, each row's dot product with itself
    basis: (3K, c) float32, orthonormal columns · bounds: (t, _BOUND_DIMENSIONS, TILE_ROWS) float32, of each row, scaled
    to length 1: its coordinates in the basis, then the length of what lies outside it; rest 0 · outside: (n,) float32,
    that length

    By Cauchy and Schwarz the cosine of two rows is at most the dot product of their bounds.
    """

    values: npt.NDArray[np.int8]
    norm: npt.NDArray[np.int64]
    basis: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.float32]
    outside: npt.NDArray[np.float32]

    @classmethod
    def of(cls, quantised: npt.NDArray[np.int8]) -> Tiles:
        """Tiles of rows (n, 3K) int8, each value in -127 … 127."""
        n = len(quantised)
        norm, basis = squared_norms(quantised), _basis(quantised)
        bounds = np.zeros((-(-n // TILE_ROWS) * TILE_ROWS, _BOUND_DIMENSIONS), np.float32)
        for start in range(0, n, _CHUNK_ROWS):
            chunk = slice(start, min(start + _CHUNK_ROWS, n))
            bounds[chunk] = _bounds(quantised[chunk], norm[chunk], basis)
        by_tile = bounds.reshape(-1, TILE_ROWS, _BOUND_DIMENSIONS).transpose(0, 2, 1)
        outside = np.ascontiguousarray(bounds[:n, -1])
        return cls(np.ascontiguousarray(quantised), norm, basis, np.ascontiguousarray(by_tile), outside)


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
    q = len(queries)
    row, cosine, count = np.full((q, k), -1, np.int64), np.zeros((q, k)), np.zeros(q, np.int64)
    seen = np.clip(eligible, 0, len(tiles.values)).astype(np.int64)
    norm = squared_norms(queries)
    bounds = _bounds(queries, norm, tiles.basis)
    few = seen <= _ROWS_AT_ONCE_MAX

    def search(part: tuple[Any, npt.NDArray[np.int64]]) -> None:
        compiled, chosen = part
        compiled(
            tiles.values, tiles.norm, tiles.bounds, tiles.outside, queries[chosen], norm[chosen], bounds[chosen],
            seen[chosen], block_rows, k, chosen, row, cosine, count,
        )  # fmt: skip

    for compiled, chosen in ((_search_at_once, np.flatnonzero(few)), (_search_by_tile, np.flatnonzero(~few))):
        passes = -(-len(chosen) // _QUERIES_PER_PASS)
        parts = min(passes, part_count(int(seen[chosen].sum()), _PART_ROW_QUERIES_MIN))
        # Neighbours see about as many rows, so dealing them out gives each thread as much to do.
        run_parts(search, [(compiled, chosen[part::parts]) for part in range(parts)])
    return Nearest(row, cosine, count)


def _basis(quantised: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """The directions (3K, c) in which rows differ most: principal components, about the origin, of some of them."""
    sample = quantised[:: max(1, len(quantised) // _SAMPLE_ROWS)]
    gram = np.zeros((quantised.shape[1],) * 2)
    _add_products(sample, squared_norms(sample), gram)
    directions = np.eye(min(BASIS_MAX, len(gram)), len(gram))
    for _ in range(_TURNS):
        _turn(gram, directions)
    return np.ascontiguousarray(directions.T, np.float32)


def _bounds(
    quantised: npt.NDArray[np.int8], norm: npt.NDArray[np.int64], basis: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(n, _BOUND_DIMENSIONS): see Tiles."""
    bounds = np.zeros((len(quantised), _BOUND_DIMENSIONS), np.float32)
    _fill_bounds(quantised, norm, np.ascontiguousarray(basis.T), bounds)
    return bounds


# Loops, and not the products of whole matrices, which they equal: numpy's library for those has one set of threads for
# the process, and where several threads score, they wait for it and for each other.


@_inlined
def _scale_row(quantised: Any, row: int, norm: int, unit: Any) -> None:
    """A row scaled to length 1; one of length 0 as it is."""
    scale = np.float32(1.0 / np.sqrt(np.float64(max(norm, 1))))
    for d in range(len(unit)):
        unit[d] = np.float32(quantised[row, d]) * scale


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _add_products(quantised: Any, norm: Any, gram: Any) -> None:
    """Adds up, over the rows scaled to length 1, the products of all pairs of their values."""
    width = quantised.shape[1]
    unit = np.empty(width, np.float32)
    for row in range(len(quantised)):
        _scale_row(quantised, row, norm[row], unit)
        for a in range(width):
            for b in range(width):
                gram[a, b] += unit[a] * unit[b]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _turn(gram: Any, directions: Any) -> None:
    """Turns orthonormal rows towards the main axes of a symmetric matrix: multiplied by it, and made orthonormal
    again. Where fewer axes differ from 0 than there are rows, the others are 0."""
    turned = np.zeros_like(directions)
    for c in range(len(directions)):
        for a in range(len(gram)):
            for b in range(len(gram)):
                turned[c, b] += directions[c, a] * gram[a, b]
    for c in range(len(turned)):
        length = np.sqrt((turned[c] * turned[c]).sum())
        for _ in range(2):  # the first leaves what it rounds off
            for before in range(c):
                turned[c] -= (turned[c] * directions[before]).sum() * directions[before]
        rest = np.sqrt((turned[c] * turned[c]).sum())
        directions[c] = turned[c] / rest if rest > _REST_MIN * length else 0.0 * turned[c]


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _fill_bounds(quantised: Any, norm: Any, directions: Any, bounds: Any) -> None:
    width = quantised.shape[1]
    unit = np.empty(width, np.float32)
    for row in range(len(quantised)):
        _scale_row(quantised, row, norm[row], unit)
        for c in range(len(directions)):
            inside = np.float32(0.0)
            for d in range(width):
                inside += unit[d] * directions[c, d]
            bounds[row, c] = inside
        for c in range(len(directions)):
            for d in range(width):
                unit[d] -= bounds[row, c] * directions[c, d]
        outside = np.float32(0.0)
        for d in range(width):
            outside += unit[d] * unit[d]
        bounds[row, _BOUND_DIMENSIONS - 1] = np.sqrt(outside)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _search_at_once(
    values: Any, norm: Any, bounds: Any, outside: Any, queries: Any, query_norm: Any, query_bounds: Any,
    eligible: Any, block_rows: int, k: int, into: Any, row: Any, cosine: Any, count: Any,
) -> None:  # fmt: skip
    """Queries outside, each with the bounds of all its rows: what one row of each block reaches at least gives a bar to
    begin with. A cosine is no less than the dot product in the basis less that of what lies outside it."""
    tiles = (eligible.max() + TILE_ROWS - 1) // TILE_ROWS
    tops = np.empty((_QUERIES_PER_PASS, tiles * TILE_ROWS), np.float32)
    blocks_max = tiles * TILE_ROWS // block_rows + 1
    most, least = np.empty(blocks_max, np.float32), np.empty(blocks_max, np.float32)
    greatest = np.empty(k, np.float32)
    for first in range(0, len(queries), _QUERIES_PER_PASS):
        of_group = query_bounds[first : first + _QUERIES_PER_PASS]
        for tile in range((eligible[first : first + _QUERIES_PER_PASS].max() + TILE_ROWS - 1) // TILE_ROWS):
            _group_tops(tops, tile * TILE_ROWS, bounds[tile], of_group)
        for j in range(first, first + len(of_group)):
            top, rows, out = tops[j - first], eligible[j], into[j]
            blocks = (rows + block_rows - 1) // block_rows
            twice_outside = np.float32(2.0) * query_bounds[j, _BOUND_DIMENSIONS - 1]
            for block in range(blocks):
                start, stop = block * block_rows, min(rows, (block + 1) * block_rows)
                most[block], least[block] = _reach(top[start:stop], outside[start:stop], twice_outside)
            bar = np.float32(-np.inf)
            if blocks > k:
                bar = _last_of_greatest(least[:blocks], greatest) - np.float32(_MARGIN)
            for block in range(blocks):
                if most[block] < bar:
                    continue
                start, stop = block * block_rows, min(rows, (block + 1) * block_rows)
                r, c = _best_of(values, norm, top, 0, start, stop, queries[j], query_norm[j], bar, -1, -2.0)
                if r >= 0:
                    bar = _enter(r, c, k, row[out], cosine[out], count, out, bar)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _search_by_tile(
    values: Any, norm: Any, bounds: Any, outside: Any, queries: Any, query_norm: Any, query_bounds: Any,
    eligible: Any, block_rows: int, k: int, into: Any, row: Any, cosine: Any, count: Any,
) -> None:  # fmt: skip
    """Tiles outside, queries inside: a tile is read from memory once. Each query keeps the best row of the block that
    it is in, and its best blocks so far, whose last sets the bar."""
    q = len(queries)
    tops = np.empty((_QUERIES_PER_PASS, TILE_ROWS), np.float32)
    bar, block = np.full(q, np.float32(-np.inf)), np.zeros(q, np.int64)
    block_row, block_cosine = np.full(q, -1, np.int64), np.full(q, -2.0)
    for tile in range(len(bounds)):
        base = tile * TILE_ROWS
        for first in range(0, q, _QUERIES_PER_PASS):
            of_group = query_bounds[first : first + _QUERIES_PER_PASS]
            if eligible[first : first + _QUERIES_PER_PASS].max() <= base:
                continue
            _group_tops(tops, 0, bounds[tile], of_group)
            for j in range(first, first + len(of_group)):
                rows, top, out = min(TILE_ROWS, eligible[j] - base), tops[j - first], into[j]
                if rows <= 0 or not _any_above(top, bar[j]):
                    continue
                start = 0
                while start < rows:
                    of_block = (base + start) // block_rows
                    stop = min(rows, (of_block + 1) * block_rows - base)
                    if of_block != block[j]:
                        if block_row[j] >= 0:
                            bar[j] = _enter(block_row[j], block_cosine[j], k, row[out], cosine[out], count, out, bar[j])
                        block[j], block_row[j], block_cosine[j] = of_block, -1, -2.0
                    block_row[j], block_cosine[j] = _best_of(
                        values, norm, top, base, start, stop, queries[j], query_norm[j], bar[j], block_row[j],
                        block_cosine[j],
                    )  # fmt: skip
                    start = stop
    for j in range(q):
        if block_row[j] >= 0:
            out = into[j]
            _enter(block_row[j], block_cosine[j], k, row[out], cosine[out], count, out, bar[j])


@_inlined
def _best_of(
    values: Any, norm: Any, top: Any, base: int, start: int, stop: int, query: Any, query_norm: int, bar: Any, r: int,
    c: float,
) -> Any:  # fmt: skip
    """(row, cosine) of the best of a block's rows base + start … base + stop - 1, r and c if none is better.

    The row of the greatest bound is looked at first: it spares most of the others.
    """
    lowest = bar if r < 0 else max(bar, np.float32(c - _MARGIN))
    first = -1
    for piece in range(start, stop, _ROWS_PER_LOOK):
        end = min(stop, piece + _ROWS_PER_LOOK)
        if not _any_above(top[piece:end], lowest):
            continue
        if first < 0:
            first = piece + _highest(top[piece:stop])
            r, c = _better(values, norm, base + first, query, query_norm, r, c)
            lowest = max(lowest, np.float32(c - _MARGIN))
        for i in range(piece, end):
            if top[i] >= lowest and i != first:
                r, c = _better(values, norm, base + i, query, query_norm, r, c)
                lowest = max(lowest, np.float32(c - _MARGIN))
    return r, c


@_inlined
def _highest(tops: Any) -> Any:
    """The row of the greatest bound, or the last where all are below 0. Compared as in `_reach`."""
    most = np.float32(0.0).view(np.int32)
    for i in range(len(tops)):
        most = max(most, np.float32(tops[i]).view(np.int32))
    row = 0
    while row < len(tops) - 1 and np.float32(tops[row]).view(np.int32) != most:
        row += 1
    return row


@_inlined
def _better(values: Any, norm: Any, i: int, query: Any, query_norm: int, r: int, c: float) -> Any:
    """(row, cosine) of the better of row i and row r, whose cosine is c; the later one if they are equal."""
    cosine = _cosine(_dot(values[i], query), norm[i], query_norm)
    return (i, cosine) if cosine > c or (cosine == c and i > r) else (r, c)


@_inlined
def _reach(tops: Any, outside: Any, twice_outside: Any) -> Any:
    """What some rows reach at most, and what one of them surely reaches.

    The bits are compared as integers, which takes a few instructions for all rows; that of floats goes one by one. The
    order is that of the floats from 0 on. Below, `most` is told as 0, and `least` as one of several or -2: both hold.
    """
    most, least = np.float32(0.0).view(np.int32), np.float32(-2.0).view(np.int32)
    for i in range(len(tops)):
        most = max(most, np.float32(tops[i]).view(np.int32))
        least = max(least, np.float32(tops[i] - twice_outside * outside[i]).view(np.int32))
    return np.int32(most).view(np.float32), np.int32(least).view(np.float32)


@_inlined
def _last_of_greatest(values: Any, greatest: Any) -> Any:
    """The k-th greatest value; the k greatest are put into `greatest`, in order."""
    greatest[:] = -np.inf
    last = len(greatest) - 1
    for value in values:
        if value > greatest[last]:
            at = last
            while at > 0 and greatest[at - 1] < value:
                greatest[at] = greatest[at - 1]
                at -= 1
            greatest[at] = value
    return greatest[last]


_bound_sums = nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
"""What these give is no result: _MARGIN covers how they round."""


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _group_tops(tops: Any, start: int, tile: Any, queries: Any) -> None:
    """The bounds of a tile's rows for up to four queries, each in its row of `tops` from `start` on."""
    stop = start + TILE_ROWS
    if len(queries) == _QUERIES_PER_PASS:
        _tops_of_four(tops[0][start:stop], tops[1][start:stop], tops[2][start:stop], tops[3][start:stop], tile, queries)
    else:
        for j in range(len(queries)):
            _tops(tops[j][start:stop], tile, queries[j])


@_bound_sums
def _tops(tops: Any, tile: Any, query: Any) -> None:
    tops[:] = 0
    for d in range(0, _BOUND_DIMENSIONS, _DIMENSIONS_PER_PASS):
        x0, x1, x2, x3, x4, x5 = tile[d], tile[d + 1], tile[d + 2], tile[d + 3], tile[d + 4], tile[d + 5]
        a0, a1, a2, a3, a4, a5 = query[d], query[d + 1], query[d + 2], query[d + 3], query[d + 4], query[d + 5]
        for i in range(TILE_ROWS):
            tops[i] += ((x0[i] * a0 + x1[i] * a1) + (x2[i] * a2 + x3[i] * a3)) + (x4[i] * a4 + x5[i] * a5)


@_bound_sums
def _tops_of_four(p: Any, q: Any, r: Any, s: Any, tile: Any, queries: Any) -> None:
    """Four at a time: a row's numbers are loaded once for all."""
    p[:], q[:], r[:], s[:] = 0, 0, 0, 0
    for d in range(0, _BOUND_DIMENSIONS, _DIMENSIONS_PER_PASS):
        x0, x1, x2, x3, x4, x5 = tile[d], tile[d + 1], tile[d + 2], tile[d + 3], tile[d + 4], tile[d + 5]
        a, b, c, e = queries[0, d : d + 6], queries[1, d : d + 6], queries[2, d : d + 6], queries[3, d : d + 6]
        a0, a1, a2, a3, a4, a5 = a[0], a[1], a[2], a[3], a[4], a[5]
        b0, b1, b2, b3, b4, b5 = b[0], b[1], b[2], b[3], b[4], b[5]
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        e0, e1, e2, e3, e4, e5 = e[0], e[1], e[2], e[3], e[4], e[5]
        for i in range(TILE_ROWS):
            u0, u1, u2, u3, u4, u5 = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i]
            p[i] += ((u0 * a0 + u1 * a1) + (u2 * a2 + u3 * a3)) + (u4 * a4 + u5 * a5)
            q[i] += ((u0 * b0 + u1 * b1) + (u2 * b2 + u3 * b3)) + (u4 * b4 + u5 * b5)
            r[i] += ((u0 * c0 + u1 * c1) + (u2 * c2 + u3 * c3)) + (u4 * c4 + u5 * c5)
            s[i] += ((u0 * e0 + u1 * e1) + (u2 * e2 + u3 * e3)) + (u4 * e4 + u5 * e5)


@_inlined
def _any_above(tops: Any, bar: Any) -> Any:
    above = np.int32(0)
    for i in range(len(tops)):
        above |= np.int32(tops[i] >= bar)
    return above > 0


@_inlined
def _dot(a: Any, b: Any) -> Any:
    total = np.int32(0)
    for d in range(len(a)):
        total = np.int32(total + np.int32(np.int32(a[d]) * np.int32(b[d])))  # Numba widens sums of int32 to int64
    return total


@_inlined
def _cosine(dot: int, norm: int, query_norm: int) -> float:
    product = np.float64(norm * query_norm)
    return np.float64(dot) / np.sqrt(product) if product > 0.0 else 0.0


@_inlined
def _enter(r: int, c: float, k: int, row: Any, cosine: Any, count: Any, j: int, bar: Any) -> Any:
    """Put a finished block among the best, before those that it equals: it is the later one. Returns the bar now."""
    if count[j] == k and c < cosine[k - 1]:
        return bar
    at = count[j] if count[j] < k else k - 1
    count[j] = at + 1
    while at > 0 and cosine[at - 1] <= c:
        row[at], cosine[at] = row[at - 1], cosine[at - 1]
        at -= 1
    row[at], cosine[at] = r, c
    return max(bar, np.float32(cosine[k - 1] - _MARGIN)) if count[j] == k else bar
