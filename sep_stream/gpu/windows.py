"""Windows on a device: in chunks that fit, copies beside the kernels of the chunk before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.gpu.device import Argument
from sep_stream.gpu.stretches import Field, Layout, Slot
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.metrics.tables import Tables, tables

WINDOWS_AT_ONCE_MAX: Final = 1 << 18
"""With default windows 65 MB to copy back, which takes milliseconds: launches and waits are nothing beside it."""
WINDOWS_AT_ONCE_MIN: Final = 32
"""Where fewer don't fit, a device is of no use."""
PIECES_MIN: Final = 4
"""Smaller batches are cut into so many chunks, if these keep WINDOWS_WORTH_A_CHUNK: one is copied as another runs."""
WINDOWS_WORTH_A_CHUNK: Final = 1 << 14

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What windows are cut from, and where. bits: (m,) uint8 · points: (m,) int32 · anchors: (n,) int64, rising"""

    bits: npt.NDArray[np.uint8]
    points: npt.NDArray[np.int32]
    anchors: Int64
    params: WindowParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """The windows first … end - 1 of a series' anchors, and the bars from_bar … to_bar - 1 that they lie in.

    neighbours: each anchor is the one before plus 1, so that they need not be told
    """

    first: int
    end: int
    from_bar: int
    to_bar: int
    neighbours: bool

    @property
    def windows(self) -> int:
        return self.end - self.first

    @property
    def bars(self) -> int:
        return self.to_bar - self.from_bar


def chunk_at(series: Series, first: int, windows_max: int, bytes_max: int) -> Chunk:
    """The windows from `first` on that are worth a copy together, as many as are allowed and fit in so many bytes.

    Between anchors that are far from each other lie bars that nobody reads: a chunk has no more bars than its windows
    have, each alone. WINDOWS_AT_ONCE_MIN windows count as fitting.
    """
    params, anchors = series.params, series.anchors[first : first + windows_max]
    n = len(anchors)
    if int(anchors[-1] - anchors[0]) != n - 1:
        spread = anchors - anchors[0] - params.window_bars * np.arange(n)
        n = int(np.flatnonzero(spread <= 0)[-1]) + 1
    while True:
        begin, last = int(anchors[0]), int(anchors[n - 1])
        chunk = Chunk(
            first, first + n, begin - params.history + 1, last + params.forward + 1, neighbours=last - begin == n - 1
        )
        if n <= WINDOWS_AT_ONCE_MIN or metrics_layout(chunk, params).size <= bytes_max:
            return chunk
        n = max(WINDOWS_AT_ONCE_MIN, n // 2)


def windows_worth(windows: int) -> int:
    """Into chunks of how many so many windows are cut, where memory is no matter."""
    return min(WINDOWS_AT_ONCE_MAX, max(WINDOWS_WORTH_A_CHUNK, -(-windows // PIECES_MIN)))


def input_fields(chunk: Chunk, params: WindowParams) -> list[Field]:
    """What the kernels of windows read."""
    return [
        Field("bits", (-(-chunk.bars // 64) + 1,), np.uint64),
        Field("points", (chunk.bars,), np.int32),
        Field("anchors", (0 if chunk.neighbours else chunk.windows,), np.int64),
        *(Field(name, (params.window_bars,), np.float64) for name in "tri"),
        Field("e", (len(tables(1).e),), np.float64),
    ]


_BY_ROW: Final = {"initial": (3, np.float64), "damped": (3, np.float64), "counts": (3, np.int32)}
"""What the kernels write value by value and a batch wants window by window; and the path."""
SINGLE: Final = {
    "lam": np.float64, "potential": np.float64, "settled_at": np.int32, "converged": np.uint8,
    "rupture_collapse": np.uint8, "corrections": np.int32, "ratio": np.float64, "qbsa_collapse": np.uint8,
}  # fmt: skip


def metrics_layout(chunk: Chunk, params: WindowParams) -> Layout:
    """The memory of a chunk whose metrics all go back."""
    windows = chunk.windows
    by_row = {**_BY_ROW, "path": (params.path_values, np.float32)}
    return Layout(
        input_fields(chunk, params),
        [Field(f"{name}_columns", (width, windows), dtype) for name, (width, dtype) in by_row.items()],
        [
            *(Field(name, (windows, width), dtype) for name, (width, dtype) in by_row.items()),
            *(Field(name, (windows,), dtype) for name, dtype in SINGLE.items()),
        ],
    )


def fill_inputs(slot: Slot, series: Series, chunk: Chunk) -> None:
    """Lay a chunk's bars, anchors and tables into pinned memory."""
    bars, params = slice(chunk.from_bar, chunk.to_bar), series.params
    words, packed = slot.host("bits").view(np.uint8), np.packbits(series.bits[bars], bitorder="little")
    words[: len(packed)] = packed
    words[len(packed) :] = 0
    slot.host("points")[:] = series.points[bars]
    if not chunk.neighbours:
        np.subtract(series.anchors[chunk.first : chunk.end], chunk.from_bar, out=slot.host("anchors"))
    table: Tables = tables(params.events)
    for name in "trie":
        slot.host(name)[:] = getattr(table, name)


