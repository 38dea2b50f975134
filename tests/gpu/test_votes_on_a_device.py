"""Nearest paths and votes on the host build: what the CPU gives, however the library and the queries are cut."""

from __future__ import annotations

import gc
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import DependencyError
from sep_stream.gpu import GpuEngine, search
from sep_stream.scoring import PathLibrary, ScoreBatch, score
from sep_stream.scoring.score import Votes, cpu_votes
from tests.gpu.host_device import HostDevice
from tests.scoring.test_score_paths import BAR_S, library_of

Float32 = npt.NDArray[np.float32]


def assert_same(a: Votes | ScoreBatch, b: Votes | ScoreBatch) -> None:
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.dtype == y.dtype, field.name
        assert x.tobytes() == y.tobytes(), field.name


def made(seed: int, n: int, queries: int, width: int = 9) -> tuple[PathLibrary, Float32]:
    """Rows and queries of a few forms, zeros among them: nearly all cosines tie."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(-6, 7, (6, width))
    palette[0] = 0
    library = library_of(palette[rng.integers(0, 6, n)], rng.integers(-2, 3, n))
    return library, palette[rng.integers(0, 6, queries)].astype(np.float32)


def different(seed: int, n: int, queries: int, width: int = 48) -> tuple[PathLibrary, Float32]:
    """Rows and queries that all differ."""
    rng = np.random.default_rng(seed)
    library = library_of(rng.integers(-100, 100, (n, width)), rng.integers(-9, 10, n))
    return library, rng.integers(-100, 100, (queries, width)).astype(np.float32)


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 300), st.integers(1, 12), st.sampled_from([3, 9, 48]), st.integers(0, 9),
    st.sampled_from([1, 3, 32, 100]), st.integers(1, 40), st.sampled_from([21, 24]),
)  # fmt: skip
def test_any_cut_of_library_and_queries_gives_what_the_cpu_gives(
    seed: int, n: int, block_rows: int, width: int, queries: int, matches: int, part_rows: int, capacity: int
) -> None:
    library, paths = made(seed, n, queries, width)
    eligible = np.random.default_rng(seed).integers(0, n + 1, queries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PART_ROWS_MAX", part_rows)
        patch.setattr(search, "QUERIES_AT_ONCE_MAX", 4)
        engine = GpuEngine(HostDevice(1 << capacity, seed))
        for _ in range(2):
            found = engine.votes(library, block_rows, paths, eligible, matches)
            assert_same(found, cpu_votes(library, block_rows, paths, eligible, matches))


def test_scores_are_those_of_the_cpu_at_every_edge_of_eligibility() -> None:
    library, paths = different(1, 900, 60)
    starts = np.concatenate([library.outcome_at_s[:30], library.outcome_at_s[-30:] - 1])
    for block_rows, minimum in ((1, 16), (64, 2)):
        one, other = (
            score(library, block_rows, paths, starts, min_blocks=minimum, engine=engine)
            for engine in (GpuEngine(HostDevice()), "cpu")
        )
        assert_same(one, other)
        assert set(one.reason.tolist()) == {0, 1}


def test_a_library_stays_on_the_device_as_long_as_somebody_holds_it() -> None:
    library, paths = different(2, 500, 5)
    device = HostDevice()
    engine = GpuEngine(device)
    eligible = np.full(5, 500)
    for uploads in (2, 3):  # the library and the queries, then the queries alone
        engine.votes(library, 64, paths, eligible, 32)
        assert device.launches.count("quantise") == uploads
    with_library = device.used
    del library
    gc.collect()
    other, _ = different(3, 10, 5)
    engine.votes(other, 64, paths, np.full(5, 10), 32)
    assert device.used < with_library


def test_the_library_used_longest_ago_goes_where_room_is_wanted() -> None:
    libraries = [different(seed, 400, 1)[0] for seed in range(3)]
    paths, eligible = different(9, 1, 1)[1], np.array([400])
    device = HostDevice(capacity=180_000)  # two of them fit beside the paths of one
    engine = GpuEngine(device)
    for at, uploads in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        found = engine.votes(libraries[at], 8, paths, eligible, 32)
        assert_same(found, cpu_votes(libraries[at], 8, paths, eligible, 32))
        searches = device.launches.count("votes")
        assert device.launches.count("quantise") - searches == uploads, f"library {at}"


def test_one_that_does_not_fit_is_searched_part_by_part() -> None:
    library, paths = different(4, 4_000, 7)
    device = HostDevice(capacity=100_000)
    eligible = np.array([4_000, 3_999, 2_000, 65, 64, 1, 0])
    found = GpuEngine(device).votes(library, 64, paths, eligible, 32)
    assert_same(found, cpu_votes(library, 64, paths, eligible, 32))
    assert device.launches.count("best_rows") > 4
    assert device.used_max <= 100_000


def test_want_of_memory_in_the_middle_of_a_search_ends_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERIES_AT_ONCE_MAX", 8)
    library, paths = different(5, 600, 40)
    device = HostDevice(no_room_at=(7, 12))
    eligible = np.full(40, 600)
    found = GpuEngine(device).votes(library, 8, paths, eligible, 32)
    assert_same(found, cpu_votes(library, 8, paths, eligible, 32))


def test_a_device_without_room_is_told_with_the_remedy() -> None:
    library, paths = different(6, 600, 1)
    with pytest.raises(DependencyError, match=r"no room for a block of the library of EUR/USD M1 and a query"):
        GpuEngine(HostDevice(capacity=1_000)).votes(library, 8, paths, np.array([600]), 32)


def test_what_no_path_may_see_asks_nothing_of_the_device() -> None:
    library, paths = different(7, 40, 2)
    device = HostDevice(capacity=0)
    early = np.full(2, library.outcome_at_s[0] - BAR_S)
    assert_same(*(score(library, 4, paths, early, engine=engine) for engine in (GpuEngine(device), "cpu")))
    assert not device.launches
