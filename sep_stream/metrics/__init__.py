"""Bits and prices → the metrics of a window: QFH, damping, potential, QBSA."""

from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.compute import compute_metrics, computed_metrics
from sep_stream.metrics.engines import ENGINE_NAMES, Engine
from sep_stream.metrics.events import Event, EventRuns, event_list, event_runs
from sep_stream.metrics.params import HORIZON_BARS, METRICS_VERSION, WindowParams

__all__ = [
    "ENGINE_NAMES",
    "HORIZON_BARS",
    "METRICS_VERSION",
    "Engine",
    "Event",
    "EventRuns",
    "MetricsBatch",
    "WindowParams",
    "compute_metrics",
    "computed_metrics",
    "event_list",
    "event_runs",
]
