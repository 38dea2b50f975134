"""The kernels of windows give what the engines give, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.convert import direction_bits
from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics
from sep_stream.metrics.reference import Metrics, clamp, damp, decay, qfh
from sep_stream.metrics.tables import tables
from sep_stream.scoring.library import quantise
from tests.kernels.launches import (
    Launch,
    Scales,
    laid_out,
    neighbouring_metrics,
    quantised_metrics,
    window_metrics,
)
from tests.metrics.test_golden_windows import SEEDED, candle_closes, described, params_of, seeded_closes
from tests.metrics.test_metric_engines import assert_same_bits, series, window_params


def test_windows_of_a_seeded_series_match(launch: Launch) -> None:
    golden = json.loads(SEEDED.read_text())
    closes = seeded_closes(golden["bars"])
    for case in golden["cases"]:
        bits, anchors = direction_bits(closes, case["deadband"]), np.array(case["anchors"])
        batch = window_metrics(launch, bits, closes, anchors, params_of(case["params"]))
        assert [described(batch, row) for row in range(len(batch))] == case["windows"]


def test_all_windows_of_real_candles_match(launch: Launch, shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    closes, params = candle_closes(shared_data / golden["source"]), params_of(golden["params"])
    first = params.history - 1
    anchors = np.arange(first, len(closes) - params.forward)
    for deadband in sorted({expected["deadband"] for expected in golden["windows"]}):
        bits = direction_bits(closes, deadband)
        batch = window_metrics(launch, bits, closes, anchors, params)
        assert_same_bits(batch, compute_metrics(bits, closes, anchors, params, "cpu"))
        for expected in golden["windows"]:
            if expected["deadband"] == deadband:
                found = described(batch, expected["anchor_index"] - first)
                assert found["damped"] == expected["damped"]
                assert found["potential"] == expected["potential"]


@given(window_params(), st.integers(0, 2**32 - 1), st.floats(0, 1), st.data())
def test_equal_the_reference_at_any_anchors(
    launch: Launch, params: WindowParams, seed: int, stay: float, data: st.DataObject
) -> None:
    bits, points = series(seed, params.window_bars + 60, stay)
    positions = st.integers(params.history - 1, params.history - 1 + 60)
    anchors = np.array(data.draw(st.lists(positions, max_size=20)), np.int64)
    grid = data.draw(st.sampled_from([(1, 1), (2, 3), (1, 128)]))
    batch = window_metrics(launch, bits, points, anchors, params, grid)
    assert_same_bits(batch, compute_metrics(bits, points, anchors, params, "reference"))


@given(window_params(), st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_neighbours_need_no_list_of_anchors(launch: Launch, params: WindowParams, seed: int, count: int) -> None:
    bits, points = series(seed, params.window_bars + 200)
    first = params.history - 1 + seed % 2
    batch = neighbouring_metrics(launch, bits, points, first, count, params)
    assert_same_bits(batch, compute_metrics(bits, points, first + np.arange(count), params, "cpu"))


@pytest.mark.parametrize(
    "params",
    [
        WindowParams(12, 1, 1, hold=1),
        WindowParams(12, 1, 1, eps=10.0, hold=1),
        WindowParams(12, 64, 64, hold=64),
        WindowParams(12, 64, 1, eps=10.0, hold=64),
        WindowParams(63, 65, 5),
        WindowParams(64, 63, 21),
        WindowParams(65, 128, 32),
        WindowParams(66, 129, 43),
        WindowParams(128, 127, 127),
        WindowParams(700, 900, 300, eps=1e-5, hold=9),
    ],
    ids=str,
)
def test_lengths_at_their_bounds_and_around_words(launch: Launch, params: WindowParams) -> None:
    bits, points = series(17, params.window_bars + 130, 0.6)
    anchors = params.history - 1 + np.arange(131)
    batch = window_metrics(launch, bits, points, anchors, params)
    assert_same_bits(batch, compute_metrics(bits, points, anchors, params, "cpu"))


@pytest.mark.parametrize("samples", [1, 16_384])
def test_the_longest_windows(launch: Launch, samples: int) -> None:
    params = WindowParams(16_384, 16_384, samples)
    bits, points = series(18, params.window_bars + 1)
    anchors = np.array([16_384, 16_383])
    batch = window_metrics(launch, bits, points, anchors, params)
    assert_same_bits(batch, compute_metrics(bits, points, anchors, params, "cpu"))


@pytest.mark.parametrize("of", range(3), ids=["entropy", "coherence", "stability"])
def test_a_step_of_exactly_eps_is_not_at_rest(launch: Launch, of: int) -> None:
    """For each of the three metrics, where it moves most: eps is what it moves, then the next number above."""
    whole = WindowParams(20, 30, 10)
    bits, points = series(19, 120, 0.6)
    anchors = np.arange(19, 90)
    found = 0
    for anchor in anchors:
        steps = np.array(damped_steps(bits[anchor - 19 : anchor + 31].tolist(), whole))
        moves = np.abs(np.diff(steps, axis=0))
        most = moves.max(axis=1)
        s = int(most.argmin())
        if moves[s].argmax() == of:
            found += 1
            for eps in (most[s], np.nextafter(most[s], 1)):
                params = replace(whole, eps=float(eps), hold=1)
                batch = window_metrics(launch, bits, points, np.array([anchor]), params)
                assert_same_bits(batch, compute_metrics(bits, points, [anchor], params, "reference"))
                assert batch.converged.tolist() == [bool(eps > most[s])]
    assert found


def damped_steps(bits: list[int], params: WindowParams) -> list[Metrics]:
    """D at each step of a window."""
    table = tables(params.events)
    measured = [qfh(bits[: params.history + s], table) for s in range(params.forward + 1)]
    h, c, _ = measured[0]
    return damp(measured, decay(clamp(0.3 * h + 0.2 * (1.0 - c), 0.01, 1.0), table), params).steps


def test_several_series_in_one_launch_are_as_each_alone(launch: Launch) -> None:
    params = WindowParams(20, 12, 4)
    each = [series(seed, bars) for seed, bars in ((1, 75), (2, 33), (3, 32), (4, 161))]
    anchors = [params.history - 1 + np.arange(len(bits) - params.window_bars + 1) for bits, _ in each]
    starts = np.cumsum([0, *(len(bits) for bits, _ in each)])
    mixed = np.concatenate([start + at for start, at in zip(starts, anchors, strict=False)])
    order = np.random.default_rng(5).permutation(len(mixed))
    bits, points = (np.concatenate(columns) for columns in zip(*each, strict=True))
    batch = window_metrics(launch, bits, points, mixed[order], params)
    alone = [compute_metrics(*one, at, params, "reference") for one, at in zip(each, anchors, strict=True)]
    assert_same_bits(batch, MetricsBatch.concatenate(alone).take(order))


def test_prices_at_both_ends_of_32_bits_do_not_overflow(launch: Launch) -> None:
    params = WindowParams(history=12, forward=4, samples=2)
    bits, _ = series(7, 40)
    points = np.where(np.arange(40) % 2 == 0, 2**31 - 1, -(2**31)).astype(np.int32)
    anchors = 11 + np.arange(20)
    batch = window_metrics(launch, bits, points, anchors, params)
    assert_same_bits(batch, compute_metrics(bits, points, anchors, params, "reference"))


@pytest.mark.parametrize("bit", [0, 1])
def test_a_series_that_never_moves(launch: Launch, bit: int) -> None:
    bits, points = np.full(200, bit, np.uint8), np.full(200, 100_000, np.int32)
    batch = window_metrics(launch, bits, points, np.array([63, 135]), WindowParams())
    assert_same_bits(batch, compute_metrics(bits, points, [63, 135], WindowParams(), "reference"))
    assert batch.converged.all()


@given(window_params(), st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_paths_quantised_on_the_way_are_those_that_scoring_makes(
    launch: Launch, params: WindowParams, seed: int, count: int, one_library: bool
) -> None:
    """Each window by the scales of its library, of which some dimensions don't vary, or by none."""
    bits, points = series(seed, params.window_bars + 60)
    rng = np.random.default_rng(seed)
    anchors = rng.integers(params.history - 1, params.history + 60, count)
    mu = rng.uniform(0, 1, (3, params.path_values))
    sigma = rng.choice([0.0, 0.99e-9, 1e-9, 0.002, 0.1], mu.shape)
    library = None if one_library else rng.integers(-1, 3, count).astype(np.int32)
    batch, rows = quantised_metrics(launch, bits, points, anchors, params, Scales(library, mu, sigma))
    assert_same_bits(batch, compute_metrics(bits, points, anchors, params, "cpu"))

    by = np.zeros(count, np.int32) if library is None else library
    expected = np.zeros(batch.path.shape, np.int8)
    for one in range(3):
        expected[by == one] = quantise(batch.path[by == one], mu[one], sigma[one])
    for found, wanted in zip((rows.words, rows.norm), vars(laid_out(expected, 1)).values(), strict=True):
        assert np.array_equal(found, wanted)


def test_paths_need_not_be_kept_to_be_quantised(launch: Launch) -> None:
    params = WindowParams()
    bits, points = series(21, 300)
    anchors = np.arange(63, 200)
    scales = Scales(None, np.full((1, 48), 0.5), np.full((1, 48), 0.1))
    whole, rows = quantised_metrics(launch, bits, points, anchors, params, scales)
    batch, same = quantised_metrics(launch, bits, points, anchors, params, scales, keep_path=False)
    assert np.isnan(batch.path).all()
    assert_same_bits(replace(batch, path=whole.path), whole)
    assert np.array_equal(rows.words, same.words)
    assert np.array_equal(rows.norm, same.norm)
