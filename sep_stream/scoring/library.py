"""`PathLibrary`: the paths of one instrument and timeframe whose outcomes are known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import ModelError
from sep_stream.scoring.exact_sums import column_square_sums, column_sums
from sep_stream.scoring.nearest import Tiles

SIGMA_MIN: Final = 1e-9
"""A dimension that varies less carries nothing: its quantised value is 0."""

_SCALE: Final = 32.0
_LIMIT: Final = 127.0
_CHUNK_ROWS: Final = 65_536


@dataclass(frozen=True, eq=False)
class PathLibrary:
    """Every window of an instrument and timeframe with a known outcome, in anchor order. sep-metrics/1, section 7.

    paths: (n, 3K) float32 · anchor_time_s, available_at_s, outcome_at_s: (n,) int64, epoch seconds
    outcome: (n,) int32, points · mu, sigma: (3K,) float64, of the paths; `build` computes them

    A library without rows is legal. Raises ModelError where columns contradict each other.
    """

    symbol: str
    timeframe: str
    paths: npt.NDArray[np.float32]
    anchor_time_s: npt.NDArray[np.int64]
    available_at_s: npt.NDArray[np.int64]
    outcome_at_s: npt.NDArray[np.int64]
    outcome: npt.NDArray[np.int32]
    mu: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        n, width = self.paths.shape
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
            "paths": ((n, width), np.float32),
            "anchor_time_s": ((n,), np.int64),
            "available_at_s": ((n,), np.int64),
            "outcome_at_s": ((n,), np.int64),
            "outcome": ((n,), np.int32),
            "mu": ((width,), np.float64),
            "sigma": ((width,), np.float64),
        }
        for name, (shape, dtype) in expected.items():
            column = getattr(self, name)
            self._require(
                column.shape == shape and column.dtype == dtype,
                f"{name}: expected {shape} {np.dtype(dtype)}, got {column.shape} {column.dtype}",
            )
        for name in ("paths", "mu", "sigma"):
            self._require(bool(np.isfinite(getattr(self, name)).all()), f"{name}: NaN or infinite")
        for name in ("anchor_time_s", "outcome_at_s"):
            self._require(bool((np.diff(getattr(self, name)) > 0).all()), f"{name}: expected to rise with each row")
        self._require(
            bool(((self.anchor_time_s < self.available_at_s) & (self.available_at_s < self.outcome_at_s)).all()),
            "expected anchor_time_s < available_at_s < outcome_at_s in each row",
        )

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            raise ModelError(f"library of {self.symbol} {self.timeframe}: {message}")

    @classmethod
    def build(
        cls,
        symbol: str,
        timeframe: str,
        paths: npt.NDArray[np.float32],
        anchor_time_s: npt.NDArray[np.int64],
        available_at_s: npt.NDArray[np.int64],
        outcome_at_s: npt.NDArray[np.int64],
        outcome: npt.NDArray[np.int32],
    ) -> PathLibrary:
        """The library of these rows, with its mu and sigma: population, by exactly rounded sums."""
        mu, sigma = moments(paths)
        return cls(symbol, timeframe, paths, anchor_time_s, available_at_s, outcome_at_s, outcome, mu, sigma)

    @classmethod
    def empty(cls, symbol: str, timeframe: str, path_values: int) -> PathLibrary:
        times = np.empty(0, np.int64)
        return cls.build(
            symbol, timeframe, np.empty((0, path_values), np.float32), times, times, times, np.empty(0, np.int32)
        )

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def tiles(self) -> Tiles:
        """The rows quantised, as the search wants them; prepared at the first use."""
        return Tiles.of(quantise(self.paths, self.mu, self.sigma))

    @cached_property
    def rows_sha256(self) -> str:
        """SHA-256, lower hex, of the rows: path, anchor, available_at, outcome_at, outcome of each, little-endian."""
        row_dtype = np.dtype(
            [
                ("path", "<f4", (self.paths.shape[1],)),
                ("anchor_time_s", "<i8"),
                ("available_at_s", "<i8"),
                ("outcome_at_s", "<i8"),
                ("outcome", "<i4"),
            ]
        )
        digest = hashlib.sha256()
        for start in range(0, len(self), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            rows = np.empty(len(self.paths[chunk]), row_dtype)
            rows["path"] = self.paths[chunk]
            for name in ("anchor_time_s", "available_at_s", "outcome_at_s", "outcome"):
                rows[name] = getattr(self, name)[chunk]
            digest.update(rows.tobytes())
        return digest.hexdigest()


def moments(paths: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """mu and sigma (3K,) float64 of paths (n, 3K), independent of row order and machine; zeros without rows."""
    n, width = paths.shape
    if n == 0:
        return np.zeros(width), np.zeros(width)
    mu = column_sums(paths) / n
    return mu, np.sqrt(column_square_sums(paths, mu) / n)


def quantise(
    paths: npt.NDArray[np.float32], mu: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64]
) -> npt.NDArray[np.int8]:
    """Paths (n, 3K) as int8 in units of 1/32 sigma from mu, ties to even, at most 127 either way."""
    quantised = np.empty(paths.shape, np.int8)
    _quantise(paths, mu, np.where(sigma >= SIGMA_MIN, sigma, np.inf), quantised)
    return quantised


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _quantise(paths: Any, mu: Any, divisor: Any, quantised: Any) -> None:
    for k in range(len(paths)):
        for d in range(len(mu)):
            scaled = np.rint(((np.float64(paths[k, d]) - mu[d]) / divisor[d]) * _SCALE)
            quantised[k, d] = np.int8(min(max(scaled, -_LIMIT), _LIMIT))
