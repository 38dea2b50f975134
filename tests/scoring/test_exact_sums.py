from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sep_stream.scoring import exact_sums
from sep_stream.scoring.exact_sums import column_square_sums, column_sums
from sep_stream.scoring.library import moments

FINITE = {"allow_nan": False, "allow_infinity": False}
BELOW_OVERFLOW = 1e300
NASTY = [0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 1.0, -1.0, 2.0**52, 2.0**53, 2.0**53 + 2, 1e16, -1e16, 1e-16, 1e300]
"""Values whose float64 sums round in each of the possible ways: subnormal, cancelled, tied, far apart."""


def columns(dtype: type, elements: st.SearchStrategy[float]) -> st.SearchStrategy[npt.NDArray[np.generic]]:
    shapes = st.tuples(st.integers(0, 40), st.integers(1, 3))
    return npst.arrays(dtype, shapes, elements=elements)


def fsums(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.array([math.fsum(column) for column in values.T.astype(np.float64).tolist()], np.float64)


def fsum_moments(paths: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The contract's formulas, one column after the other."""
    mu, sigma = [], []
    for column in paths.T.astype(np.float64).tolist():
        mu.append(math.fsum(column) / len(column))
        deviations = [x - mu[-1] for x in column]
        sigma.append(math.sqrt(math.fsum(d * d for d in deviations) / len(column)))
    return np.array(mu), np.array(sigma)


@given(columns(np.float64, st.floats(-BELOW_OVERFLOW, BELOW_OVERFLOW) | st.sampled_from(NASTY)))
def test_sums_of_doubles_are_those_of_fsum(values: npt.NDArray[np.float64]) -> None:
    assert column_sums(values).tobytes() == fsums(values).tobytes()


@given(columns(np.float32, st.floats(width=32, **FINITE)))
def test_sums_of_singles_are_those_of_fsum(values: npt.NDArray[np.float32]) -> None:
    assert column_sums(values).tobytes() == fsums(values).tobytes()


@given(st.lists(st.sampled_from(NASTY), max_size=30), st.lists(st.integers(-1074, 970), max_size=30))
def test_values_that_cancel_leave_the_rest_exactly(nasty: list[float], exponents: list[int]) -> None:
    powers = [math.ldexp(1.0, e) for e in exponents]
    values = np.array([*nasty, *powers, *(-p for p in powers), *(p / 3 for p in powers)])[:, None]
    assert column_sums(values).tobytes() == fsums(values).tobytes()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0**53, 1.0], 2.0**53),
        ([2.0**53, 1.0, 5e-324], 2.0**53 + 2),
        ([2.0**53 + 2, 1.0], 2.0**53 + 4),
        ([2.0**53 + 2, 1.0, -5e-324], 2.0**53 + 2),
        ([-(2.0**53), -1.0], -(2.0**53)),
        ([5e-324, 5e-324, -1e-323], 0.0),
        ([2.0**-1022, -5e-324], 2.0**-1022 - 5e-324),
        ([-0.0, -0.0], 0.0),
        ([], 0.0),
    ],
)
def test_a_tie_goes_to_the_even_one_and_the_least_bit_breaks_it(values: list[float], expected: float) -> None:
    assert column_sums(np.array(values).reshape(-1, 1)).tobytes() == np.array([expected]).tobytes()


@given(columns(np.float32, st.floats(width=32, **FINITE)).filter(len))
def test_moments_are_those_of_fsum(paths: npt.NDArray[np.float32]) -> None:
    for ours, theirs in zip(moments(paths), fsum_moments(paths), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("rows", [1, exact_sums._ROWS_PER_CARRY, 3 * exact_sums._ROWS_PER_CARRY + 1])
@pytest.mark.parametrize("power", [-149, 0, 127])
def test_digits_do_not_overflow_between_carries(rows: int, power: int) -> None:
    """The largest mantissa at each shift, all of one sign: what fills a digit fastest."""
    value = np.float32(2.0 - 2.0**-23) * np.float32(2.0**power)
    paths = np.full((rows, 32), value) / np.float32(2.0) ** np.arange(32, dtype=np.float32)
    paths = paths.astype(np.float32) * np.array([1, -1] * 16, np.float32)
    assert column_sums(paths).tobytes() == fsums(paths).tobytes()
    squares = column_square_sums(paths, np.zeros(32))
    assert squares.tobytes() == fsums(paths.astype(np.float64) ** 2).tobytes()


def test_doubles_of_full_mantissas_do_not_overflow_digits_either() -> None:
    values = np.full((3000, 64), 2.0 - 2.0**-52) * 2.0 ** np.arange(64)
    assert column_sums(values).tobytes() == fsums(values).tobytes()


def test_moments_of_many_rows_in_any_layout_are_those_of_fsum() -> None:
    rng = np.random.default_rng(7)
    paths = rng.random((5000, 12)).astype(np.float32)
    expected = [part.tobytes() for part in fsum_moments(paths)]
    for laid_out in (paths, np.asfortranarray(paths), np.repeat(paths, 2, axis=0)[::2]):
        assert [part.tobytes() for part in moments(laid_out)] == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_column_with_a_value_that_is_no_number_has_no_sum(bad: float) -> None:
    values = np.array([[1.0, 1.0], [bad, 2.0]])
    assert np.isnan(column_sums(values)).tolist() == [True, False]
    assert np.isnan(column_square_sums(values, np.zeros(2))).tolist() == [True, False]


def test_a_sum_that_no_float_holds_is_an_overflow() -> None:
    with pytest.raises(OverflowError):
        column_sums(np.full((2, 1), np.finfo(np.float64).max))