def anchors_of(slot: Slot, chunk: Chunk, params: WindowParams) -> list[Argument]:
    """anchors, first_anchor and n, as the kernels have them."""
    listed = None if chunk.neighbours else slot["anchors"]
    return [listed, np.int64(params.history - 1), np.int64(chunk.windows)]


def launch_qfh(
    slot: Slot, chunk: Chunk, params: WindowParams, names: Sequence[str], scales: Sequence[int | None],
    quantised: Sequence[int | None],
) -> None:  # fmt: skip
    """names: where initial, damped, counts and path go, "" for a path that is not kept · scales: addresses of library,
    mu and sigma · quantised: of the words and norms, as qfh.cu has them"""
    initial, damped, counts, path = names
    slot.launch(
        "qfh",
        chunk.windows,
        [
            slot["bits"], slot["points"], *anchors_of(slot, chunk, params),
            *(np.int32(v) for v in (params.history, params.forward, params.samples, params.hold)),
            np.float64(params.eps),
            *(slot[name] for name in "trie"), *scales, slot[initial], slot[damped], slot["lam"], slot["potential"],
            slot[counts], slot["settled_at"], slot["converged"], slot["rupture_collapse"], slot[path] if path else None,
            *quantised,
        ],
    )  # fmt: skip


def launch_qbsa(slot: Slot, chunk: Chunk, params: WindowParams) -> None:
    slot.launch(
        "qbsa",
        chunk.windows,
        [
            slot["bits"], *anchors_of(slot, chunk, params), np.int32(params.history), slot["i"],
            slot["corrections"], slot["ratio"], slot["qbsa_collapse"],
        ],
        side=True,
    )  # fmt: skip


def start_metrics(slot: Slot, series: Series, chunk: Chunk) -> None:
    """Begin a chunk; nothing waits for it."""
    n, params = chunk.windows, series.params
    slot.lay_out(metrics_layout(chunk, params))
    fill_inputs(slot, series, chunk)
    slot.send()
    slot.fork()
    launch_qbsa(slot, chunk, params)
    launch_qfh(slot, chunk, params, [f"{name}_columns" for name in (*_BY_ROW, "path")], (None,) * 3, (None,) * 2)
    for name, (width, dtype) in {**_BY_ROW, "path": (params.path_values, np.float32)}.items():
        kernel = f"by_row_{np.dtype(dtype).itemsize}"
        slot.launch(kernel, width * n, [slot[f"{name}_columns"], np.int64(width), np.int64(n), slot[name]])
    slot.join()
    slot.fetch()


def finish_metrics(slot: Slot, chunk: Chunk, batch: MetricsBatch) -> None:
    """Wait for a chunk, and lay what it gave into the rows of a batch."""
    slot.wait()
    for field in fields(MetricsBatch):
        if field.name != "probes":
            rows: npt.NDArray[Any] = getattr(batch, field.name)[chunk.first : chunk.end]
            rows[...] = slot.host(field.name)


def in_turn(
    slots: Sequence[Slot],
    first: int,
    end: int,
    chunk_from: Callable[[int], Chunk],
    start: Callable[[Slot, Chunk], None],
    finish: Callable[[Slot, Chunk], None],
) -> Iterator[int]:
    """Chunk by chunk from `first` to `end`, as many at once as there are slots; yields up to where all is done."""
    running: deque[tuple[Slot, Chunk]] = deque()
    free = deque(slots)
    while first < end or running:
        if free and first < end:
            slot, chunk = free.popleft(), chunk_from(first)
            start(slot, chunk)
            running.append((slot, chunk))
            first = chunk.end
        else:
            slot, chunk = running.popleft()
            finish(slot, chunk)
            free.append(slot)
            yield chunk.end
