"""Big work in parts, which the threads of this process do at once: plain threads, over compiled loops that let go of
the interpreter. Why not Numba's own: docs/decisions/threads.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba as nb


def given() -> int:
    """How many threads may compute at once: NUMBA_NUM_THREADS, or the CPUs that this process may run on.

    Numba reads both when it is imported; a worker's binding is made before.
    """
    return int(nb.config.NUMBA_NUM_THREADS)


def part_count(work: int, part_work_min: int) -> int:
    """Into how many parts to cut work of a size, at least 1: one for each thread, none smaller than `part_work_min`."""
    return max(1, min(work // part_work_min, given()))


def run_parts[Part](do: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Do each part: one alone on the calling thread, several on a pool that all callers of the process share.

    `do` must let go of the interpreter for most of its time, and must not call `run_parts`. However many callers there
    are, no more than `given()` parts are done at once. Raises what `do` raises.
    """
    for _ in map(do, parts) if len(parts) <= 1 else _pool(given()).map(do, parts):
        pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "sep-stream-compute")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its parent's threads
