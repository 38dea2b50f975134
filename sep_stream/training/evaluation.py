"""What walk-forward folds showed, as it travels with a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sep_stream.errors import ModelError
from sep_stream.training.folds import Fold


@dataclass(frozen=True, slots=True)
class FoldEvaluation:
    """A fold and its figures by name, such as `hit_rate`: finite numbers, None where there was nothing to count.

    Raises ModelError for any other figure.
    """

    fold: Fold
    figures: Mapping[str, float | int | None]

    def __post_init__(self) -> None:
        for name, value in self.figures.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not (number or value is None):
                raise ModelError(f"figures.{name}: expected a finite number or null, got {value!r}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The folds of the walk-forward run that a model comes from. No part of its id: it changes no score."""

    folds: tuple[FoldEvaluation, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values; times in epoch seconds."""
        return {
            "folds": [
                {name.removesuffix("_s"): value for name, value in asdict(each.fold).items()}
                | {"figures": dict(each.figures)}
                for each in self.folds
            ]
        }
