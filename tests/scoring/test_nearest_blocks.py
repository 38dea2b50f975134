"""The search against a full sort in plain Python."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream import threads
from sep_stream.scoring import nearest
from sep_stream.scoring.nearest import TILE_ROWS, Tiles, nearest_blocks

Rows = npt.NDArray[np.int8]


def cosine(a: list[int], b: list[int]) -> float:
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(float(norms)) if norms else 0.0


def full_sort(rows: Rows, query: list[int], eligible: int, block_rows: int, k: int) -> list[tuple[float, int]]:
    """(cosine, row) of the best blocks: greatest cosine first, then the later row."""
    scored = [(cosine(query, row), r) for r, row in enumerate(rows[:eligible].tolist())]
    best = [max(scored[start : start + block_rows]) for start in range(0, len(scored), block_rows)]
    return sorted(best, reverse=True)[:k]


def assert_as_sorted(rows: Rows, queries: Rows, eligible: list[int], block_rows: int, k: int) -> None:
    """Both ways: as small libraries are searched, and as large ones are."""
    tiles, seen = Tiles.of(rows), np.array(eligible, np.int64)
    for rows_at_once_max in (nearest._ROWS_AT_ONCE_MAX, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nearest, "_ROWS_AT_ONCE_MAX", rows_at_once_max)
            assert_found(nearest_blocks(tiles, queries, seen, block_rows, k), rows, queries, eligible, block_rows, k)


def assert_found(
    found: nearest.Nearest, rows: Rows, queries: Rows, eligible: list[int], block_rows: int, k: int
) -> None:
    for j, query in enumerate(queries.tolist()):
        expected = full_sort(rows, query, eligible[j], block_rows, k)
        assert found.count[j] == len(expected)
        assert found.row[j].tolist() == [r for _, r in expected] + [-1] * (k - len(expected))
        assert found.cosine[j].tolist() == [c for c, _ in expected] + [0.0] * (k - len(expected))


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_equals_a_full_sort_where_most_rows_tie(data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = data.draw(st.sampled_from([3, 9, 48]))
    palette = rng.integers(-2, 3, (data.draw(st.integers(1, 6)), width)) * rng.integers(0, 60, (1, 1))
    palette[0] = 0
    n = data.draw(st.one_of(st.integers(0, 40), st.integers(200, 400)))
    rows = palette[rng.integers(0, len(palette), n)].astype(np.int8)
    queries = np.vstack([palette, rng.integers(-127, 128, (1, width))]).astype(np.int8)
    eligible = data.draw(st.lists(st.integers(0, n), min_size=len(queries), max_size=len(queries)))
    assert_as_sorted(rows, queries, eligible, data.draw(st.integers(1, 70)), data.draw(st.sampled_from([1, 5, 32])))


@pytest.mark.parametrize("block_rows", [1, 48, 64, 100])
def test_equals_a_full_sort_across_tiles(block_rows: int) -> None:
    rng = np.random.default_rng(3)
    n = 3 * TILE_ROWS + 17
    rows = np.clip(np.rint(rng.normal(size=(n, 48)) * 32), -127, 127).astype(np.int8)
    rows[5] = rows[TILE_ROWS + 3] = rows[-1]
    rows[100] = 0
    queries = np.vstack([rows[[5, 700]], -rows[[5]], np.zeros((1, 48))]).astype(np.int8)
    assert_as_sorted(rows, queries, [n, TILE_ROWS, n - 1, n], block_rows, 32)


@pytest.mark.parametrize("sample_rows", [1, 40, 10_000])
def test_equals_a_full_sort_whatever_the_bounds_are_made_of(monkeypatch: pytest.MonkeyPatch, sample_rows: int) -> None:
    """Smooth paths, as bounds suit them, and noise, as they don't; the basis knows some rows, or hardly any."""
    monkeypatch.setattr(nearest, "_SAMPLE_ROWS", sample_rows)
    rng = np.random.default_rng(8)
    steps = np.linspace(0, 1, 48)
    smooth = np.outer(rng.normal(size=1200), steps) + np.outer(rng.normal(size=1200), np.cos(4 * steps))
    smooth[::5] = rng.normal(size=(240, 48))
    rows = np.clip(np.rint(smooth * 32), -127, 127).astype(np.int8)
    rows[7::50] = 0
    queries = np.vstack([rows[::173], np.zeros((1, 48), np.int8)])
    assert_as_sorted(rows, queries, [1200 - 31 * j for j in range(len(queries))], 20, 32)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 8),
    queries_n=st.integers(0, 40),
    part_min=st.integers(1, 5_000),
    rows_at_once_max=st.sampled_from([-1, 300, 600]),
)
def test_any_number_of_threads_finds_the_same(
    seed: int, count: int, queries_n: int, part_min: int, rows_at_once_max: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 2 * TILE_ROWS + 30
    rows = np.clip(np.rint(rng.normal(size=(n, 9)) * 3), -127, 127).astype(np.int8)
    queries, eligible = rows[rng.integers(0, n, queries_n)], np.sort(rng.integers(0, n + 1, queries_n))
    tiles = Tiles.of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_ROWS_AT_ONCE_MAX", rows_at_once_max)
        patch.setattr(nearest, "_PART_ROW_QUERIES_MIN", part_min)
        patch.setattr(threads, "given", lambda: 1)
        expected = nearest_blocks(tiles, queries, eligible, 7, 32)
        patch.setattr(threads, "given", lambda: count)
        found = nearest_blocks(tiles, queries, eligible, 7, 32)
    for name in ("row", "cosine", "count"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 48))
