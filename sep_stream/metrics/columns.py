"""What compiled engines take: a batch's columns and a window's numbers as plain tuples."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import fields
from typing import Any, NamedTuple

from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.params import WindowParams

Columns = namedtuple("Columns", [field.name for field in fields(MetricsBatch)])  # type: ignore[misc]


class Shape(NamedTuple):
    """A window's parameters, and what follows from them."""

    history: int
    forward: int
    samples: int
    stride: int
    hold: int
    probes: int
    eps: float


def columns_of(batch: MetricsBatch) -> Any:
    """The arrays of a batch, to be filled in place."""
    return Columns(*(getattr(batch, field.name) for field in fields(batch)))


def shape_of(params: WindowParams) -> Shape:
    return Shape(
        params.history,
        params.forward,
        params.samples,
        params.stride,
        params.hold,
        params.probes,
        float(params.eps),
    )
