"""Bits to scores without leaving the device: windows, quantised paths, nearest paths and votes of a chunk at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.gpu import search, windows
from sep_stream.gpu.search import Head, Part, Shape, Spans
from sep_stream.gpu.stretches import Field, Layout, Slot
from sep_stream.gpu.windows import Chunk, Int64, Series
from sep_stream.scoring.score import Votes


@dataclass(frozen=True, slots=True, eq=False)
class ScoredWindows:
    """What scores and gates of n windows are made of; all else stays on the device.

    damped: (n, 3) float64 · converged, rupture_collapse, qbsa_collapse: (n,) bool · votes: of the windows looked up
    """

    damped: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    rupture_collapse: npt.NDArray[np.bool_]
    qbsa_collapse: npt.NDArray[np.bool_]
    votes: Votes

    @classmethod
    def empty(cls, n: int, looked_up: int) -> ScoredWindows:
        one, two, three = (np.zeros(n, np.bool_) for _ in range(3))
        return cls(np.zeros((n, 3)), one, two, three, search.no_votes(looked_up))


@dataclass(frozen=True, slots=True, eq=False)
class LookUp:
    """Which windows are scored. at: (q,) int64, positions among the anchors, rising · eligible: (q,) int64, rows that
    each may see · head, spans, parts: of the library"""

    at: Int64
    eligible: Int64
    shape: Shape
    head: Head
    spans: Spans
    parts: Callable[[Spans, Slot], Iterator[Part]]

    def within(self, chunk: Chunk) -> slice:
        first, end = np.searchsorted(self.at, [chunk.first, chunk.end]).tolist()
        return slice(first, end)


def fused_layout(chunk: Chunk, queries: int, series: Series, shape: Shape, spans: Spans) -> Layout:
    """The memory of a chunk of which `queries` windows are scored; one at least, for the layout's sake."""
    n, q = chunk.windows, max(1, queries)
    scratch, votes = search.search_fields(q, spans, shape)
    kept = (("initial", (3, n), np.float64), ("damped_columns", (3, n), np.float64), ("counts", (3, n), np.int32),
            ("lam", (n,), np.float64), ("potential", (n,), np.float64), ("settled_at", (n,), np.int32),
            ("corrections", (n,), np.int32), ("ratio", (n,), np.float64),
            ("queries", (shape.words, n), np.int32), ("query_norm", (n,), np.int32))  # fmt: skip
    back: tuple[tuple[str, tuple[int, ...], Any], ...] = (
        ("damped", (n, 3), np.float64), ("converged", (n,), np.uint8), ("rupture_collapse", (n,), np.uint8),
        ("qbsa_collapse", (n,), np.uint8),
    )  # fmt: skip
    return Layout(
        [
            *windows.input_fields(n, chunk.bars, series.params),
            Field("query_at", (q,), np.int64),
            Field("eligible", (len(spans), q), np.int64),
        ],
        [*(Field(*each) for each in kept), *scratch],
        [*(Field(*each) for each in back), *votes],
    )


def fused_chunk(series: Series, first: int, windows_max: int, bytes_max: float, look_up: LookUp) -> Chunk:
    """The windows from `first` on that are done together: as many as fit, of which QUERIES_AT_ONCE_MAX are scored."""
    while True:
        chunk = windows.chunk_at(series, first, windows_max, int(bytes_max))
        rows = look_up.within(chunk)
        queries = rows.stop - rows.start
        fits = fused_layout(chunk, queries, series, look_up.shape, look_up.spans).size <= bytes_max
        if chunk.windows == 1 or (fits and queries <= search.QUERIES_AT_ONCE_MAX):
            return chunk
        windows_max = chunk.windows // 2


def start_fused(slot: Slot, series: Series, chunk: Chunk, look_up: LookUp) -> None:
    """Begin a chunk; nothing waits for it where the library is on the device."""
    n, params, shape, spans = chunk.windows, series.params, look_up.shape, look_up.spans
    rows = look_up.within(chunk)
    queries = rows.stop - rows.start
    slot.lay_out(fused_layout(chunk, queries, series, shape, spans))
    windows.fill_inputs(slot, series, chunk)
    if queries:
        slot.host("query_at")[:] = look_up.at[rows] - chunk.first
        slot.host("eligible")[:] = search.eligible_in_parts(look_up.eligible[rows], spans)
    slot.send()
    slot.fork()
    windows.launch_qbsa(slot, n, params)
    scales, quantised = (None, look_up.head.mu, look_up.head.sigma), (slot["queries"], slot["query_norm"])
    windows.launch_qfh(slot, n, params, ("initial", "damped_columns", "counts", ""), scales, quantised)
    slot.launch("by_row_8", 3 * n, [slot["damped_columns"], np.int64(3), np.int64(n), slot["damped"]])
    if queries:
        parts = look_up.parts(spans, slot)
        search.launch_search(slot, look_up.head, parts, len(spans), shape, queries, n, slot["query_at"])
    slot.join()
    slot.fetch()


def finish_fused(slot: Slot, chunk: Chunk, look_up: LookUp, scored: ScoredWindows) -> None:
    """Wait for a chunk, and lay what it gave into the rows of `scored`."""
    slot.wait()
    for name in ("damped", "converged", "rupture_collapse", "qbsa_collapse"):
        target: npt.NDArray[Any] = getattr(scored, name)
        target[chunk.first : chunk.end] = slot.host(name)
    rows = look_up.within(chunk)
    if rows.stop > rows.start:
        search.take_votes(slot, scored.votes, rows)
