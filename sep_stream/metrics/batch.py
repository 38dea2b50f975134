"""The metrics of many windows, as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class MetricsBatch:
    """The metrics of n windows. sep-metrics/1, sections 4 to 6.

    initial, damped: (n, 3) float64, H, C, S · lam: (n,) float64, lambda · settled_at: (n,) int32, step
    converged: (n,) bool · path: (n, 3K) float32, by step, then H, C, S · potential: (n,) float64, points
    counts: (n, 3) int32, NULL, FLIP, RUPTURE of the whole window · rupture_collapse: (n,) bool
    probes, corrections: (n,) int32 · ratio: (n,) float64, corrections per probe · qbsa_collapse: (n,) bool
    """

    initial: npt.NDArray[np.float64]
    lam: npt.NDArray[np.float64]
    damped: npt.NDArray[np.float64]
    settled_at: npt.NDArray[np.int32]
    converged: npt.NDArray[np.bool_]
    path: npt.NDArray[np.float32]
    potential: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int32]
    rupture_collapse: npt.NDArray[np.bool_]
    probes: npt.NDArray[np.int32]
    corrections: npt.NDArray[np.int32]
    ratio: npt.NDArray[np.float64]
    qbsa_collapse: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.lam)

    @classmethod
    def zeros(cls, n: int, samples: int) -> MetricsBatch:
        """n rows of zeros with paths of `samples` steps."""
        return cls._made(np.zeros, n, samples)

    @classmethod
    def empty(cls, n: int, samples: int) -> MetricsBatch:
        """n rows to be filled. Of memory that need not be zero numpy asks for large pages, which come at less cost."""
        return cls._made(np.empty, n, samples)

    @classmethod
    def _made(cls, make: Callable[..., npt.NDArray[Any]], n: int, samples: int) -> MetricsBatch:
        return cls(
            initial=make((n, 3)),
            lam=make(n),
            damped=make((n, 3)),
            settled_at=make(n, np.int32),
            converged=make(n, np.bool_),
            path=make((n, 3 * samples), np.float32),
            potential=make(n),
            counts=make((n, 3), np.int32),
            rupture_collapse=make(n, np.bool_),
            probes=make(n, np.int32),
            corrections=make(n, np.int32),
            ratio=make(n),
            qbsa_collapse=make(n, np.bool_),
        )

    def take(self, rows: npt.ArrayLike) -> MetricsBatch:
        """The given rows, in that order: positions or a mask."""
        at = np.asarray(rows)
        at = at if at.size else at.astype(np.intp)
        return MetricsBatch(*(getattr(self, field.name)[at] for field in fields(self)))

    @classmethod
    def concatenate(cls, batches: Sequence[MetricsBatch]) -> MetricsBatch:
        """The rows of at least one batch, one after the other."""
        return cls(*(np.concatenate([getattr(b, field.name) for b in batches]) for field in fields(cls)))