def test_no_cosine_is_above_its_bound(seed: int, n: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-127, 128, (n, width)).astype(np.int8) // rng.integers(1, 128, (n, 1), np.int8)
    tiles = Tiles.of(rows)
    bounds = tiles.bounds.transpose(0, 2, 1).reshape(-1, tiles.bounds.shape[1])[:n].astype(np.float64)
    exact = np.array([[cosine(a, b) for b in rows.tolist()] for a in rows.tolist()])
    assert (exact <= bounds @ bounds.T + nearest._MARGIN / 4).all()


def test_the_basis_is_orthonormal_and_holds_of_smooth_rows_what_the_best_one_holds() -> None:
    rng = np.random.default_rng(9)
    paths = np.cumsum(rng.normal(size=(3000, 48)), axis=1)
    rows = np.clip(np.rint(paths / paths.std() * 32), -127, 127).astype(np.int8)
    basis = Tiles.of(rows).basis.astype(np.float64)
    unit = rows / np.sqrt(np.maximum(1, nearest.squared_norms(rows)))[:, None]
    best = np.linalg.eigh(unit.T @ unit)[1][:, -nearest.BASIS_MAX :]
    assert np.abs(basis.T @ basis - np.eye(nearest.BASIS_MAX)).max() < 1e-6
    held, most = (float(((unit @ directions) ** 2).sum() / len(unit)) for directions in (basis, best))
    assert most - 0.001 < held < most + 1e-6


def test_the_largest_values_do_not_overflow() -> None:
    rows = np.full((200, 48), 127, np.int8)
    rows[::2] = -127
    assert_as_sorted(rows, np.full((1, 48), -127, np.int8), [200], 3, 32)


def test_rows_that_differ_by_less_than_the_margin_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    base = rng.integers(60, 128, 48)
    rows = np.repeat(base[None, :], 4 * TILE_ROWS, axis=0)
    rows[np.arange(len(rows)), rng.integers(0, 48, len(rows))] -= rng.integers(0, 2, len(rows))
    assert_as_sorted(rows.astype(np.int8), base[None, :].astype(np.int8), [len(rows)], 64, 32)


def test_each_query_has_its_own_prefix() -> None:
    rows = np.ones((10, 3), np.int8)
    found = nearest_blocks(Tiles.of(rows), np.ones((3, 3), np.int8), np.array([0, 4, 10]), 4, 2)
    assert found.row.tolist() == [[-1, -1], [3, -1], [9, 7]]
    assert found.count.tolist() == [0, 1, 2]


def test_a_product_of_minus_zero_ranks_with_zero() -> None:
    rows = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], np.int8)
    found = nearest_blocks(Tiles.of(rows), np.array([[0, -1, 0]], np.int8), np.array([3]), 1, 3)
    assert found.row.tolist() == [[2, 1, 0]]
    assert np.signbit(found.cosine).any() == np.False_
