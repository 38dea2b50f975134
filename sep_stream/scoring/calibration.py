"""From a score's raw probability to one that was seen to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ModelError


@dataclass(frozen=True, slots=True)
class Calibration:
    """A monotone, piecewise linear table; without knots, the identity. sep-metrics/1, section 7.

    x: raw probabilities, rising · y: calibrated ones, not falling; both within 0 … 1. Raises ModelError otherwise.
    """

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ModelError(f"calibration: expected as many y as x, got {len(self.y)} and {len(self.x)}")
        for name, values in (("x", self.x), ("y", self.y)):
            if not all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in values):
                raise ModelError(f"calibration: expected {name} within 0 and 1, got {values}")
        if not all(a < b for a, b in pairwise(self.x)):
            raise ModelError(f"calibration: expected x to rise from knot to knot, got {self.x}")
        if not all(a <= b for a, b in pairwise(self.y)):
            raise ModelError(f"calibration: expected y not to fall from knot to knot, got {self.y}")

    def apply(self, p_up: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities (n,) float64 of raw ones (n,)."""
        if not self.x:
            return p_up
        x, y = np.array(self.x, np.float64), np.array(self.y, np.float64)
        if len(x) == 1:
            return np.full(len(p_up), y[0])
        right = np.clip(np.searchsorted(x, p_up, side="right"), 1, len(x) - 1)
        left = right - 1
        between = y[left] + (p_up - x[left]) * ((y[right] - y[left]) / (x[right] - x[left]))
        return np.where(p_up <= x[0], y[0], np.where(p_up >= x[-1], y[-1], between))
