"""The GPU engine: `python bench/gpu.py`. Says "no GPU", and exits 0, where there is none.

The kernels alone, beside the same contract as CuPy's whole-array operations; the copies, which bound what goes through
them; from host to host with every output, beside the CPU engine; from host bits to host scores, where a library of a
million rows is asked for as many of a million windows as calibration asks for; the search alone, beside the CPU's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from _bench import SEED, Figure, main, note, number
from baselines import elementwise

from sep_stream.errors import ConfigurationError
from sep_stream.gpu import GpuEngine, windows
from sep_stream.gpu.cupy_device import CupyDevice, gpu_facts
from sep_stream.gpu.stretches import Layout, Slot
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.runtime.jars import cache_folder
from sep_stream.runtime.resources import resource
from sep_stream.scoring import PathLibrary
from sep_stream.scoring.score import MATCHES, cpu_votes
from sep_stream.training.calibrate import QUERIES_MAX

WINDOWS: Final = 1 << 22
ELEMENTWISE_WINDOWS: Final = 1 << 20
CPU_WINDOWS: Final = 1 << 18
LIBRARY_ROWS: Final = 1_000_000
CPU_QUERIES: Final = 64
COPY_BYTES: Final = 1 << 28
LAUNCHES: Final = 10
PARAMS: Final = WindowParams()


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    try:
        facts = gpu_facts()
    except ConfigurationError as error:
        note(f"no GPU: {error}")
        return
    note(str(facts))
    device = CupyDevice(resource("kernels"), cache_folder() / "kernels")
    engine = GpuEngine(device)
    series = made_series(WINDOWS)
    yield kernels(device, series, arguments)
    yield copies(device, arguments)
    yield host_to_host(engine, series, arguments)
    library = made_library(series)
    yield bits_to_scores(engine, series, library, arguments)
    yield nearest_paths(engine, library, arguments)


def made_series(count: int) -> windows.Series:
    rng, bars = np.random.default_rng(SEED), count + PARAMS.window_bars - 1
    bits = rng.integers(0, 2, bars).astype(np.uint8)
    points = (100_000 + np.cumsum(rng.integers(-9, 10, bars))).astype(np.int32)
    return windows.Series(bits, points, np.arange(PARAMS.history - 1, PARAMS.history - 1 + count), PARAMS)


def made_library(series: windows.Series, rows: int = LIBRARY_ROWS) -> PathLibrary:
    paths = compute_metrics(series.bits, series.points, series.anchors[:rows], PARAMS, "cpu").path
    minutes = 60 * np.arange(rows, dtype=np.int64)
    outcome = (np.arange(rows) % 7 - 3).astype(np.int32)
    return PathLibrary.build("EUR/USD", "M1", paths, minutes, minutes + 1, minutes + 2, outcome)


def kernels(device: CupyDevice, series: windows.Series, arguments: argparse.Namespace) -> Figure:
    import cupy

    n, slot = len(series.anchors), Slot(device)
    chunk = windows.Chunk(0, n, 0, len(series.bits), neighbours=True)
    layout = windows.metrics_layout(chunk, PARAMS)
    slot.lay_out(Layout(layout.inputs, [*layout.scratch, *layout.outputs]))
    windows.fill_inputs(slot, series, chunk)
    slot.send()

    def both() -> None:
        slot.fork()
        windows.launch_qbsa(slot, chunk, PARAMS)
        names = ("initial_columns", "damped_columns", "counts_columns", "path_columns")
        windows.launch_qfh(slot, chunk, PARAMS, names, (None,) * 3, (None,) * 2)
        slot.join()

    few = ELEMENTWISE_WINDOWS
    bits, points = (cupy.asarray(column.astype(dtype)) for column, dtype in
                    ((series.bits, np.int32), (series.points, np.float64)))  # fmt: skip
    anchors = cupy.asarray(series.anchors[:few])

    def whole_arrays() -> None:
        elementwise.metrics(cupy, bits, points, anchors, PARAMS)

    ours = [n * LAUNCHES / on_device_s(cupy, slot.main, both, LAUNCHES) / 1e9 for _ in range(arguments.runs)]
    whole_arrays()
    theirs = [few / on_device_s(cupy, cupy.cuda.Stream.null, whole_arrays, 1) / 1e9 for _ in range(arguments.runs)]
    return Figure.rates("kernels alone, all outputs kept on the device", "G windows/s", ours,
                        "CuPy whole-array operations", theirs, ">= 1 G windows/s")  # fmt: skip


def on_device_s(cupy: Any, stream: Any, work: Callable[[], None], times: int) -> float:
    """Seconds that the device takes for what `work` gives a stream, so many times."""
    work()
    begun, ended = cupy.cuda.Event(), cupy.cuda.Event()
    begun.record(stream)
    for _ in range(times):
        work()
    ended.record(stream)
    ended.synchronize()
    return cupy.cuda.get_elapsed_time(begun, ended) / 1_000


def copies(device: CupyDevice, arguments: argparse.Namespace) -> Figure:
    memory, pinned, stream = device.allocate(COPY_BYTES), device.pinned(COPY_BYTES), device.stream()

    def back() -> None:
        device.copy_out(pinned, memory.address, stream)
        device.synchronize(stream)

    rates = [COPY_BYTES / 1e9 / s for s in seconds(back, arguments)]
    return Figure("copies from the device into pinned memory", "GB/s", statistics.median(rates))


def host_to_host(engine: GpuEngine, series: windows.Series, arguments: argparse.Namespace) -> Figure:
    def whole(by: Any, count: int) -> None:
        compute_metrics(series.bits, series.points, series.anchors[:count], PARAMS, by)

    n = len(series.anchors)
    ours = [n / s / 1e6 for s in seconds(lambda: whole(engine, n), arguments)]
    theirs = [CPU_WINDOWS / s / 1e6 for s in seconds(lambda: whole("cpu", CPU_WINDOWS), arguments)]
    chunk = windows.Chunk(0, n, 0, len(series.bits), neighbours=True)
    back = sum(field.size for field in windows.metrics_layout(chunk, PARAMS).outputs) / n
    note(f"host to host with every output: {back:.0f} bytes a window come back and are laid into arrays")
    return Figure.rates(
        "metrics from host to host, all outputs", "M windows/s", ours, "CPU engine, one core", theirs, ""
    )


def bits_to_scores(
    engine: GpuEngine, series: windows.Series, library: PathLibrary, arguments: argparse.Namespace
) -> Figure:
    n, rows = len(series.anchors), len(library)
    at = np.arange(0, n, max(1, rows // QUERIES_MAX))
    eligible = np.full(len(at), rows)

    def whole() -> None:
        engine.score_windows(series.bits, series.points, series.anchors, PARAMS, library, at, eligible)

    rates = [n / s / 1e6 for s in seconds(whole, arguments)]
    note(f"bits to scores: {n:,} windows, {len(at):,} of them looked up in {rows:,} rows")
    return Figure("host bits to host scores, one window in 244 looked up", "M windows/s", statistics.median(rates),
                  target=">= 100 M windows/s")  # fmt: skip


def nearest_paths(engine: GpuEngine, library: PathLibrary, arguments: argparse.Namespace) -> Figure:
    def search(by: Any, queries: int) -> None:
        by(library, PARAMS.forward, library.paths[:queries], np.full(queries, len(library)), MATCHES)

    ours = [QUERIES_MAX / s for s in seconds(lambda: search(engine.votes, QUERIES_MAX), arguments)]
    theirs = [CPU_QUERIES / s for s in seconds(lambda: search(cpu_votes, CPU_QUERIES), arguments)]
    most = max(ours) * len(library) * PARAMS.path_values / 4 / 1e12
    note(f"nearest paths: {number(most)} T products of four bytes a second, which bound every window that is looked up")
    return Figure.rates("nearest paths in 1 M rows", "queries/s", ours, "CPU engine, one core", theirs, "")


def seconds(work: Callable[[], object], arguments: argparse.Namespace) -> list[float]:
    """Of each run: the median of what fits into its time."""
    work()
    found = []
    for _ in range(arguments.runs):
        taken, end_s = [], time.perf_counter() + arguments.seconds
        while not taken or time.perf_counter() < end_s:
            begun_s = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun_s)
        found.append(statistics.median(taken))
    return found


if __name__ == "__main__":
    main(__doc__, measure)
