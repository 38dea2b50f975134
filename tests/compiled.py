"""Compiles what most tests run, once for all processes and later runs: in two processes at once, where it is not there.

`python -m tests.compiled` does it before a run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sep_stream.runtime.numba_cache import configure_numba_cache

configure_numba_cache()  # before anything imports Numba


def _pipeline() -> None:
    """Compile what turns the bytes of events into those of windows."""
    from sep_stream.worker.warm_up import warm_up

    warm_up(("convert",))


def _engines() -> None:
    """Compile metrics, search, trades, and the reading of files."""
    import numpy as np

    from sep_stream.metrics import WindowParams, compute_metrics
    from sep_stream.runtime.topology import Topology
    from sep_stream.scoring import PathLibrary, score
    from sep_stream.sources.files import read_events
    from sep_stream.worker.warm_up import warm_up

    compute_metrics(np.zeros(400, np.uint8), np.zeros(400, np.int32), np.arange(63, 330), WindowParams(), "cpu")
    path, time_s = np.ones((1, 3), np.float32), np.zeros(1, np.int64)
    library = PathLibrary.build("EUR/USD", "M1", path, time_s, time_s + 1, time_s + 2, np.zeros(1, np.int32))
    score(library, 1, path, time_s)
    warm_up(("settle",))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "candles.csv"
        file.write_text("time,open,high,low,close\n1700000040,1.1,1.1,1.1,1.1\n")
        list(read_events(file, Topology.load().instruments, "EUR/USD"))


_PARTS: Final[Mapping[str, Callable[[], None]]] = {"pipeline": _pipeline, "engines": _engines}


def compile_once() -> None:
    """Compile both parts unless an earlier run of the same source did."""
    done = Path(os.environ["NUMBA_CACHE_DIR"]) / "compiled-for-tests"
    checkout = Path(__file__).parents[1]
    if done.exists() and done.read_text() == str(checkout):  # Numba tells the same file in two folders apart
        return
    processes = [subprocess.Popen([sys.executable, "-m", "tests.compiled", part], cwd=checkout) for part in _PARTS]
    codes = [process.wait() for process in processes]
    if not any(codes):
        done.write_text(str(checkout))


if __name__ == "__main__":
    if sys.argv[1:]:
        _PARTS[sys.argv[1]]()
    else:
        compile_once()
