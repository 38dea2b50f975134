"""The CPU engine: stretches of neighbouring anchors by lanes, the rest one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.metrics import cpu_lanes, cpu_scalar
from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.columns import columns_of, shape_of
from sep_stream.metrics.params import WindowParams
from sep_stream.metrics.tables import tables

RUN_MIN: Final = 64
"""Shortest stretch worth a block of lanes: a block costs as much as this many single windows, whatever is in it."""


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
    batch = MetricsBatch.zeros(len(anchors), params.samples)
    shape, out, table = shape_of(params), columns_of(batch), tables(params.events)
    single = np.ones(len(anchors), np.bool_)
    if cpu_lanes.table_bytes(params) <= cpu_lanes.TABLE_BYTES_MAX:
        for first, end in long_runs(anchors):
            single[first:end] = False
            cpu_lanes.compute(bits, points, int(anchors[first]), end - first, first, params, shape, table, out)
    rows = np.flatnonzero(single)
    cpu_scalar.compute(bits, points, anchors[rows], rows, shape, table, out)
    return batch


def long_runs(anchors: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stretches [first, end) of at least RUN_MIN positions where each anchor is the one before plus 1."""
    if len(anchors) < RUN_MIN:
        return
    breaks = np.flatnonzero(np.diff(anchors) != 1) + 1
    bounds = np.concatenate(([0], breaks, [len(anchors)]))
    for k in np.flatnonzero(np.diff(bounds) >= RUN_MIN).tolist():
        yield int(bounds[k]), int(bounds[k + 1])
