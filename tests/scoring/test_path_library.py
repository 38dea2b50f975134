from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ModelError
from sep_stream.scoring import PathLibrary
from sep_stream.scoring.library import moments, quantise


def library_of(n: int, width: int = 6, seed: int = 0) -> PathLibrary:
    rng = np.random.default_rng(seed)
    anchor = 60 * np.arange(n, dtype=np.int64)
    return PathLibrary.build(
        "EUR/USD",
        "M1",
        rng.random((n, width)).astype(np.float32),
        anchor,
        anchor + 600,
        anchor + 1200,
        rng.integers(-50, 51, n).astype(np.int32),
    )


def test_moments_are_those_of_exact_sums() -> None:
    paths = np.array([[1e8, 0.1], [1.0, 0.2], [-1e8, 0.4]], np.float32)
    mu, sigma = moments(paths)
    for d in range(2):
        x = [float(v) for v in paths[:, d]]
        mean = math.fsum(x) / 3
        assert mu[d] == mean
        assert sigma[d] == math.sqrt(math.fsum((v - mean) * (v - mean) for v in x) / 3)


@given(st.permutations(range(12)))
def test_moments_do_not_depend_on_row_order(order: list[int]) -> None:
    paths = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32) * np.float32(1e6)
    for a, b in zip(moments(paths), moments(paths[order]), strict=True):
        assert a.tobytes() == b.tobytes()


def test_quantising_rounds_ties_to_even_and_clips() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0, 3.0]], np.float32)
    q = quantise(x, np.zeros(8), np.array([32.0] * 7 + [1e-10]))
    assert q.tolist() == [[0, 2, 2, 0, -2, 127, -127, 0]]


def test_quantising_is_the_formula_of_the_contract() -> None:
    library = library_of(50)
    q = quantise(library.paths, library.mu, library.sigma)
    for r, path in enumerate(library.paths.tolist()):
        for d, value in enumerate(path):
            expected = round((value - float(library.mu[d])) / float(library.sigma[d]) * 32)
            assert q[r, d] == max(-127, min(127, expected))


def test_rows_hash_is_of_each_row_little_endian() -> None:
    library = library_of(3)
    digest = hashlib.sha256()
    for r in range(3):
        digest.update(struct.pack("<6f", *library.paths[r].tolist()))
        digest.update(struct.pack("<3q", library.anchor_time_s[r], library.available_at_s[r], library.outcome_at_s[r]))
        digest.update(struct.pack("<i", library.outcome[r]))
    assert library.rows_sha256 == digest.hexdigest()


def test_a_library_without_rows_is_legal() -> None:
    library = PathLibrary.empty("EUR/USD", "M5", 48)
    assert len(library) == 0
    assert library.mu.tolist() == library.sigma.tolist() == [0.0] * 48
    assert library.rows_sha256 == hashlib.sha256().hexdigest()


def column(values: list[float], dtype: type) -> npt.NDArray[np.generic]:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("outcome", column([1.0, 2.0, 3.0], np.float64), "outcome: expected .*int32"),
        ("outcome", column([1, 2], np.int32), "outcome: expected"),
        ("anchor_time_s", column([0, 60, 60], np.int64), "anchor_time_s: expected to rise"),
        ("outcome_at_s", column([1200, 1300, 1250], np.int64), "outcome_at_s: expected to rise"),
        ("available_at_s", column([600, 660, 5000], np.int64), "anchor_time_s < available_at_s"),
        ("mu", column([0, 0, 0, 0, 0, math.nan], np.float64), "mu: NaN"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(
    name: str, value: npt.NDArray[np.generic], message: str
) -> None:
    with pytest.raises(ModelError, match=f"library of EUR/USD M1.*{message}"):
        replace(library_of(3), **{name: value})
