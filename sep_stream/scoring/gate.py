"""The gate: what a signal's window and confidence must be for it to be acted on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ModelError
from sep_stream.metrics import MetricsBatch

GATE_REASONS: Final = (
    "confidence",
    "coherence",
    "stability",
    "converged",
    "rupture_collapse",
    "qbsa_collapse",
)
"""What can fail, in the order told; bit k of a mask stands for the k-th."""


@dataclass(frozen=True, slots=True)
class GateParameters:
    """Least confidence, least damped coherence, and least distance of damped stability from a half.

    Raises ModelError for anything but finite numbers.
    """

    confidence_min: float = 0.60
    coherence_min: float = 0.10
    stability_margin_min: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ModelError(f"gate {field.name}: expected a finite number, got {value!r}")


def gate_failures(
    metrics: MetricsBatch, confidence: npt.NDArray[np.float64], gate: GateParameters
) -> npt.NDArray[np.uint8]:
    """Masks (n,) uint8 of the reasons that failed, 0 where the gate passes."""
    coherence, stability = metrics.damped[:, 1], metrics.damped[:, 2]
    failed = (
        ~(confidence >= gate.confidence_min),
        ~(coherence >= gate.coherence_min),
        ~(np.abs(stability - 0.5) >= gate.stability_margin_min),
        ~metrics.converged,
        metrics.rupture_collapse,
        metrics.qbsa_collapse,
    )
    mask = np.zeros(len(metrics), np.uint8)
    for bit, column in enumerate(failed):
        mask |= column.astype(np.uint8) << np.uint8(bit)
    return mask


def gate_reasons(mask: int) -> tuple[str, ...]:
    """The names of a mask's reasons, in order."""
    return tuple(reason for bit, reason in enumerate(GATE_REASONS) if mask >> bit & 1)
