"""`FoldPlan`: walk-forward folds, in which each stretch of time is scored by what was known before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import HORIZON_BARS

MINUTE_S: Final = 60
DAY_S: Final = 86_400
FOLDS_MAX: Final = 1_000
"""Each fold makes a model."""
MODES: Final = ("expanding", "rolling")


def embargo_s_min(horizon_bars: tuple[int, ...] = HORIZON_BARS) -> int:
    """The longest horizon in time; bars by timeframe index."""
    return max(bars * duration_s for bars, duration_s in zip(horizon_bars, DURATION_S, strict=True))


@dataclass(frozen=True, slots=True)
class Fold:
    """A stretch of time that is scored, and the training span of the model that scores it. All epoch seconds.

    The library holds every window whose first bar opens at or after train_from_s (None: all) and whose outcome was
    known at cut_s; `rows` says which windows are scored. Raises ConfigurationError where the times are out of order.
    """

    number: int
    train_from_s: int | None
    cut_s: int
    score_from_s: int
    score_until_s: int

    def __post_init__(self) -> None:
        starts = [] if self.train_from_s is None else [self.train_from_s]
        if self.number < 1 or not all(a <= b for a, b in pairwise([*starts, self.cut_s, self.score_from_s])):
            raise ConfigurationError(f"fold: expected a number >= 1 and train_from <= cut <= score_from, got {self}")
        if self.score_from_s >= self.score_until_s:
            raise ConfigurationError(f"fold: expected score_from < score_until, got {self}")

    def rows(self, available_at_s: npt.NDArray[np.int64]) -> slice:
        """Which of the windows that come at these rising times are scored: score_from_s <= time < score_until_s.

        A model activated before the first event at or after score_from_s is in force for just these.
        """
        first, end = np.searchsorted(available_at_s, [self.score_from_s, self.score_until_s]).tolist()
        return slice(first, end)


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """How a range of time is cut into folds.

    train_s: training length of rolling folds, least training length of expanding ones, which train on all before
    fold_s: length of each scored stretch, whole minutes, but for the last, which may be shorter; or fold_count: how
    many of equal length · mode: "expanding" or "rolling" · embargo_s: from the training cut to the scored stretch
    horizon_bars: of the models, by timeframe index: the embargo is no shorter

    Raises ConfigurationError naming the field.
    """

    train_s: int
    fold_s: int | None = None
    fold_count: int | None = None
    mode: str = "expanding"
    embargo_s: int = embargo_s_min()
    horizon_bars: tuple[int, ...] = HORIZON_BARS

    def __post_init__(self) -> None:
        _require(self.mode in MODES, "mode", f"one of {', '.join(MODES)}", self.mode)
        _require(self.train_s > 0, "train_s", "seconds above 0", self.train_s)
        counts = len(self.horizon_bars) == len(DURATION_S)
        _require(counts, "horizon_bars", f"{len(DURATION_S)}, one for each timeframe", self.horizon_bars)
        least = embargo_s_min(self.horizon_bars)
        _require(self.embargo_s >= least, "embargo_s", f"at least {least} s, the longest horizon", self.embargo_s)
        missing = (self.fold_s is None) + (self.fold_count is None)
        _require(missing == 1, "fold_s and fold_count", "one of them", (self.fold_s, self.fold_count))
        if self.fold_s is not None:
            whole = self.fold_s > 0 and self.fold_s % MINUTE_S == 0
            _require(whole, "fold_s", "whole minutes, in seconds", self.fold_s)
        if self.fold_count is not None:
            _require(1 <= self.fold_count <= FOLDS_MAX, "fold_count", f"1 to {FOLDS_MAX}", self.fold_count)

    def folds(self, first_s: int, last_s: int) -> tuple[Fold, ...]:
        """The folds of a range in time order, their scored stretches without a gap or an overlap.

        first_s, last_s: epoch seconds, open of the first bar and end of the last; the last stretch ends after last_s
        Borders are whole UTC days where fold_s is, else whole minutes. Raises ConfigurationError, with what would be
        needed, for a range that is too short, and for more folds than FOLDS_MAX.
        """
        begin = _up(first_s + self.train_s + self.embargo_s, self._unit_s)
        end = _up(last_s + 1, self._unit_s)
        self._require_length(first_s, last_s, begin, end)
        return tuple(self._fold(number, *span) for number, span in enumerate(pairwise(self._borders(begin, end)), 1))

    @property
    def _unit_s(self) -> int:
        return DAY_S if self.fold_s is not None and self.fold_s % DAY_S == 0 else MINUTE_S

    def _fold(self, number: int, score_from_s: int, score_until_s: int) -> Fold:
        cut_s = score_from_s - self.embargo_s
        train_from_s = cut_s - self.train_s if self.mode == "rolling" else None
        return Fold(number, train_from_s, cut_s, score_from_s, score_until_s)

    def _borders(self, begin: int, end: int) -> list[int]:
        if self.fold_s is not None:
            return [*range(begin, end, self.fold_s), end]
        count = self.fold_count or 1
        return [begin + _down((end - begin) * k // count, MINUTE_S) for k in range(count + 1)]

    def _require_length(self, first_s: int, last_s: int, begin: int, end: int) -> None:
        scored_s = self.fold_s or MINUTE_S * (self.fold_count or 1)
        if end - begin < scored_s:
            folds = f"one fold of {scored_s} s" if self.fold_s else f"{self.fold_count} folds of a minute or more"
            raise ConfigurationError(
                f"folds: {_iso(first_s)} to {_iso(last_s)} is too short: {self.train_s} s of training, "
                f"{self.embargo_s} s of embargo and {folds} need bars until {_iso(begin + scored_s - self._unit_s)}"
            )
        if self.fold_s is not None and end - begin > FOLDS_MAX * self.fold_s:
            least_s = _up(-(-(end - begin) // FOLDS_MAX), MINUTE_S)
            raise ConfigurationError(
                f"folds fold_s: {self.fold_s} s cut {_iso(begin)} to {_iso(end)} into more than {FOLDS_MAX} folds; "
                f"it takes at least {least_s} s"
            )


def _require(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigurationError(f"folds {field}: expected {expected}, got {got}")


def _down(seconds: int, unit_s: int) -> int:
    return seconds // unit_s * unit_s


def _up(seconds: int, unit_s: int) -> int:
    return -(-seconds // unit_s) * unit_s


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
