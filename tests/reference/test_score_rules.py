"""The rules for libraries, scores and gates at their edges, worked out by hand; asked of the reference and the package.

With mu 0 and sigma 32 a path of small integers is its own quantised form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sep_stream.metrics import MetricsBatch
from sep_stream.scoring import Calibration, GateParameters, PathLibrary, gate_reasons, score
from sep_stream.scoring.gate import gate_failures
from sep_stream.scoring.library import quantise
from tests import reference
from tests.package import DIRECTIONS, REASONS
from tests.reference.scoring import DEFAULTS, Library, Row, gate_failed

BAR_S = 60
UP = (1, 2, 3)
Path = Sequence[float]
Say = Callable[..., dict[str, Any]]


def known_at(row: int) -> int:
    return (row + 10) * BAR_S


def by_reference(paths: Sequence[Path], outcomes: Sequence[int], path: Path, **values: Any) -> dict[str, Any]:
    rows = [
        Row(tuple(map(float, p)), BAR_S * r, BAR_S * r + 1, known_at(r), o)
        for r, (p, o) in enumerate(zip(paths, outcomes, strict=True))
    ]
    library = Library(rows, len(path))
    library.__dict__.update(mu=[0.0] * len(path), sigma=[32.0] * len(path))  # in place of the rows' own
    window = {**DEFAULTS["window"], "forward": values["forward"]}
    parameters = {**DEFAULTS, "window": window, "matches": values["matches"]}
    key = ("EUR/USD", "M1")
    calibrations = {key: values["knots"]} if values["knots"] else {}
    model = reference.Model(parameters, 2**40, {key: library}, calibrations)
    said = reference.score(model, key, [float(value) for value in path], values["start_s"])
    return said | {"matches": [(match["row"], match["cosine"]) for match in said["matches"]]}


def by_package(paths: Sequence[Path], outcomes: Sequence[int], path: Path, **values: Any) -> dict[str, Any]:
    n, width = len(paths), len(path)
    anchor = BAR_S * np.arange(n, dtype=np.int64)
    library = PathLibrary(
        "EUR/USD", "M1", np.array(paths, np.float32).reshape(n, width), anchor, anchor + 1,
        np.array([known_at(r) for r in range(n)], np.int64), np.array(outcomes, np.int32), np.zeros(width),
        np.full(width, 32.0),
    )  # fmt: skip
    calibration = Calibration(*values["knots"]) if values["knots"] else Calibration()
    said = score(
        library, values["forward"], np.array([path], np.float32), np.array([values["start_s"]]), calibration,
        values["matches"],
    )  # fmt: skip
    matches = zip(said.match_row[0].tolist(), said.match_cosine[0].tolist(), strict=True)
    return {
        "direction": DIRECTIONS[int(said.direction[0])],
        "reason": REASONS[int(said.reason[0])],
        **{name: float(getattr(said, name)[0]) for name in ("confidence", "p_up", "expected_move")},
        "matches": [match for match in matches if match[0] >= 0],
    }


@pytest.fixture(params=[by_reference, by_package], ids=["reference", "package"])
def say(request: pytest.FixtureRequest) -> Say:
    """What a library of these paths and outcomes says of a path; by default all is known and each row is a block."""

    defaults = {"forward": 1, "matches": 32, "start_s": 2**40, "knots": None}
    return lambda paths, outcomes, path, **values: request.param(paths, outcomes, path, **{**defaults, **values})


def rows_of(said: dict[str, Any]) -> list[int]:
    return [row for row, _ in said["matches"]]


# quantising


@pytest.mark.parametrize(
    ("value", "sigma", "expected"),
    [
        *((k + 0.5, 32.0, k + k % 2) for k in range(-4, 4)),
        (126.5, 32.0, 126),
        (127.5, 32.0, 127),
        (128.0, 32.0, 127),
        (1e9, 32.0, 127),
        (-126.5, 32.0, -126),
        (-127.5, 32.0, -127),
        (-1e9, 32.0, -127),
        (1.0, 1e-9, 127),
        (1.0, math.nextafter(1e-9, 0), 0),
        (1.0, 0.0, 0),
    ],
)
def test_quantising_rounds_ties_to_even_clips_and_leaves_out_what_does_not_vary(
    value: float, sigma: float, expected: int
) -> None:
    theirs = Library([], 1)
    theirs.__dict__.update(mu=[0.0], sigma=[sigma])
    assert theirs.quantise([value]) == [expected]
    assert quantise(np.array([[value]], np.float32), np.zeros(1), np.array([sigma])).tolist() == [[expected]]


# ties


def test_of_equal_rows_in_a_block_the_later_counts_and_of_equal_blocks_the_later_is_first(say: Say) -> None:
    said = say([UP] * 40, [1] * 40, UP, forward=4)
    assert rows_of(said) == [39, 35, 31, 27, 23]
    assert rows_of(say([UP] * 38, [1] * 38, UP, forward=4)) == [37, 35, 31, 27, 23]


def test_rows_of_another_direction_may_tie_as_well(say: Say) -> None:
    paths = [(1, 0, 0), (0, 1, 0)] * 20
    said = say(paths, [1] * 40, (1, 1, 0), forward=2)
    assert rows_of(said) == [39, 37, 35, 33, 31]
    assert rows_of(say([(5, 0, 0), (0, 1, 0)] * 20, [1] * 40, (1, 1, 0), forward=2)) == [39, 37, 35, 33, 31]


def test_a_greater_cosine_beats_a_later_row(say: Say) -> None:
    paths = [*[UP] * 3, (1, 2, 2), *[(1, 2, 2)] * 36]
    said = say(paths, [1] * 40, UP, forward=4)
    assert rows_of(said)[:2] == [2, 39]
    assert said["matches"][0][1] == 1.0


def test_a_cosine_of_minus_zero_ranks_as_zero(say: Say) -> None:
    paths = [(0, 0, 0), (1, 0, 0)] * 10
    said = say(paths, [1] * 20, (0, -1, 0))
    assert rows_of(said) == [19, 18, 17, 16, 15]
    assert all(math.copysign(1, cosine) == 1 for _, cosine in said["matches"])


# votes


def test_votes_are_weighted_by_the_square_of_the_cosine(say: Say) -> None:
    near = (3, 4, 0)
    said = say([(1, 0, 0)] * 8 + [near] * 8, [4] * 8 + [-10] * 8, (1, 0, 0))
    w = (3 / math.sqrt(25.0)) * (3 / math.sqrt(25.0))
    weight = up = move = 0.0
    for c, outcome in [(1.0, 4)] * 8 + [(w, -10)] * 8:
        weight, up, move = weight + c, up + c * (outcome > 0), move + c * outcome
    assert said["p_up"] == (up + 1) / (weight + 2)
    assert said["expected_move"] == move / weight
    assert said["direction"] == "BUY"


def test_what_points_the_other_way_has_no_vote(say: Say) -> None:
    said = say([UP] * 10 + [(-1, -2, -3)] * 10, [1] * 10 + [-1] * 10, UP)
    assert said["p_up"] == 11 / 12
    assert said["expected_move"] == 1.0


def test_an_outcome_of_nothing_votes_half(say: Say) -> None:
    said = say([UP] * 20, [0] * 20, UP)
    assert (said["direction"], said["reason"], said["p_up"], said["expected_move"]) == ("HOLD", None, 0.5, 0.0)
    assert say([UP] * 20, [0] * 19 + [1], UP)["p_up"] == (19 * 0.5 + 1 + 1) / 22


def test_only_the_best_blocks_vote(say: Say) -> None:
    said = say([UP] * 40, [-1] * 8 + [1] * 32, UP)
    assert said["p_up"] == 33 / 34
    assert say([UP] * 40, [-1] * 8 + [1] * 32, UP, matches=40)["p_up"] == 33 / 42


def test_fewer_blocks_than_sixteen_hold_and_name_what_there_is(say: Say) -> None:
    said = say([UP] * 15, [1] * 15, UP, knots=((0.5,), (0.9,)))
    assert (said["direction"], said["reason"], said["p_up"], said["confidence"]) == ("HOLD", "library", 0.5, 0.5)
    assert rows_of(said) == [14, 13, 12, 11, 10]
    assert say([UP] * 16, [1] * 16, UP)["reason"] is None
    assert say([], [], UP)["matches"] == []


def test_a_block_that_has_begun_is_one_of_the_sixteen(say: Say) -> None:
    assert say([UP] * 60, [1] * 60, UP, forward=4)["reason"] == "library"
    assert say([UP] * 61, [1] * 61, UP, forward=4)["reason"] is None


@pytest.mark.parametrize("path", [(-1, -2, -3), (0, 0, 0), (3, 0, -1)])
def test_without_weight_it_holds_uncalibrated(say: Say, path: Path) -> None:
    said = say([UP] * 20, [1] * 20, path, knots=((0.5,), (0.9,)))
    assert (said["direction"], said["reason"]) == ("HOLD", "weight")
    assert (said["p_up"], said["confidence"], said["expected_move"]) == (0.5, 0.5, 0.0)
    assert rows_of(said) == [19, 18, 17, 16, 15]


def test_too_small_a_library_is_told_before_a_lack_of_weight(say: Say) -> None:
    assert say([UP] * 15, [1] * 15, (0, 0, 0))["reason"] == "library"


def test_a_row_is_eligible_from_the_second_that_its_outcome_is_known(say: Say) -> None:
    assert rows_of(say([UP] * 40, [1] * 40, UP, start_s=known_at(20)))[0] == 20
    assert rows_of(say([UP] * 40, [1] * 40, UP, start_s=known_at(20) - 1))[0] == 19
    assert say([UP] * 40, [1] * 40, UP, start_s=known_at(0) - 1)["matches"] == []


@pytest.mark.parametrize(
    ("p_up", "knots", "p"),
    [
        (11 / 12, ((0.2, 11 / 12), (0.1, 0.7)), 0.7),
        (11 / 12, ((0.2, 0.5, 11 / 12, 0.95), (0.1, 0.3, 0.8, 0.9)), 0.8),
        (11 / 12, ((11 / 12, 0.95), (0.6, 0.9)), 0.6),
        (11 / 12, ((0.2, 0.9), (0.1, 0.75)), 0.75),
        (11 / 12, ((0.95, 0.99), (0.25, 0.9)), 0.25),
        (11 / 12, ((0.5,), (0.5,)), 0.5),
        (11 / 12, ((0.2, 1.0), (0.1, 0.9)), 0.1 + (11 / 12 - 0.2) * ((0.9 - 0.1) / (1.0 - 0.2))),
    ],
    ids=["at the last knot", "at a knot", "at the first knot", "past the end", "before the beginning", "one knot",
         "between"],
)  # fmt: skip
def test_calibration_is_linear_between_knots_and_level_beyond_them(
    say: Say, p_up: float, knots: tuple[tuple[float, ...], tuple[float, ...]], p: float
) -> None:
    said = say([UP] * 10 + [(-1, -2, -3)] * 10, [1] * 20, UP, knots=knots)
    assert said["p_up"] == p_up
    assert said["confidence"] == max(p, 1 - p)
    assert said["direction"] == ("BUY" if p > 0.5 else "SELL" if p < 0.5 else "HOLD")


# gate

SOUND: dict[str, Any] = {
    "damped": (0.5, 0.2, 0.8), "converged": True, "rupture_collapse": False, "qbsa_collapse": False, "confidence": 0.7,
}  # fmt: skip


def failed_by_reference(metrics: dict[str, Any]) -> list[str]:
    return gate_failed(metrics["confidence"], metrics, DEFAULTS["gate"])


def failed_by_package(metrics: dict[str, Any]) -> list[str]:
    batch = MetricsBatch.zeros(1, 1)
    for name in ("damped", "converged", "rupture_collapse", "qbsa_collapse"):
        getattr(batch, name)[0] = metrics[name]
    return list(gate_reasons(int(gate_failures(batch, np.array([metrics["confidence"]]), GateParameters())[0])))


@pytest.mark.parametrize("failed", [failed_by_reference, failed_by_package], ids=["reference", "package"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"confidence": 0.6}, []),
        ({"confidence": math.nextafter(0.6, 0)}, ["confidence"]),
        ({"damped": (0.5, 0.1, 0.8)}, []),
        ({"damped": (0.5, math.nextafter(0.1, 0), 0.8)}, ["coherence"]),
        ({"damped": (0.5, 0.2, 0.55)}, []),
        ({"damped": (0.5, 0.2, 0.45)}, ["stability"]),
        ({"damped": (0.5, 0.2, 0.5)}, ["stability"]),
        ({"converged": False}, ["converged"]),
        ({"rupture_collapse": True}, ["rupture_collapse"]),
        ({"qbsa_collapse": True}, ["qbsa_collapse"]),
        (
            {"damped": (0.5, 0.0, 0.5), "converged": False, "rupture_collapse": True, "qbsa_collapse": True,
             "confidence": 0.5},
            ["confidence", "coherence", "stability", "converged", "rupture_collapse", "qbsa_collapse"],
        ),
    ],
)  # fmt: skip
def test_a_gate_lets_its_limits_pass_and_tells_what_failed_in_order(
    failed: Callable[[dict[str, Any]], list[str]], changes: dict[str, Any], expected: list[str]
) -> None:
    assert failed({**SOUND, **changes}) == expected
