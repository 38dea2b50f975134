"""The CPU engine: stretches of neighbouring anchors by lanes, the rest one by one; large batches by several threads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.metrics import cpu_lanes, cpu_scalar
from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.columns import columns_of, shape_of
from sep_stream.metrics.params import WindowParams
from sep_stream.metrics.tables import tables
from sep_stream.threads import part_count, run_parts

RUN_MIN: Final = 32
"""Shortest stretch worth a block of lanes: a block costs as much as this many single windows, whatever is in it."""

PART_WINDOWS_MIN: Final = 4096
"""Fewest windows worth a thread of their own: a millisecond's work. A worker's fetch stays on the thread that asks."""


def compute(
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    anchors: npt.NDArray[np.int64],
    params: WindowParams,
) -> MetricsBatch:
    """Metrics of the windows at `anchors`, which lie inside the series."""
    if np.all(anchors[1:] > anchors[:-1]):
        return _compute_sorted(bits, points, anchors, params)
    distinct, rows = np.unique(anchors, return_inverse=True)
    return _compute_sorted(bits, points, distinct, params).take(rows)


def _compute_sorted(
    bits: npt.NDArray[np.uint8],
    points: npt.NDArray[np.int32],
    anchors: npt.NDArray[np.int64],
    params: WindowParams,
) -> MetricsBatch:
    batch = MetricsBatch.empty(len(anchors), params.samples)
    shape, out, table = shape_of(params), columns_of(batch), tables(params.events)
    by_lanes = cpu_lanes.table_bytes(params) <= cpu_lanes.TABLE_BYTES_MAX
    hc = cpu_lanes.hc_table(params.history, params.forward) if by_lanes else None

    def fill(part: tuple[int, int]) -> None:
        start, stop = part
        single = np.ones(stop - start, np.bool_)
        for first, end in long_runs(anchors[start:stop]) if by_lanes else ():
            single[first:end] = False
            at = start + first
            cpu_lanes.compute(bits, points, int(anchors[at]), end - first, at, shape, hc, table, out)
        rows = start + np.flatnonzero(single)
        cpu_scalar.compute(bits, points, anchors[rows], rows, shape, table, out)

    n, count = len(anchors), part_count(len(anchors), PART_WINDOWS_MIN)
    run_parts(fill, list(pairwise(k * n // count for k in range(count + 1))))
    return batch


def long_runs(anchors: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stretches [first, end) of at least RUN_MIN positions where each anchor is the one before plus 1."""
    if len(anchors) < RUN_MIN:
        return
    breaks = np.flatnonzero(np.diff(anchors) != 1) + 1
    bounds = np.concatenate(([0], breaks, [len(anchors)]))
    for k in np.flatnonzero(np.diff(bounds) >= RUN_MIN).tolist():
        yield int(bounds[k]), int(bounds[k + 1])
