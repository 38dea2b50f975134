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
from sep_stream.scoring.gate import GateParameters
from sep_stream.scoring.score import Votes


@dataclass(frozen=True, slots=True, eq=False)
class ScoredWindows:
    """What scores and gates of n windows are made of; all else stays on the device.

    gate: (n,) uint8, mask of the reasons that failed, but for the confidence, which is known with a score
    votes: of the windows looked up
    """

    gate: npt.NDArray[np.uint8]
    votes: Votes

    @classmethod
    def empty(cls, n: int, looked_up: int) -> ScoredWindows:
        return cls(np.zeros(n, np.uint8), search.no_votes(looked_up))


@dataclass(frozen=True, slots=True, eq=False)
class LookUp:
    """Which windows are scored, and how.

    at: (q,) int64, positions among the anchors, rising · eligible: (q,) int64, rows that each may see
    head, spans, parts: of the library · gate: its thresholds
    """

    at: Int64
    eligible: Int64
    shape: Shape
    head: Head
    spans: Spans
    parts: Callable[[Spans, Slot], Iterator[Part]]
    gate: GateParameters

    def within(self, chunk: Chunk) -> slice:
        first, end = np.searchsorted(self.at, [chunk.first, chunk.end]).tolist()
        return slice(first, end)


def fused_layout(chunk: Chunk, queries: int, series: Series, shape: Shape, spans: Spans) -> Layout:
    """The memory of a chunk of which `queries` windows are scored; one at least, for the layout's sake."""
    n, q = chunk.windows, max(1, queries)
    scratch, votes = search.search_fields(q, spans, shape)
    on_device: dict[str, tuple[tuple[int, ...], Any]] = {
        **dict.fromkeys(("initial", "damped"), ((3, n), np.float64)),
        "counts": ((3, n), np.int32),
        **{name: ((n,), dtype) for name, dtype in windows.SINGLE.items()},
        "queries": ((shape.words, n), np.int32),
        "query_norm": ((n,), np.int32),
    }
    return Layout(
        [
            *windows.input_fields(chunk, series.params),
            Field("query_at", (q,), np.int64),
            Field("eligible", (len(spans), q), np.int64),
        ],
        [*(Field(name, *each) for name, each in on_device.items()), *scratch],
        [Field("gate", (n,), np.uint8), *votes],
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
    windows.launch_qbsa(slot, chunk, params)
    scales, quantised = (None, look_up.head.mu, look_up.head.sigma), (slot["queries"], slot["query_norm"])
    windows.launch_qfh(slot, chunk, params, ("initial", "damped", "counts", ""), scales, quantised)
    if queries:
        parts = look_up.parts(spans, slot)
        search.launch_search(slot, look_up.head, parts, len(spans), shape, queries, n, slot["query_at"])
    slot.join()
    gate = look_up.gate
    slot.launch(
        "gates",
        n,
        [
            slot["damped"], slot["converged"], slot["rupture_collapse"], slot["qbsa_collapse"], np.int64(n),
            np.float64(gate.coherence_min), np.float64(gate.stability_margin_min), slot["gate"],
        ],
    )  # fmt: skip
    slot.fetch()


def finish_fused(slot: Slot, chunk: Chunk, look_up: LookUp, scored: ScoredWindows) -> None:
    """Wait for a chunk, and lay what it gave into the rows of `scored`."""
    slot.wait()
    scored.gate[chunk.first : chunk.end] = slot.host("gate")
    rows = look_up.within(chunk)
    if rows.stop > rows.start:
        search.take_votes(slot, scored.votes, rows)
