"""`calibrated`: a model whose probabilities are those that its own history bore out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.metrics import Engine
from sep_stream.scoring.calibration import Calibration
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.scoring.score import IDENTITY, HoldReason, score

QUERIES_MAX: Final = 4_096
"""Rows of a library that are scored: the cost of all of them grows with their square."""
SCORED_MIN: Final = 500
"""Fewer scores leave the identity: the rate of so many fair coins strays by 2.2 % (one sigma)."""
KNOTS_MAX: Final = 32
SCORES_PER_KNOT_MIN: Final = 50


def calibrated(model: Model, engine: str | Engine = "auto") -> Model:
    """The same model with tables fitted on scores of its own rows; a library with too few of them keeps the identity.

    Each row is scored by the model's own library under the contract's rule: it sees only rows whose outcome was known
    when its window began. The rule finds a window's begin in the library itself, which holds every window: it is the
    anchor time of the row history - 1 before.
    """
    tables = {
        (library.symbol, library.timeframe): _calibration(library, model.parameters, engine)
        for library in model.libraries
    }
    return replace(model, calibrations={key: table for key, table in tables.items() if table != IDENTITY})


def fit_calibration(p_up: npt.NDArray[np.float64], outcome: npt.NDArray[np.int32]) -> Calibration:
    """The isotonic fit of what came, up or not, to raw probabilities; the order of the pairs does not matter.

    p_up: (n,) within 0 … 1 · outcome: (n,) points; above 0 counts 1, 0 a half
    Sorted scores fall into at most KNOTS_MAX groups of equal size, at least SCORES_PER_KNOT_MIN, equal scores in one.
    Each group counts one more up and one more down than it saw, as p_up itself does: no fitted probability is 0 or 1.
    Neighbouring groups that do not rise are pooled (pool adjacent violators). A knot for each pool: x its middle score,
    y its rate. The identity for less than SCORED_MIN pairs.
    """
    if len(p_up) < SCORED_MIN:
        return IDENTITY
    order = np.argsort(p_up, kind="stable")
    scores, twice_up = p_up[order], 1 + np.sign(outcome[order]).astype(np.int64)
    pools = _rising(_groups(scores, twice_up))
    return Calibration(
        tuple(float(scores[(pool.first + pool.end) // 2]) for pool in pools),
        tuple(pool.twice_up / pool.twice_seen for pool in pools),
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """The sorted scores first … end - 1, and how often it went up, in halves, which keep all sums whole."""

    first: int
    end: int
    twice_up: int
    twice_seen: int

    def falls_to(self, later: _Pool) -> bool:
        """Whether a later pool's rate is not above this one's; exact, as a cross product of integers."""
        return self.twice_up * later.twice_seen >= later.twice_up * self.twice_seen

    def joined(self, later: _Pool) -> _Pool:
        return _Pool(self.first, later.end, self.twice_up + later.twice_up, self.twice_seen + later.twice_seen)


def _groups(scores: npt.NDArray[np.float64], twice_up: npt.NDArray[np.int64]) -> list[_Pool]:
    """Sorted scores in groups of one size or more; a border never parts equal ones."""
    n = len(scores)
    size = max(SCORES_PER_KNOT_MIN, -(-n // KNOTS_MAX))
    borders = [0]
    for border in (np.flatnonzero(np.diff(scores) > 0.0) + 1).tolist():
        if border - borders[-1] >= size and n - border >= size:
            borders.append(border)
    ends = [*borders[1:], n]
    return [
        _Pool(first, end, int(twice_up[first:end].sum()) + 2, 2 * (end - first) + 4)
        for first, end in zip(borders, ends, strict=True)
    ]


def _rising(groups: list[_Pool]) -> list[_Pool]:
    """The groups, pooled with their neighbours until each rate is above the one before."""
    pools: list[_Pool] = []
    for group in groups:
        pool = group
        while pools and pools[-1].falls_to(pool):
            pool = pools.pop().joined(pool)
        pools.append(pool)
    return pools


def _calibration(library: PathLibrary, parameters: ModelParameters, engine: str | Engine) -> Calibration:
    before = parameters.window.history - 1
    rows = _queries(library, parameters, before)
    if len(rows) < SCORED_MIN:
        return IDENTITY
    said = score(
        library,
        parameters.window.forward,
        library.paths[rows],
        library.anchor_time_s[rows - before],
        matches=parameters.matches,
        min_blocks=parameters.min_blocks,
        engine=engine,
    )
    speaks = said.reason == HoldReason.NONE
    return fit_calibration(said.p_up[speaks], library.outcome[rows][speaks])


def _queries(library: PathLibrary, parameters: ModelParameters, before: int) -> npt.NDArray[np.int64]:
    """Rows to be scored: of those that see enough blocks, every n-th from the first on, at most QUERIES_MAX.

    n is at least the horizon, so that no two outcomes share a bar and each is evidence of its own.
    """
    needed = parameters.window.forward * (parameters.min_blocks - 1)
    if needed >= len(library):
        return np.empty(0, np.int64)
    first = before + int(np.searchsorted(library.anchor_time_s, library.outcome_at_s[needed]))
    horizon = parameters.horizon_bars[TIMEFRAMES.index(library.timeframe)]
    return np.arange(first, len(library), max(horizon, -(-(len(library) - first) // QUERIES_MAX)), dtype=np.int64)
