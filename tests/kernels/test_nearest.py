"""The kernels of the search give what a full sort gives, to the bit and to the tie."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.metrics import WindowParams
from sep_stream.scoring.library import moments, quantise
from sep_stream.scoring.nearest import Tiles, nearest_blocks
from tests.kernels.launches import (
    Launch,
    Rows,
    Scales,
    laid_out,
    nearest,
    quantised_metrics,
    quantised_rows,
    window_metrics,
)
from tests.metrics.test_metric_engines import series
from tests.scoring.test_nearest_blocks import full_sort

Int8 = npt.NDArray[np.int8]


def assert_same_rows(found: Rows, expected: Rows) -> None:
    assert np.array_equal(found.words, expected.words)
    assert np.array_equal(found.norm, expected.norm)


def assert_as_sorted(
    launch: Launch, rows: Int8, queries: Int8, eligible: list[int], block_rows: int, k: int, group: int
) -> None:
    seen = np.array(eligible, np.int64)
    row, cosine = nearest(launch, laid_out(rows, block_rows), len(rows), laid_out(queries, 1), seen, k, group)
    for j, query in enumerate(queries.tolist()):
        expected = full_sort(rows, query, max(0, eligible[j]), block_rows, k)
        missing = k - len(expected)
        assert row[j].tolist() == [r for _, r in expected] + [-1] * missing
        assert cosine[j].tobytes() == np.array([c for c, _ in expected] + [0.0] * missing).tobytes()


def assert_as_engine(launch: Launch, rows: Int8, queries: Int8, eligible: npt.NDArray[np.int64], k: int) -> None:
    expected = nearest_blocks(Tiles.of(rows), queries, eligible, 64, k)
    row, cosine = nearest(launch, laid_out(rows, 64), len(rows), laid_out(queries, 1), eligible, k, 2 * k)
    assert np.array_equal(row, expected.row)
    assert cosine.tobytes() == expected.cosine.tobytes()


@given(st.data(), st.integers(0, 2**32 - 1))
def test_equals_a_full_sort_where_most_rows_tie(launch: Launch, data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = data.draw(st.sampled_from([3, 9, 45, 48, 51]))
    palette = rng.integers(-2, 3, (data.draw(st.integers(1, 7)), width)) * rng.integers(0, 60, (1, 1))
    palette[0] = 0
    n = data.draw(st.one_of(st.integers(0, 40), st.integers(100, 200)))
    rows = palette[rng.integers(0, len(palette), n)].astype(np.int8)
    queries = np.vstack([palette, rng.integers(-127, 128, (1, width))]).astype(np.int8)
    eligible = data.draw(st.lists(st.integers(-3, n + 3), min_size=len(queries), max_size=len(queries)))
    k, group = data.draw(st.sampled_from([(1, 2), (1, 1000), (5, 11), (32, 65), (32, 128), (40, 40)]))
    block_rows = data.draw(st.integers(1, 70))
    if group == k and -(-n // block_rows) > group:
        group = n + 1
    assert_as_sorted(launch, rows, queries, eligible, block_rows, k, group)


@pytest.mark.parametrize("width", [48, 30])
def test_equals_the_engine_on_smooth_paths(launch: Launch, width: int) -> None:
    rng = np.random.default_rng(8)
    steps = np.linspace(0, 1, width)
    smooth = np.outer(rng.normal(size=9000), steps) + np.outer(rng.normal(size=9000), np.cos(4 * steps))
    smooth[::5] = rng.normal(size=(1800, width))
    rows = np.clip(np.rint(smooth * 32), -127, 127).astype(np.int8)
    rows[7::50] = 0
    queries = np.vstack([rows[::1001], -rows[[3]], np.zeros((1, width), np.int8)])
    eligible = 9000 - 731 * np.arange(len(queries))
    assert_as_engine(launch, rows, queries, eligible, 32)


def test_rows_that_differ_by_less_than_the_filters_margin_are_told_apart(launch: Launch) -> None:
    rng = np.random.default_rng(4)
    base = rng.integers(60, 128, 48)
    rows = np.repeat(base[None, :], 3000, axis=0)
    rows[np.arange(len(rows)), rng.integers(0, 48, len(rows))] -= rng.integers(0, 2, len(rows))
    for sign in (1, -1):
        queries = (sign * base[None, :]).astype(np.int8)
        assert_as_engine(launch, rows.astype(np.int8), queries, np.array([3000]), 32)


@pytest.mark.parametrize("width", [48, 3 * 16_384])
def test_the_largest_values_do_not_overflow(launch: Launch, width: int) -> None:
    rows = np.full((20, width), 127, np.int8)
    rows[::2] = -127
    assert_as_sorted(launch, rows, np.full((1, width), -127, np.int8), [20], 3, 5, 16)


def test_a_product_of_minus_zero_ranks_with_zero(launch: Launch) -> None:
    rows = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.int8)
    assert_as_sorted(launch, rows, np.array([[0, -1, 0]], np.int8), [3], 1, 3, 8)


def test_a_block_with_nothing_but_opposites_still_has_its_best(launch: Launch) -> None:
    rows = np.array([[-3, 1, 0], [-1, 0, 0], [-2, 0, 0], [-3, -1, 0]], np.int8)
    assert_as_sorted(launch, rows, np.array([[1, 0, 0]], np.int8), [4], 4, 2, 4)


def test_a_library_without_rows_has_no_matches(launch: Launch) -> None:
    empty = Rows(np.zeros((64, 12, 0), np.int32), np.zeros((64, 0), np.int32))
    queries = laid_out(np.ones((2, 48), np.int8), 1)
    row, cosine = nearest(launch, empty, 0, queries, np.array([0, 5]), 32, 128)
    assert row.tolist() == [[-1] * 32] * 2
    assert cosine.tolist() == [[0.0] * 32] * 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 17), st.integers(1, 20))
def test_a_library_is_quantised_as_scoring_does(
    launch: Launch, seed: int, n: int, samples: int, block_rows: int
) -> None:
    rng = np.random.default_rng(seed)
    paths = rng.normal(size=(n, 3 * samples)).astype(np.float32)
    mu, sigma = moments(paths)
    sigma[rng.random(len(sigma)) < 0.2] = 0.99e-9
    sigma[rng.random(len(sigma)) < 0.2] /= 20
    expected = laid_out(quantise(paths, mu, sigma), block_rows)
    assert_same_rows(quantised_rows(launch, paths, mu, sigma, block_rows), expected)
    by_value = np.ascontiguousarray(paths.T).reshape(n, 3 * samples)
    assert_same_rows(quantised_rows(launch, by_value, mu, sigma, block_rows, strides=(1, n)), expected)


def test_quantising_rounds_ties_to_even_and_clips(launch: Launch) -> None:
    path = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0, 3.0, 127.5]], np.float32)
    sigma = np.array([32.0] * 7 + [1e-10, 32.0])
    expected = np.array([[0, 2, 2, 0, -2, 127, -127, 0, 127]], np.int8)
    assert_same_rows(quantised_rows(launch, path, np.zeros(9), sigma, 1), laid_out(expected, 1))


def test_quantising_rounds_as_the_contract_does_a_bit_from_a_tie(launch: Launch) -> None:
    """Each sigma is a few units in the last place from where the value would lie half way between two integers."""
    rng = np.random.default_rng(9)
    path = rng.uniform(0.2, 1, (1, 6000)).astype(np.float32)
    mu = rng.uniform(-1, 0.1, 6000)
    sigma = (path[0].astype(np.float64) - mu) * 32 / (rng.integers(1, 100, 6000) + 0.5)
    sigma *= 1 + rng.integers(-2, 3, 6000) * 2.0**-52
    expected = quantise(path, mu, sigma)
    assert (expected != np.rint((path - mu) * (32 / sigma))).any(), "another order of operations gives the same"
    assert_same_rows(quantised_rows(launch, path, mu, sigma, 1), laid_out(expected, 1))


def test_from_windows_to_matches_without_leaving_the_device(launch: Launch) -> None:
    """Two instruments with a library each: paths quantised by the windows' kernel, searched where they lie."""
    params = WindowParams(20, 16, 4)
    bits, points = series(31, 900, 0.6)
    known = params.history - 1 + np.arange(700)
    paths = window_metrics(launch, bits, points, known, params).path
    libraries = [paths[:400], paths[300:]]
    scales = [moments(each) for each in libraries]
    mu, sigma = (np.array(column) for column in zip(*scales, strict=True))
    anchors = np.arange(720, 760)
    of = np.array([0, 1, 1, -1] * 10, np.int32)
    batch, queries = quantised_metrics(launch, bits, points, anchors, params, Scales(of, mu, sigma))

    for which, library in enumerate(libraries):
        at = np.flatnonzero(of == which)
        eligible = len(library) - 3 * np.arange(len(at))
        rows = quantised_rows(launch, library, *scales[which], params.forward)
        row, cosine = nearest(launch, rows, len(library), queries, eligible, 8, 20, at)
        expected = nearest_blocks(
            Tiles.of(quantise(library, *scales[which])),
            quantise(batch.path[at], *scales[which]),
            eligible,
            params.forward,
            8,
        )
        assert np.array_equal(row, expected.row)
        assert cosine.tobytes() == expected.cosine.tobytes()
