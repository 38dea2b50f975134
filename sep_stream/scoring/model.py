"""`Model`: libraries with the parameters and calibration that they are read by, under an id that follows from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from sep_stream.errors import ModelError
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import HORIZON_BARS, METRICS_VERSION, WindowParams
from sep_stream.scoring.calibration import Calibration
from sep_stream.scoring.gate import GateParameters
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import BLOCKS_MIN, IDENTITY, MATCHES

__all__ = ["METRICS_VERSION", "Model", "ModelParameters"]

LibraryKey = tuple[str, str]
"""Symbol and timeframe name."""


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """What a model's scores depend on besides its rows.

    window: of its paths, and of the windows it scores · horizon_bars: by timeframe index
    matches: blocks that vote · min_blocks: fewer hold · deadband: points, of the bits the paths were made from
    Raises ModelError for values outside the contract.
    """

    window: WindowParams = field(default_factory=WindowParams)
    horizon_bars: tuple[int, ...] = HORIZON_BARS
    matches: int = MATCHES
    min_blocks: int = BLOCKS_MIN
    gate: GateParameters = field(default_factory=GateParameters)
    deadband: int = 0

    def __post_init__(self) -> None:
        if len(self.horizon_bars) != len(TIMEFRAMES):
            raise ModelError(f"model horizon_bars: expected one for each of {', '.join(TIMEFRAMES)}")
        for name, least, values in (
            ("horizon_bars", 1, self.horizon_bars),
            ("matches", 1, (self.matches,)),
            ("min_blocks", 1, (self.min_blocks,)),
            ("deadband", 0, (self.deadband,)),
        ):
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values):
                raise ModelError(f"model {name}: expected integers >= {least}, got {values}")

    def document(self) -> dict[str, Any]:
        """The parameters as JSON values: what the model id is taken of."""
        return {
            **asdict(self),
            "window": {**asdict(self.window), "eps": float(self.window.eps)},
            "horizon_bars": list(self.horizon_bars),
            "gate": {name: float(value) for name, value in asdict(self.gate).items()},
        }


@dataclass(frozen=True, eq=False)
class Model:
    """Path libraries by instrument and timeframe, trained on what was known at a time.

    training_cut_s: epoch seconds; no row's outcome is later · libraries: kept by symbol, then timeframe
    calibrations: by symbol and timeframe name; where there is none, the identity
    training_from_s: epoch seconds; no row's window begins earlier; None: as far back as its bars go. The rows say all
    that follows from it, so it is no part of the id.

    Raises ModelError where the parts contradict each other.
    """

    parameters: ModelParameters
    training_cut_s: int
    libraries: tuple[PathLibrary, ...]
    calibrations: Mapping[LibraryKey, Calibration] = field(default_factory=dict)
    training_from_s: int | None = None

    def __post_init__(self) -> None:
        for library in self.libraries:
            self._check(library)
        by_key = {(library.symbol, library.timeframe): library for library in self.libraries}
        if len(by_key) != len(self.libraries):
            raise ModelError("model: two libraries of the same instrument and timeframe")
        unknown = sorted(set(self.calibrations) - set(by_key))
        if unknown:
            raise ModelError(f"model: calibration of {unknown[0]}, which has no library")
        ordered = sorted(by_key, key=_key_order)
        object.__setattr__(self, "libraries", tuple(by_key[key] for key in ordered))
        object.__setattr__(self, "calibrations", {k: self.calibrations[k] for k in ordered if k in self.calibrations})

    def _check(self, library: PathLibrary) -> None:
        where = f"model: library of {library.symbol} {library.timeframe}"
        if library.timeframe not in TIMEFRAMES:
            raise ModelError(f"{where}: timeframe is one of {', '.join(TIMEFRAMES)}")
        if library.paths.shape[1] != self.parameters.window.path_values:
            raise ModelError(
                f"{where}: its paths have {library.paths.shape[1]} values, "
                f"windows of this model {self.parameters.window.path_values}"
            )
        if len(library) and library.outcome_at_s[-1] > self.training_cut_s:
            raise ModelError(
                f"{where}: an outcome known at {library.outcome_at_s[-1]}, after the training cut {self.training_cut_s}"
            )
        if self.training_from_s is not None and len(library) and library.anchor_time_s[0] < self.training_from_s:
            raise ModelError(
                f"{where}: a window at {library.anchor_time_s[0]}, before the training start {self.training_from_s}"
            )

    def library(self, symbol: str, timeframe: str) -> PathLibrary:
        """The library of an instrument and timeframe; one without rows, which always holds, where there is none."""
        found = self._by_key.get((symbol, timeframe))
        if found is None:
            return PathLibrary.empty(symbol, timeframe, self.parameters.window.path_values)
        return found

    def calibration(self, symbol: str, timeframe: str) -> Calibration:
        return self.calibrations.get((symbol, timeframe), IDENTITY)

    @cached_property
    def _by_key(self) -> dict[LibraryKey, PathLibrary]:
        return {(library.symbol, library.timeframe): library for library in self.libraries}

    def document(self) -> dict[str, Any]:
        """What the model is, as JSON values. sep-metrics/1, section 7."""
        return {
            "metrics_version": METRICS_VERSION,
            "parameters": self.parameters.document(),
            "training_cut": self.training_cut_s,
            "calibration": [
                {
                    "instrument": symbol,
                    "timeframe": timeframe,
                    "x": [float(v).hex() for v in table.x],
                    "y": [float(v).hex() for v in table.y],
                }
                for (symbol, timeframe), table in self.calibrations.items()
            ],
            "libraries": [
                {
                    "instrument": library.symbol,
                    "timeframe": library.timeframe,
                    "rows": len(library),
                    "mu": [v.hex() for v in library.mu.tolist()],
                    "sigma": [v.hex() for v in library.sigma.tolist()],
                    "rows_sha256": library.rows_sha256,
                }
                for library in self.libraries
            ],
        }

    @cached_property
    def model_id(self) -> str:
        """SHA-256, lower hex, of the canonical JSON of `document`."""
        return hashlib.sha256(canonical_json(self.document())).hexdigest()


def canonical_json(document: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _key_order(key: LibraryKey) -> tuple[str, int]:
    return key[0], TIMEFRAMES.index(key[1])
