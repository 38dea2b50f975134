from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream import threads
from sep_stream.errors import ConfigurationError, InputError
from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics, cpu, cpu_lanes


def assert_same_bits(a: MetricsBatch, b: MetricsBatch) -> None:
    for field in fields(MetricsBatch):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.dtype == y.dtype, field.name
        assert x.shape == y.shape, field.name
        assert x.tobytes() == y.tobytes(), field.name


def series(seed: int, bars: int, stay: float = 0.5) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Bits that stay what they were with probability `stay`, and a walk of prices."""
    rng = np.random.default_rng(seed)
    bits = (np.cumsum(rng.random(bars) >= stay) & 1).astype(np.uint8)
    points = (1_000_000 + np.cumsum(rng.integers(-40, 41, bars))).astype(np.int32)
    return bits, points


@st.composite
def window_params(draw: st.DrawFn) -> WindowParams:
    samples = draw(st.integers(1, 12))
    forward = samples * draw(st.integers(1, 6))
    return WindowParams(
        history=draw(st.integers(12, 70)),
        forward=forward,
        samples=samples,
        eps=draw(st.sampled_from([1e-9, 0.002, 0.02, 0.5, 3.0])),
        hold=draw(st.integers(1, forward)),
    )


@settings(deadline=None)
@given(
    window_params(),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.one_of(st.integers(1, 40), st.integers(250, 320)),
    st.integers(1, 40),
)
def test_cpu_equals_reference_on_a_run_of_anchors(
    params: WindowParams, seed: int, stay: float, count: int, run_min: int
) -> None:
    bits, points = series(seed, params.window_bars + count - 1, stay)
    anchors = params.history - 1 + np.arange(count)
    with patch.object(cpu, "RUN_MIN", run_min):
        fast = compute_metrics(bits, points, anchors, params, "cpu")
    assert_same_bits(fast, compute_metrics(bits, points, anchors, params, "reference"))


@settings(deadline=None)
@given(window_params(), st.integers(0, 2**32 - 1), st.data())
def test_cpu_equals_reference_on_any_list_of_anchors(params: WindowParams, seed: int, data: st.DataObject) -> None:
    bits, points = series(seed, params.window_bars + 60)
    positions = st.integers(params.history - 1, params.history - 1 + 60)
    stretches = data.draw(st.lists(st.tuples(positions, st.integers(1, 30)), max_size=5))
    anchors = [min(a + k, params.history - 1 + 60) for a, length in stretches for k in range(length)]
    with patch.object(cpu, "RUN_MIN", 8):
        fast = compute_metrics(bits, points, anchors, params, "cpu")
    assert_same_bits(fast, compute_metrics(bits, points, anchors, params, "reference"))


@settings(deadline=None)
@given(window_params(), st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 80), st.data())
def test_any_number_of_threads_gives_the_same_bits(
    params: WindowParams, seed: int, count: int, part_min: int, data: st.DataObject
) -> None:
    """Batches around the sizes at which they are cut, of stretches that the cuts part anywhere."""
    n = count * part_min + data.draw(st.integers(-2, 2))
    gaps = data.draw(st.lists(st.integers(0, n), max_size=4))
    anchors = params.history - 1 + np.arange(n) + np.searchsorted(np.sort(gaps), np.arange(n), side="right")
    bits, points = series(seed, params.window_bars + n + len(gaps))
    with patch.object(cpu, "RUN_MIN", 8), patch.object(cpu, "PART_WINDOWS_MIN", part_min):
        with patch.object(threads, "given", lambda: 1):
            expected = compute_metrics(bits, points, anchors, params, "cpu")
        with patch.object(threads, "given", lambda: count):
            assert_same_bits(compute_metrics(bits, points, anchors, params, "cpu"), expected)


def test_callers_that_compute_at_once_get_their_own_windows() -> None:
    params = WindowParams(history=17, forward=6, samples=3)
    n = 3 * cpu.PART_WINDOWS_MIN + 5
    anchors = params.history - 1 + np.arange(n)
    markets = [series(seed, params.window_bars + n - 1) for seed in range(6)]

    def compute(market: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]) -> MetricsBatch:
        return compute_metrics(*market, anchors, params, "cpu")

    with patch.object(threads, "given", lambda: 1):
        expected = [compute(market) for market in markets]
    with patch.object(threads, "given", lambda: 3), ThreadPoolExecutor(len(markets)) as callers:
        for found, alone in zip(callers.map(compute, markets), expected, strict=True):
            assert_same_bits(found, alone)


def test_cpu_equals_reference_across_segments_and_blocks() -> None:
    params = WindowParams(history=17, forward=6, samples=3)
    count = cpu_lanes.SEGMENT_WINDOWS + cpu_lanes.LANES + 3
    bits, points = series(5, count + params.window_bars)
    anchors = params.history - 1 + np.arange(count)
    everything = compute_metrics(bits, points, anchors, params, "cpu")
    rows = np.r_[0:40, cpu_lanes.SEGMENT_WINDOWS - 40 : count]
    assert_same_bits(everything.take(rows), compute_metrics(bits, points, anchors[rows], params, "reference"))


def test_windows_too_long_for_a_table_are_the_same() -> None:
    params = WindowParams(history=400, forward=300, samples=100)
    assert cpu_lanes.table_bytes(params) > cpu_lanes.TABLE_BYTES_MAX
    bits, points = series(6, params.window_bars + 120, 0.7)
    anchors = params.history - 1 + np.arange(119)
    fast = compute_metrics(bits, points, anchors, params, "cpu").take([0, 60, 118])
    assert_same_bits(fast, compute_metrics(bits, points, anchors[[0, 60, 118]], params, "reference"))


def test_prices_at_both_ends_of_32_bits_do_not_overflow() -> None:
    params = WindowParams(history=12, forward=4, samples=2)
    bits, _ = series(7, 300)
    points = np.where(np.arange(300) % 2 == 0, 2**31 - 1, -(2**31)).astype(np.int32)
    anchors = 11 + np.arange(200)
    a = compute_metrics(bits, points, anchors, params, "cpu")
    assert_same_bits(a, compute_metrics(bits, points, anchors, params, "reference"))
    assert_same_bits(a.take([3]), compute_metrics(bits, points, anchors[[3]], params, "cpu"))
    assert abs(a.potential).max() > 2**31


@pytest.mark.parametrize("bit", [0, 1])
def test_a_series_that_never_moves_settles_at_once(bit: int) -> None:
    params = WindowParams()
    batch = compute_metrics(np.full(128, bit, np.uint8), np.full(128, 100_000, np.int32), [63], params)
    assert batch.converged.tolist() == [True]
    assert batch.settled_at.tolist() == [params.hold]
    assert batch.rupture_collapse.tolist() == [bit == 1]
    assert batch.potential.tolist() == [0.0]
    assert batch.corrections.tolist() == [0]
    assert batch.counts.tolist() == [[127, 0, 0] if bit == 0 else [0, 0, 127]]


def test_only_its_own_bars_make_a_window() -> None:
    params = WindowParams(history=20, forward=8, samples=4)
    bits, points = series(8, 60)
    whole = compute_metrics(bits, points, [30], params)
    own = compute_metrics(bits[11:39], points[11:39], [19], params)
    assert_same_bits(whole, own)


def test_auto_is_an_engine_and_an_unknown_one_is_refused() -> None:
    bits, points = series(9, 128)
    assert len(compute_metrics(bits, points, [63], WindowParams(), "auto")) == 1
    with pytest.raises(ConfigurationError, match=r"reference, cpu, cuda, auto, got 'abacus'"):
        compute_metrics(bits, points, [63], WindowParams(), "abacus")


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_no_anchors_give_no_rows(engine: str) -> None:
    bits, points = series(10, 128)
    assert len(compute_metrics(bits, points, [], WindowParams(), engine)) == 0
    assert len(compute_metrics([], [], [], WindowParams(), engine)) == 0


@pytest.mark.parametrize("anchor", [62, 64, -1, 2**40])
def test_a_window_that_leaves_the_series_is_refused(anchor: int) -> None:
    bits, points = series(11, 128)
    with pytest.raises(InputError, match="63 to 63 in a series of 128 bars"):
        compute_metrics(bits, points, [63, anchor], WindowParams())


def test_malformed_series_are_refused() -> None:
    bits, points = series(12, 128)
    with pytest.raises(InputError, match="points"):
        compute_metrics(bits, points[:-1], [63], WindowParams())
    with pytest.raises(InputError, match="points"):
        compute_metrics(bits, points / 2, [63], WindowParams())
    with pytest.raises(InputError, match="32-bit"):
        compute_metrics(bits, points.astype(np.int64) + 2**32, [63], WindowParams())
    with pytest.raises(InputError, match="bits"):
        compute_metrics(bits + 1, points, [63], WindowParams())


def test_a_batch_can_be_taken_apart_and_put_together() -> None:
    params = WindowParams(history=12, forward=4, samples=2)
    bits, points = series(13, 40)
    batch = compute_metrics(bits, points, np.arange(11, 31), params)
    assert_same_bits(MetricsBatch.concatenate([batch.take([0, 1]), batch.take(np.arange(20) >= 2)]), batch)
    assert len(batch.take([])) == 0
