"""`score`: what a library says of some paths."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.metrics.engines import Engine, engine_of
from sep_stream.scoring.calibration import Calibration
from sep_stream.scoring.library import PathLibrary, quantise
from sep_stream.scoring.nearest import nearest_blocks

MATCHES: Final = 32
"""Blocks that vote."""
BLOCKS_MIN: Final = 16
"""With fewer blocks that have an eligible row, a score holds."""
NAMED_MATCHES: Final = 5
"""Best matches that a score names."""

BUY: Final = 1
SELL: Final = -1
HOLD: Final = 0


class HoldReason(IntEnum):
    """Why a score says nothing; NONE also where it holds because p is exactly a half."""

    NONE = 0
    LIBRARY = 1
    WEIGHT = 2


IDENTITY: Final = Calibration()


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBatch:
    """The scores of n paths.

    p_up, p: (n,) float64, before and after calibration · direction: (n,) int8, BUY, SELL or HOLD
    reason: (n,) uint8, see HoldReason · confidence: (n,) float64 · expected_move: (n,) float64, points
    match_row: (n, 5) int64, -1 where there are fewer · match_cosine: (n, 5) float64, 0 there
    blocks: (n,) int64, blocks with an eligible row
    """

    p_up: npt.NDArray[np.float64]
    p: npt.NDArray[np.float64]
    direction: npt.NDArray[np.int8]
    reason: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float64]
    expected_move: npt.NDArray[np.float64]
    match_row: npt.NDArray[np.int64]
    match_cosine: npt.NDArray[np.float64]
    blocks: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.p)


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """What the matches of q paths say, before anything holds.

    p_up, expected_move, weight: (q,) float64, weight being the sum of the matches' · match_row: (q, 5) int64, -1 where
    there are fewer · match_cosine: (q, 5) float64, 0 there
    """

    p_up: npt.NDArray[np.float64]
    expected_move: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    match_row: npt.NDArray[np.int64]
    match_cosine: npt.NDArray[np.float64]


class VotingEngine(Engine, Protocol):
    """An engine with a search for nearest paths of its own; for others the CPU's is used."""

    def votes(
        self,
        library: PathLibrary,
        block_rows: int,
        paths: npt.NDArray[np.float32],
        eligible: npt.NDArray[np.int64],
        matches: int,
    ) -> Votes:
        """What the `matches` blocks of `block_rows` rows nearest to each path (q, 3K) say.

        eligible: (q,) int64, how many rows, from the first, each path may see. Raises DependencyError where a device
        fails.
        """


def score(
    library: PathLibrary,
    block_rows: int,
    paths: npt.NDArray[np.float32],
    window_start_s: npt.NDArray[np.int64],
    calibration: Calibration = IDENTITY,
    matches: int = MATCHES,
    min_blocks: int = BLOCKS_MIN,
    engine: str | Engine = "auto",
) -> ScoreBatch:
    """Scores of paths (n, 3K) whose windows begin at `window_start_s` (n,), by the blocks of rows nearest to each.

    A path sees only rows whose outcome was known when its window began. block_rows: rows that share one vote, the
    forward length. engine: as of `compute_metrics`; it changes nothing but the time. sep-metrics/1, section 7.

    Raises ConfigurationError for an engine that is not there, DependencyError where a GPU fails.
    """
    eligible = np.searchsorted(library.outcome_at_s, window_start_s, side="right").astype(np.int64)
    votes = getattr(engine_of(engine), "votes", cpu_votes)(library, block_rows, paths, eligible, matches)
    return score_of(votes, -(-eligible // block_rows), calibration, min_blocks)


def score_of(
    votes: Votes, blocks: npt.NDArray[np.int64], calibration: Calibration = IDENTITY, min_blocks: int = BLOCKS_MIN
) -> ScoreBatch:
    """The scores that votes make. blocks: (n,) int64, with an eligible row"""
    reason = np.where(
        blocks < min_blocks, HoldReason.LIBRARY, np.where(votes.weight == 0.0, HoldReason.WEIGHT, HoldReason.NONE)
    ).astype(np.uint8)
    speaks = reason == HoldReason.NONE
    p_up = np.where(speaks, votes.p_up, 0.5)
    p = np.where(speaks, calibration.apply(p_up), 0.5)
    return ScoreBatch(
        p_up=p_up,
        p=p,
        direction=np.where(p > 0.5, BUY, np.where(p < 0.5, SELL, HOLD)).astype(np.int8),
        reason=reason,
        confidence=np.maximum(p, 1.0 - p),
        expected_move=np.where(speaks, votes.expected_move, 0.0),
        match_row=votes.match_row,
        match_cosine=votes.match_cosine,
        blocks=blocks,
    )


def cpu_votes(
    library: PathLibrary,
    block_rows: int,
    paths: npt.NDArray[np.float32],
    eligible: npt.NDArray[np.int64],
    matches: int,
) -> Votes:
    """See `VotingEngine.votes`."""
    queries = quantise(paths, library.mu, library.sigma)
    nearest = nearest_blocks(library.tiles, queries, eligible, block_rows, matches)
    p_up, expected, weight = (np.zeros(len(queries)) for _ in range(3))
    _count_votes(nearest.row, nearest.cosine, nearest.count, library.outcome, p_up, expected, weight)
    return Votes(p_up, expected, weight, _named(nearest.row, -1), _named(nearest.cosine, 0))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _count_votes(row: Any, cosine: Any, count: Any, outcome: Any, p_up: Any, expected: Any, weight: Any) -> None:
    """Sums in rank order. Compiled: as array operations the ranks cost more than the search of a small library."""
    for j in range(len(row)):
        weight_sum = up_sum = move_sum = 0.0
        for rank in range(count[j]):
            c = max(0.0, cosine[j, rank])
            w = c * c
            move = np.float64(outcome[row[j, rank]])
            weight_sum += w
            up_sum += w * (1.0 if move > 0.0 else 0.0 if move < 0.0 else 0.5)
            move_sum += w * move
        p_up[j] = (up_sum + 1.0) / (weight_sum + 2.0)
        expected[j] = move_sum / weight_sum if weight_sum != 0.0 else 0.0
        weight[j] = weight_sum


def _named(columns: npt.NDArray[Any], missing: int) -> npt.NDArray[Any]:
    """The first NAMED_MATCHES of k columns, `missing` where k is less."""
    named = np.full((len(columns), NAMED_MATCHES), missing, columns.dtype)
    named[:, : columns.shape[1]] = columns[:, :NAMED_MATCHES]
    return named
