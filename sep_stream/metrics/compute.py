"""`compute_metrics`: the windows at some anchors of a series, by the engine asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.engines import Engine, engine_of
from sep_stream.metrics.events import as_bits
from sep_stream.metrics.params import WindowParams


def compute_metrics(
    bits: npt.ArrayLike,
    points: npt.ArrayLike,
    anchors: npt.ArrayLike,
    params: WindowParams,
    engine: str | Engine = "auto",
) -> MetricsBatch:
    """Metrics of the window at each anchor, in the order of `anchors`. All engines agree to the last bit.

    bits: (m,) 0 and 1 · points: (m,) int32, closes in points · anchors: (n,) int64, positions in both, in any order,
    repeated or not: the window of anchor a is bits[a - history + 1 … a + forward] and points[a … a + forward]
    engine: "reference" (slow), "cpu", "cuda", or "auto": a GPU for large batches, where there is one

    Raises InputError where a window leaves the series or the series is malformed, ConfigurationError for an engine
    that is not there, DependencyError where a GPU fails.
    """
    return computed_metrics(bits, points, anchors, params, engine)[0]


def computed_metrics(
    bits: npt.ArrayLike,
    points: npt.ArrayLike,
    anchors: npt.ArrayLike,
    params: WindowParams,
    engine: str | Engine = "auto",
) -> tuple[MetricsBatch, str]:
    """What `compute_metrics` gives, and the name of the engine that was used."""
    return engine_of(engine).metrics(*checked(bits, points, anchors, params), params)


def checked(
    bits: npt.ArrayLike, points: npt.ArrayLike, anchors: npt.ArrayLike, params: WindowParams
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The series and positions as engines take them. Raises InputError as `compute_metrics` does."""
    series, closes = as_bits(bits), _as_points(points)
    if closes.shape != series.shape:
        raise InputError(f"points: expected one for each of the {len(series)} bits, got {len(closes)}")
    return series, closes, _as_anchors(anchors, len(series), params)


def _as_points(points: npt.ArrayLike) -> npt.NDArray[np.int32]:
    array = np.asarray(points)
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"points: expected one series of integers, got {array.dtype} of shape {array.shape}")
    if array.dtype != np.int32 and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise InputError(f"points: expected 32-bit integers, got {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, np.int32)


def _as_anchors(anchors: npt.ArrayLike, bars: int, params: WindowParams) -> npt.NDArray[np.int64]:
    array = np.asarray(anchors)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"anchors: expected a list of positions, got {array.dtype} of shape {array.shape}")
    first, last = params.history - 1, bars - 1 - params.forward
    if array.min() < first or array.max() > last:
        raise InputError(
            f"anchors: expected positions {first} to {last} in a series of {bars} bars "
            f"(history {params.history}, forward {params.forward}), got {array.min()} to {array.max()}"
        )
    return np.ascontiguousarray(array, np.int64)
