from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ModelError
from sep_stream.scoring import Calibration

KNOTS = Calibration((0.2, 0.5, 0.9), (0.3, 0.5, 0.6))


def test_without_knots_it_changes_nothing() -> None:
    p = np.array([0.0, 0.3, 1.0])
    assert Calibration().apply(p).tolist() == p.tolist()


def test_a_knot_gives_exactly_its_y_and_beyond_the_ends_the_ends_hold() -> None:
    assert KNOTS.apply(np.array([0.0, 0.2, 0.5, 0.9, 1.0])).tolist() == [0.3, 0.3, 0.5, 0.6, 0.6]


def test_between_knots_it_is_the_contracts_formula() -> None:
    expected = 0.5 + (0.7 - 0.5) * ((0.6 - 0.5) / (0.9 - 0.5))
    assert KNOTS.apply(np.array([0.7])).tolist() == [expected]


def test_a_single_knot_is_a_constant() -> None:
    assert Calibration((0.4,), (0.45,)).apply(np.array([0.0, 0.4, 0.9])).tolist() == [0.45] * 3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_it_never_falls(values: list[float]) -> None:
    raw = np.array(sorted(values))
    assert (np.diff(KNOTS.apply(raw)) >= -1e-15).all()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((0.1,), ()),
        ((0.5, 0.5), (0.1, 0.2)),
        ((0.5, 0.4), (0.1, 0.2)),
        ((0.1, 0.2), (0.3, 0.2)),
        ((0.1, 1.2), (0.1, 0.2)),
        ((0.1, 0.2), (-0.1, 0.2)),
        ((0.1, float("nan")), (0.1, 0.2)),
    ],
)
def test_tables_that_are_not_monotone_are_refused(x: tuple[float, ...], y: tuple[float, ...]) -> None:
    with pytest.raises(ModelError, match="calibration"):
        Calibration(x, y)
