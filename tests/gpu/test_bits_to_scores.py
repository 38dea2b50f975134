"""Bits to votes in one go on the host build: what metrics and votes of the CPU give, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sep_stream.errors import DependencyError, InputError
from sep_stream.gpu import GpuEngine, search, windows
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.scoring import PathLibrary
from sep_stream.scoring.gate import GateParameters, gate_failures
from sep_stream.scoring.score import cpu_votes
from tests.gpu.host_device import HostDevice
from tests.gpu.test_votes_on_a_device import assert_same
from tests.metrics.test_metric_engines import series

PARAMS = WindowParams()
BITS, POINTS = series(1, 1_500, 0.6)
ANCHORS = np.arange(PARAMS.history - 1, 1_400)
METRICS = compute_metrics(BITS, POINTS, ANCHORS, PARAMS, "cpu")


def library() -> PathLibrary:
    """Of the windows' own paths."""
    n = len(ANCHORS)
    minutes = 60 * np.arange(n, dtype=np.int64)
    outcome = (np.arange(n) % 7 - 3).astype(np.int32)
    return PathLibrary.build("EUR/USD", "M1", METRICS.path, minutes, minutes + 1, minutes + 2, outcome)


LIBRARY = library()


def looked_up(engine: GpuEngine, at: Any, eligible: Any) -> None:
    at, eligible = np.asarray(at, np.int64), np.asarray(eligible, np.int64)
    found = engine.score_windows(BITS, POINTS, ANCHORS, PARAMS, LIBRARY, at, eligible)
    assert found.gate.tobytes() == gate_failures(METRICS, np.ones(len(ANCHORS)), GateParameters()).tobytes()
    assert_same(found.votes, cpu_votes(LIBRARY, PARAMS.forward, METRICS.path[at], eligible, 32))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("every", [1, 7, 500])
def test_equals_metrics_and_votes_of_the_cpu(monkeypatch: pytest.MonkeyPatch, seed: int, every: int) -> None:
    monkeypatch.setattr(windows, "WINDOWS_WORTH_A_CHUNK", 100)
    monkeypatch.setattr(search, "QUERIES_AT_ONCE_MAX", 64)
    monkeypatch.setattr(search, "PART_ROWS_MAX", 640)
    at = np.arange(0, len(ANCHORS), every)
    looked_up(GpuEngine(HostDevice(seed=seed)), at, np.random.default_rng(seed).integers(0, len(ANCHORS) + 1, len(at)))


def test_none_looked_up_gives_what_gates_need() -> None:
    looked_up(GpuEngine(HostDevice()), [], [])


@pytest.mark.parametrize("capacity", [250_000, 1_000_000])
def test_fits_where_the_library_does_not(capacity: int) -> None:
    at = np.arange(0, len(ANCHORS), 60)
    device = HostDevice(capacity)
    looked_up(GpuEngine(device), at, np.full(len(at), len(ANCHORS)))
    assert device.used_max <= capacity


def test_want_of_memory_in_the_middle_ends_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOWS_WORTH_A_CHUNK", 100)
    at = np.arange(0, len(ANCHORS), 9)
    looked_up(GpuEngine(HostDevice(no_room_at=(11, 20))), at, np.full(len(at), 900))


def test_a_device_without_room_is_told() -> None:
    with pytest.raises(DependencyError, match="no room for a block of the library of EUR/USD M1 and a window"):
        looked_up(GpuEngine(HostDevice(capacity=2_000)), [3], [900])


@pytest.mark.parametrize(("at", "told"), [([3, 3], "at: expected to rise"), ([5, 4], "at: expected to rise")])
def test_positions_that_do_not_rise_are_refused(at: list[int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        looked_up(GpuEngine(HostDevice()), at, [1, 1])


def test_a_library_without_rows_is_refused() -> None:
    empty = PathLibrary.empty("EUR/USD", "M1", PARAMS.path_values)
    with pytest.raises(InputError, match="no rows"):
        GpuEngine(HostDevice()).score_windows(BITS, POINTS, ANCHORS, PARAMS, empty, np.array([1]), np.array([0]))
