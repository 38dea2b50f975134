"""`GpuEngine`: metrics and votes by the kernels, on a device whose memory is bounded and which may fail."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import DependencyError, InputError
from sep_stream.gpu import fused, search, windows
from sep_stream.gpu.device import Device, DeviceLostError, DeviceMemoryError
from sep_stream.gpu.fused import LookUp, ScoredWindows
from sep_stream.gpu.search import Head, Part, Shape, Spans
from sep_stream.gpu.stretches import Slot
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.metrics.compute import checked
from sep_stream.metrics.engines import CPU
from sep_stream.scoring.gate import GateParameters
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import MATCHES, Votes

SLOTS: Final = 2
"""Chunks in work at once: one is copied while the other is computed."""
MEMORY_SHARE: Final = 0.8
"""Of what is free: the rest is for what an allocator rounds up, and for others who allocate meanwhile."""

LIBRARY_SHARE: Final = 0.5
"""Of that: a library that takes more goes to the device part by part, at each search anew."""
SHARES: Final = 1 << 10
"""A search begins with all of that; after so many halvings of it, ten, there is no room."""

GATE: Final = GateParameters()


@dataclass(frozen=True, slots=True)
class _Held:
    """A library on the device, as long as somebody else holds it."""

    library: weakref.ref[PathLibrary]
    shape: Shape
    head: Head
    parts: tuple[Part, ...]


class GpuEngine:
    """The engine `cuda`. One for a process and device; threads take turns.

    A batch that does not fit is cut smaller until it does. Libraries stay on the device until others need the room.
    Raises DependencyError where the least does not fit, and where the device fails: from then on always, as nothing
    that it held can be relied on.
    """

    name: Final = "cuda"

    def __init__(self, device: Device) -> None:
        self.device = device
        self._turn = threading.RLock()
        self._lost: str | None = None
        self._slots: list[Slot] = []
        self._libraries: list[_Held] = []

    @property
    def lost(self) -> bool:
        """Whether the device has failed for good."""
        return self._lost is not None

    def check(self) -> None:
        """Compute a window and compare it with the CPU's. Raises DependencyError where the device can't, or gives other
        bits."""
        params = WindowParams()
        bits = (np.arange(params.window_bars) % 3 == 0).astype(np.uint8)
        points, anchors = np.arange(params.window_bars, dtype=np.int32), np.array([params.history - 1])
        (found, _), (expected, _) = (engine.metrics(bits, points, anchors, params) for engine in (self, CPU))
        for field in fields(MetricsBatch):
            if getattr(found, field.name).tobytes() != getattr(expected, field.name).tobytes():
                raise DependencyError(
                    f"the GPU {self.device.name} computes another {field.name} than the CPU: don't use it, and report "
                    "this with its driver's version"
                )

    def metrics(
        self,
        bits: npt.NDArray[np.uint8],
        points: npt.NDArray[np.int32],
        anchors: npt.NDArray[np.int64],
        params: WindowParams,
    ) -> tuple[MetricsBatch, str]:
        """See `Engine.metrics`."""
        if np.all(anchors[1:] > anchors[:-1]):
            return self._sorted_metrics(windows.Series(bits, points, anchors, params)), self.name
        distinct, rows = np.unique(anchors, return_inverse=True)
        return self._sorted_metrics(windows.Series(bits, points, distinct, params)).take(rows), self.name

    def _sorted_metrics(self, series: windows.Series) -> MetricsBatch:
        n, params = len(series.anchors), series.params
        batch, done = MetricsBatch.zeros(n, params.samples), 0
        batch.probes[:] = params.probes

        def attempt(windows_max: int) -> None:
            nonlocal done
            slots = self._slots_ready()
            room = int(self._room() / SLOTS)
            for end in windows.in_turn(
                slots,
                done,
                n,
                lambda first: windows.chunk_at(series, first, windows_max, room),
                lambda slot, chunk: windows.start_metrics(slot, series, chunk),
                lambda slot, chunk: windows.finish_metrics(slot, chunk, batch),
            ):
                done = end

        if n:
            at_most = min(n, windows.windows_worth(n))
            least = windows.WINDOWS_AT_ONCE_MIN
            self._by_halves(attempt, at_most, least, f"{min(n, least)} windows")
        return batch

    def votes(
        self,
        library: PathLibrary,
        block_rows: int,
        paths: npt.NDArray[np.float32],
        eligible: npt.NDArray[np.int64],
        matches: int,
    ) -> Votes:
        """See `VotingEngine.votes`."""
        votes, done = search.no_votes(len(paths)), 0
        shape = Shape(paths.shape[1], block_rows, matches)
        seen_max = min(len(library), int(eligible.max(initial=0)))

        def attempt(share: int) -> None:
            nonlocal done
            (slot, *_) = self._slots_ready()
            with self._on_device(slot, library, shape, share) as (head, spans, parts_made):
                spans = [span for span in spans if span[0] < seen_max]
                room = self._room() * share / SHARES
                fits = search.largest_that_fits(
                    room, lambda n: search.queries_layout(n, spans, shape), min(len(paths), search.QUERIES_AT_ONCE_MAX)
                )
                while done < len(paths):
                    rows = slice(done, min(done + fits, len(paths)))
                    n = rows.stop - rows.start
                    slot.lay_out(search.queries_layout(n, spans, shape))
                    slot.host("paths")[:] = paths[rows]
                    slot.host("eligible")[:] = search.eligible_in_parts(eligible[rows], spans)
                    slot.send()
                    search.launch_queries(slot, head, shape, n)
                    search.launch_search(slot, head, parts_made(spans, slot), len(spans), shape, n, n, None)
                    slot.fetch()
                    slot.wait()
                    search.take_votes(slot, votes, rows)
                    done = rows.stop

        if seen_max > 0:
            least = f"a block of the library of {library.symbol} {library.timeframe} and a query"
            self._by_halves(attempt, SHARES, 1, least)
        return votes

    def score_windows(
        self,
        bits: npt.ArrayLike,
        points: npt.ArrayLike,
        anchors: npt.ArrayLike,
        params: WindowParams,
        library: PathLibrary,
        at: npt.NDArray[np.int64],
        eligible: npt.NDArray[np.int64],
        matches: int = MATCHES,
        gate: GateParameters = GATE,
    ) -> ScoredWindows:
        """The windows at rising anchors, some of them looked up in a library, in one go: paths never leave the device.

        bits, points, anchors, params: as of `compute_metrics` · at: (q,) int64, rising positions among the anchors: the
        windows that are looked up · eligible: (q,) int64, how many rows, from the first, each of them may see
        `score_of` makes scores of the votes. Raises InputError as `compute_metrics` does, and for anchors or positions
        that don't rise.
        """
        series = windows.Series(*checked(bits, points, anchors, params), params)
        for name, values in (("anchors", series.anchors), ("at", at)):
            if np.any(values[1:] <= values[:-1]):
                raise InputError(f"{name}: expected to rise")
        if not len(library):
            raise InputError(f"library of {library.symbol} {library.timeframe}: no rows to look windows up in")
        n, done = len(series.anchors), 0
        scored = ScoredWindows.empty(n, len(at))
        shape = Shape(params.path_values, params.forward, matches)
        seen_max = max(1, min(len(library), int(eligible.max(initial=0))))

        def attempt(share: int) -> None:
            nonlocal done
            slots = self._slots_ready()
            with self._on_device(slots[0], library, shape, share) as (head, spans, parts_made):
                spans = [span for span in spans if span[0] < seen_max]
                look_up = LookUp(at, eligible, shape, head, spans, parts_made, gate)
                room = self._room() * share / SHARES / SLOTS
                windows_max = windows.windows_worth(n)
                for end in windows.in_turn(
                    slots,
                    done,
                    n,
                    lambda first: fused.fused_chunk(series, first, windows_max, room, look_up),
                    lambda slot, chunk: fused.start_fused(slot, series, chunk, look_up),
                    lambda slot, chunk: fused.finish_fused(slot, chunk, look_up, scored),
                ):
                    done = end

        if n:
            least = f"a block of the library of {library.symbol} {library.timeframe} and a window"
            self._by_halves(attempt, SHARES, 1, least)
        return scored

    @contextmanager
    def _on_device(
        self, slot: Slot, library: PathLibrary, shape: Shape, share: int
    ) -> Iterator[tuple[Head, Spans, Callable[[Spans, Slot], Iterator[Part]]]]:
        """A library's head, the spans of its parts, and what makes parts of spans for a slot to search: those held, or
        each when its turn comes, for which the one before goes."""
        held = self._held(library, shape) or self._hold(slot, library, shape, share)
        if held is not None:
            of_span = {(part.first_row, part.rows): part for part in held.parts}
            yield held.head, list(of_span), lambda spans, _: iter([of_span[span] for span in spans])
            return
        head = search.head_of(self.device, slot, library)
        bytes_max = self._room() * share / SHARES * LIBRARY_SHARE
        rows = int(bytes_max / (shape.upload_bytes(shape.block_rows) / shape.block_rows))
        spans = search.parts_of(len(library), shape.whole_blocks(min(rows, search.PART_ROWS_MAX)))

        def made(of: Spans, searching: Slot) -> Iterator[Part]:
            for span in of:
                yield search.part_of(self.device, searching, library, head, shape, *span)
                searching.wait()  # before the part goes

        yield head, spans, made

    def _held(self, library: PathLibrary, shape: Shape) -> _Held | None:
        """A library that is on the device, which is now the last to go."""
        self._libraries = [held for held in self._libraries if held.library() is not None]
        for held in self._libraries:
            if held.library() is library and (held.shape.width, held.shape.block_rows) == (
                shape.width,
                shape.block_rows,
            ):
                self._libraries.remove(held)
                self._libraries.append(held)
                return held
        return None

    def _hold(self, slot: Slot, library: PathLibrary, shape: Shape, share: int) -> _Held | None:
        """Bring a library to the device, for which those used longest ago go; None where it is too large to stay."""
        part_rows = shape.whole_blocks(min(search.PART_ROWS_MAX, len(library) * share // SHARES + shape.block_rows - 1))
        kept = shape.part_bytes(len(library)) + library.outcome.nbytes
        on_the_way = shape.upload_bytes(min(part_rows, len(library)))

        def fits() -> bool:
            room = self._room() * share / SHARES
            return kept <= room * LIBRARY_SHARE and kept + on_the_way <= room

        while self._libraries and not fits():
            self._libraries.pop(0)
            self.device.release()
        if not fits():
            return None
        head = search.head_of(self.device, slot, library)
        parts = tuple(
            search.part_of(self.device, slot, library, head, shape, *span)
            for span in search.parts_of(len(library), part_rows)
        )
        self._libraries.append(_Held(weakref.ref(library), shape, head, parts))
        return self._libraries[-1]

    def _slots_ready(self) -> list[Slot]:
        while len(self._slots) < SLOTS:
            self._slots.append(Slot(self.device))
        return self._slots

    def _room(self) -> float:
        """Bytes that slots may take together."""
        held = sum(slot.held_bytes for slot in self._slots)
        return MEMORY_SHARE * (self.device.free_bytes() + held)

    def _by_halves(self, attempt: Callable[[int], None], at_most: int, least: int, of: str) -> None:
        """Attempt it, with half as much at once after each attempt that runs out of memory.

        of: what the least is, in words
        """
        with self._turn:
            self._refuse_if_lost()
            size = at_most
            try:
                self.device.use()
                while True:
                    try:
                        attempt(size)
                        return
                    except DeviceMemoryError as error:
                        self._drop_all()
                        if size <= least:
                            raise DependencyError(self._out_of_memory(of, error)) from error
                        size = max(least, size // 2)
            except DeviceLostError as error:
                self._lost = f"the GPU {self.device.name} failed: {error}"
                raise DependencyError(self._lost_message()) from error

    def _drop_all(self) -> None:
        """Wait for what still runs, and hold nothing."""
        for slot in self._slots:
            slot.wait()
            slot.give_back()
        self._libraries.clear()
        self.device.release()

    def _out_of_memory(self, least: str, error: Exception) -> str:
        free = self.device.free_bytes() / 2**20
        return (
            f"the GPU {self.device.name} has no room for {least} ({error}; {free:.0f} MiB may be used): end what "
            "else runs on it, raise gpu_memory_mib, or take --engine cpu"
        )

    def _refuse_if_lost(self) -> None:
        if self.lost:
            raise DependencyError(self._lost_message())

    def _lost_message(self) -> str:
        return (
            f"{self._lost}; the process has to end. `nvidia-smi` and the system's log (`dmesg`) tell more; "
            "--engine cpu gives the same results without it"
        )
