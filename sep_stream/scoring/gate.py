"""The gate: what a signal's window and confidence must be for it to be acted on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import ModelError

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


class Gated(Protocol):
    """What of n windows the gate looks at, as in MetricsBatch."""

    @property
    def damped(self) -> npt.NDArray[np.float64]: ...
    @property
    def converged(self) -> npt.NDArray[np.bool_]: ...
    @property
    def rupture_collapse(self) -> npt.NDArray[np.bool_]: ...
    @property
    def qbsa_collapse(self) -> npt.NDArray[np.bool_]: ...


def gate_failures(metrics: Gated, confidence: npt.NDArray[np.float64], gate: GateParameters) -> npt.NDArray[np.uint8]:
    """Masks (n,) uint8 of the reasons that failed, 0 where the gate passes."""
    mask = np.empty(len(confidence), np.uint8)
    _fill_mask(
        confidence, metrics.damped, metrics.converged, metrics.rupture_collapse, metrics.qbsa_collapse,
        float(gate.confidence_min), float(gate.coherence_min), float(gate.stability_margin_min), mask,
    )  # fmt: skip
    return mask


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_mask(
    confidence: Any, damped: Any, converged: Any, rupture_collapse: Any, qbsa_collapse: Any, confidence_min: float,
    coherence_min: float, stability_margin_min: float, mask: Any,
) -> None:  # fmt: skip
    for k in range(len(mask)):
        failed = 0 if confidence[k] >= confidence_min else 1
        failed |= 0 if damped[k, 1] >= coherence_min else 2
        failed |= 0 if abs(damped[k, 2] - 0.5) >= stability_margin_min else 4
        failed |= 0 if converged[k] else 8
        failed |= 16 if rupture_collapse[k] else 0
        failed |= 32 if qbsa_collapse[k] else 0
        mask[k] = failed


def gate_reasons(mask: int) -> tuple[str, ...]:
    """The names of a mask's reasons, in order."""
    return tuple(reason for bit, reason in enumerate(GATE_REASONS) if mask >> bit & 1)
