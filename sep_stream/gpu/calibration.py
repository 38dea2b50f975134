"""From which batch size on the GPU of this machine is faster than its CPU: measured once, and kept."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from sep_stream.files import write_whole
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.metrics.engines import CPU
from sep_stream.runtime.cpu_info import cpu_name
from sep_stream.runtime.resources import resource
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import MATCHES, cpu_votes

if TYPE_CHECKING:
    from sep_stream.gpu.engine import GpuEngine

WINDOWS: Final = (64, 512, 4_096, 32_768)
QUERIES: Final = (1, 16, 256)
LIBRARY_ROWS: Final = 65_536
ROUNDS: Final = 3
"""Each time is the least of so many."""
NEVER: Final = sys.maxsize
_SEED: Final = 7

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """size: windows, or comparisons of a query with a row"""

    size: int
    cpu_ms: float
    gpu_ms: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """machine: what was measured, and when · windows, votes: what it took"""

    machine: str
    measured_on: str
    windows: tuple[Timing, ...]
    votes: tuple[Timing, ...]

    @property
    def windows_min(self) -> int:
        """From so many windows on the GPU computes metrics."""
        return crossover(self.windows)

    @property
    def comparisons_min(self) -> int:
        """From so many comparisons of a query with a row on the GPU searches."""
        return crossover(self.votes)

    def __str__(self) -> str:
        windows, votes = (
            "never" if least == NEVER else f"from {least:,} {of} on"
            for least, of in ((self.windows_min, "windows"), (self.comparisons_min, "comparisons"))
        )
        return f"metrics on the GPU {windows}, nearest paths {votes}, measured {self.measured_on}"


def crossover(timings: Sequence[Timing]) -> int:
    """The least size from which on the GPU was faster at each size measured; NEVER where it was not at the last."""
    least = NEVER
    for timing in sorted(timings, key=lambda timing: timing.size, reverse=True):
        if timing.gpu_ms >= timing.cpu_ms:
            break
        least = timing.size
    return least


def calibrated_on(gpu: GpuEngine, folder: Path, device: str) -> Calibration:
    """What is kept in a folder of this GPU and machine, else measured and kept there."""
    path = _path(folder, device)
    kept = read(path)
    if kept is None:
        kept = measure(gpu, f"{device}; {cpu_name()}")
        write(path, kept)
    return kept


def kept_calibration(folder: Path, device: str) -> Calibration | None:
    """What is kept in a folder of this GPU and machine."""
    return read(_path(folder, device))


def _path(folder: Path, device: str) -> Path:
    """Named by what a measurement depends on: device, processor and kernels."""
    digest = hashlib.sha256(f"{device} {cpu_name()} {os.cpu_count()}".encode())
    for path in sorted(resource("kernels").iterdir()):
        digest.update(path.read_bytes())
    return folder / "gpu" / f"calibration-{digest.hexdigest()[:16]}.json"


def read(path: Path) -> Calibration | None:
    """What a file holds; None where there is none, or one that was damaged."""
    try:
        document = json.loads(path.read_text())
        windows, votes = (tuple(Timing(**each) for each in document[name]) for name in ("windows", "votes"))
        return Calibration(document["machine"], document["measured_on"], windows, votes)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(path: Path, calibration: Calibration) -> None:
    """Keep it, whole or not at all; where the folder can't be used, the next process measures again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(calibration), indent=1).encode())


def measure(
    gpu: GpuEngine, machine: str, clock: Clock = time.perf_counter, windows: Sequence[int] = WINDOWS,
    queries: Sequence[int] = QUERIES, library_rows: int = LIBRARY_ROWS,
) -> Calibration:  # fmt: skip
    """Time both engines side by side, on a made-up series with the default window."""
    params = WindowParams()
    bits, points, anchors = _series(max(*windows, library_rows), params)
    library = _library(compute_metrics(bits, points, anchors[:library_rows], params, "cpu").path)
    measured = tuple(
        Timing(n, *(_ms(partial(engine.metrics, bits, points, anchors[:n], params), clock) for engine in (CPU, gpu)))
        for n in windows
    )
    voted = tuple(
        Timing(
            q * library_rows,
            *(
                _ms(
                    partial(votes, library, params.forward, library.paths[:q], np.full(q, library_rows), MATCHES), clock
                )
                for votes in (cpu_votes, gpu.votes)
            ),
        )
        for q in queries
    )
    return Calibration(machine, datetime.datetime.now(datetime.UTC).date().isoformat(), measured, voted)


def _series(
    windows: int, params: WindowParams
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    rng, bars = np.random.default_rng(_SEED), windows + params.window_bars - 1
    bits = rng.integers(0, 2, bars).astype(np.uint8)
    points = (100_000 + np.cumsum(rng.integers(-9, 10, bars))).astype(np.int32)
    return bits, points, np.arange(params.history - 1, params.history - 1 + windows)


def _library(paths: npt.NDArray[np.float32]) -> PathLibrary:
    minutes = 60 * np.arange(len(paths), dtype=np.int64)
    outcome = np.arange(len(paths), dtype=np.int32) % 7 - 3
    return PathLibrary.build("EUR/USD", "M1", paths, minutes, minutes + 1, minutes + 2, outcome)


def _ms(work: Callable[[], object], clock: Clock) -> float:
    work()
    taken = []
    for _ in range(ROUNDS):
        begun = clock()
        work()
        taken.append(1_000 * (clock() - begun))
    return min(taken)
