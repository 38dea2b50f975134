"""The GPU engine on the host build: chunks, copies beside kernels, want of memory, and a device that fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import DependencyError
from sep_stream.gpu import GpuEngine, windows
from sep_stream.metrics import WindowParams, compute_metrics
from tests.gpu.host_device import HostDevice
from tests.metrics.test_metric_engines import assert_same_bits, series, window_params

PARAMS = WindowParams()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOWS_WORTH_A_CHUNK", 100)


@given(window_params(), st.integers(0, 2**32 - 1), st.data())
def test_any_list_of_anchors_gives_what_the_reference_gives(
    params: WindowParams, seed: int, data: st.DataObject
) -> None:
    bits, points = series(seed, params.window_bars + 300)
    last = len(bits) - 1 - params.forward
    anchors = data.draw(st.lists(st.integers(params.history - 1, last), max_size=20))
    engine = GpuEngine(HostDevice(seed=seed))
    found = compute_metrics(bits, points, anchors, params, engine)
    assert_same_bits(found, compute_metrics(bits, points, anchors, params, "reference"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("small_chunks")
def test_chunks_overlap_and_change_nothing(seed: int) -> None:
    bits, points = series(seed, 1500)
    anchors = np.arange(63, 1400)
    device = HostDevice(seed=seed)
    found = compute_metrics(bits, points, anchors, PARAMS, GpuEngine(device))
    assert_same_bits(found, compute_metrics(bits, points, anchors, PARAMS, "cpu"))
    assert device.launches.count("qfh") == 4
    assert device.at_once_max == 4, "both slots, each with both of its streams"


def test_anchors_far_apart_copy_no_bars_between_them() -> None:
    bits, points = series(3, 400_000)
    anchors = np.array([63, 64, 200_000, 399_900])
    device = HostDevice()
    found = compute_metrics(bits, points, anchors, PARAMS, GpuEngine(device))
    assert_same_bits(found, compute_metrics(bits, points, anchors, PARAMS, "cpu"))
    assert device.copied_in < 60_000


def test_single_windows_one_after_the_other_share_a_launch() -> None:
    """As a worker lays them out: of several instruments and timeframes, no two with a bar in common."""
    bits, points = series(4, 500 * PARAMS.window_bars)
    anchors = 63 + PARAMS.window_bars * np.arange(500)
    device = HostDevice()
    found = compute_metrics(bits, points, anchors, PARAMS, GpuEngine(device))
    assert_same_bits(found, compute_metrics(bits, points, anchors, PARAMS, "cpu"))
    assert device.launches.count("qfh") == 1


@pytest.mark.parametrize("capacity", [1 << 16, 1 << 18, 1 << 20])
def test_memory_stays_within_what_is_free(capacity: int) -> None:
    bits, points = series(5, 3000)
    anchors = np.arange(63, 2900)
    device = HostDevice(capacity)
    found = compute_metrics(bits, points, anchors, PARAMS, GpuEngine(device))
    assert_same_bits(found, compute_metrics(bits, points, anchors, PARAMS, "cpu"))
    assert capacity // 4 < device.used_max <= capacity


@pytest.mark.usefixtures("small_chunks")
def test_want_of_memory_in_the_middle_of_a_batch_ends_in_smaller_chunks() -> None:
    bits, points = series(6, 1500)
    anchors = np.arange(63, 1400)
    device = HostDevice(no_room_at=(15, 21))
    found = compute_metrics(bits, points, anchors, PARAMS, GpuEngine(device))
    assert_same_bits(found, compute_metrics(bits, points, anchors, PARAMS, "cpu"))
    assert device.launches.count("qfh") > 8


def test_a_device_without_room_for_the_least_is_told_with_the_remedy() -> None:
    bits, points = series(7, 300)
    engine = GpuEngine(HostDevice(capacity=4096))
    with pytest.raises(DependencyError, match=r"no room for 32 windows.*--engine cpu"):
        compute_metrics(bits, points, np.arange(63, 200), PARAMS, engine)
    engine.device = HostDevice()  # others have gone: what failed for want of memory is tried again
    engine._slots.clear()
    assert len(compute_metrics(bits, points, np.arange(63, 200), PARAMS, engine)) == 137


@pytest.mark.usefixtures("small_chunks")
def test_a_device_that_fails_in_the_middle_is_never_used_again() -> None:
    bits, points = series(8, 1500)
    device = HostDevice(lost_at=9)
    engine = GpuEngine(device)
    for _ in range(2):
        with pytest.raises(DependencyError, match=r"host build failed: cudaErrorIllegalAddress.*process has to end"):
            compute_metrics(bits, points, np.arange(63, 1400), PARAMS, engine)
    assert engine.lost
    assert len(device.launches) == 10


def test_no_anchors_ask_nothing_of_the_device() -> None:
    device = HostDevice(capacity=0)
    assert len(compute_metrics([], [], [], PARAMS, GpuEngine(device))) == 0
    assert not device.launches


def test_what_is_held_between_batches_is_used_again() -> None:
    bits, points = series(9, 900)
    device = HostDevice()
    engine = GpuEngine(device)
    compute_metrics(bits, points, np.arange(63, 800), PARAMS, engine)
    held = device.used
    compute_metrics(bits, points, np.arange(63, 700), PARAMS, engine)
    assert device.used == held
