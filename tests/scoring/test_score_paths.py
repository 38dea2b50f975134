"""`score` against the contract written out in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream.scoring import Calibration, HoldReason, PathLibrary, score

BAR_S = 60
UNIT_SIGMA = 32.0
"""With mu 0 and this sigma, a path of small integers is its own quantised form."""


def library_of(paths: npt.NDArray[Any], outcome: npt.NDArray[Any]) -> PathLibrary:
    """Row r's outcome is known at (r + 10) bars."""
    n, width = paths.shape
    anchor = BAR_S * np.arange(n, dtype=np.int64)
    return PathLibrary(
        "EUR/USD",
        "M1",
        paths.astype(np.float32),
        anchor,
        anchor + 5 * BAR_S,
        anchor + 10 * BAR_S,
        outcome.astype(np.int32),
        np.zeros(width),
        np.full(width, UNIT_SIGMA),
    )


def all_known(n: int) -> npt.NDArray[np.int64]:
    return np.full(n, 2**40)


def expected_score(library: PathLibrary, block_rows: int, path: list[float], start_s: int) -> dict[str, Any]:
    eligible = [r for r, at in enumerate(library.outcome_at_s.tolist()) if at <= start_s]

    def cosine(r: int) -> float:
        row = library.paths[r].tolist()
        product = sum(a * a for a in row) * sum(b * b for b in path)
        return sum(a * b for a, b in zip(row, path, strict=True)) / math.sqrt(product) if product else 0.0

    blocks: dict[int, tuple[float, int]] = {}
    for r in eligible:
        blocks[r // block_rows] = max(blocks.get(r // block_rows, (-2.0, -1)), (cosine(r), r))
    best = sorted(blocks.values(), reverse=True)[:32]
    weight = up = move = 0.0
    for c, r in best:
        w = max(0.0, c) * max(0.0, c)
        o = int(library.outcome[r])
        weight += w
        up += w * (1.0 if o > 0 else 0.0 if o < 0 else 0.5)
        move += w * o
    reason = HoldReason.LIBRARY if len(blocks) < 16 else HoldReason.WEIGHT if weight == 0 else HoldReason.NONE
    p = (up + 1.0) / (weight + 2.0) if reason == HoldReason.NONE else 0.5
    return {
        "p_up": p,
        "p": p,
        "direction": (p > 0.5) - (p < 0.5),
        "reason": reason,
        "confidence": max(p, 1.0 - p),
        "expected_move": move / weight if reason == HoldReason.NONE else 0.0,
        "match_row": [r for _, r in best[:5]] + [-1] * (5 - len(best[:5])),
        "match_cosine": [c for c, _ in best[:5]] + [0.0] * (5 - len(best[:5])),
        "blocks": len(blocks),
    }


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.one_of(st.integers(0, 40), st.integers(150, 300)),
    st.integers(1, 12),
    st.integers(1, 3),
    st.lists(st.integers(0, 330), min_size=1, max_size=8),
)
def test_equals_the_contract_in_plain_python(
    seed: int, n: int, block_rows: int, samples: int, starts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    palette = rng.integers(-6, 7, (rng.integers(1, 9), 3 * samples))
    palette[0] = 0
    library = library_of(palette[rng.integers(0, len(palette), n)], rng.integers(-2, 3, n))
    paths = palette[rng.integers(0, len(palette), len(starts))].astype(np.float32)
    start_s = BAR_S * np.array(starts, np.int64)
    found = score(library, block_rows, paths, start_s)
    for k in range(len(starts)):
        expected = expected_score(library, block_rows, paths[k].tolist(), int(start_s[k]))
        assert {name: getattr(found, name)[k].tolist() for name in expected} == expected


@pytest.mark.parametrize(("blocks", "reason"), [(15, HoldReason.LIBRARY), (16, HoldReason.NONE)])
def test_fewer_than_sixteen_blocks_hold(blocks: int, reason: HoldReason) -> None:
    library = library_of(np.ones((4 * blocks - 3, 3)), np.ones(4 * blocks - 3))
    found = score(library, 4, np.ones((1, 3), np.float32), all_known(1))
    assert found.blocks.tolist() == [blocks]
    assert found.reason.tolist() == [reason]
    assert found.direction.tolist() == [0 if reason else 1]
    assert found.match_row.tolist() == [[4 * (blocks - 1 - k) + (3 if k else 0) for k in range(5)]]


def test_an_outcome_known_as_the_window_opens_counts_and_one_a_second_later_does_not() -> None:
    library = library_of(np.ones((40, 3)), np.ones(40))
    start_s = np.array([library.outcome_at_s[20], library.outcome_at_s[20] - 1])
    found = score(library, 1, np.ones((2, 3), np.float32), start_s)
    assert found.match_row[:, 0].tolist() == [20, 19]


def test_an_empty_library_holds_and_names_nothing() -> None:
    found = score(PathLibrary.empty("EUR/USD", "M1", 3), 4, np.ones((2, 3), np.float32), all_known(2))
    assert found.reason.tolist() == [HoldReason.LIBRARY] * 2
    assert found.p.tolist() == found.confidence.tolist() == [0.5, 0.5]
    assert (found.match_row == -1).all()


def test_paths_that_resemble_nothing_hold_by_weight_and_still_name_matches() -> None:
    library = library_of(np.tile([[1, 2, 3]], (40, 1)), np.ones(40))
    paths = np.array([[-1, -2, -3], [0, 0, 0]], np.float32)
    found = score(library, 2, paths, all_known(2), Calibration((0.5,), (0.9,)))
    assert found.reason.tolist() == [HoldReason.WEIGHT] * 2
    assert found.p_up.tolist() == found.p.tolist() == [0.5, 0.5]
    assert found.expected_move.tolist() == [0.0, 0.0]
    assert found.match_row.tolist() == [[39, 37, 35, 33, 31]] * 2


def test_calibration_changes_p_and_confidence_but_not_p_up() -> None:
    library = library_of(np.ones((40, 3)), np.ones(40))
    raw = score(library, 1, np.ones((1, 3), np.float32), all_known(1))
    calibrated = score(library, 1, np.ones((1, 3), np.float32), all_known(1), Calibration((0.0, 1.0), (0.2, 0.4)))
    assert calibrated.p_up.tolist() == raw.p_up.tolist()
    assert calibrated.direction.tolist() == [-1]
    p = 0.2 + raw.p_up[0] * ((0.4 - 0.2) / (1.0 - 0.0))
    assert calibrated.p.tolist() == [p]
    assert calibrated.confidence.tolist() == [1.0 - p]


def test_outcomes_that_cancel_give_exactly_a_half() -> None:
    outcome = np.tile([1, -1], 20)
    found = score(library_of(np.ones((40, 3)), outcome), 1, np.ones((1, 3), np.float32), all_known(1))
    assert (found.p[0], found.direction[0], found.reason[0]) == (0.5, 0, HoldReason.NONE)


def test_fewer_matches_than_are_named_are_padded() -> None:
    library = library_of(np.ones((40, 3)), np.ones(40))
    found = score(library, 1, np.ones((1, 3), np.float32), all_known(1), matches=2)
    assert found.match_row.tolist() == [[39, 38, -1, -1, -1]]
    assert found.p_up.tolist() == [3.0 / 4.0]
