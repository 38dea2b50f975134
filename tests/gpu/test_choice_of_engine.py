"""Which engine a name stands for, from which size on `auto` takes the GPU, and what it does when that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sep_stream.cli._common import ENGINES
from sep_stream.errors import ConfigurationError
from sep_stream.gpu import AutoEngine, GpuEngine, calibration, engine_named, offer_engines, opened
from sep_stream.gpu.calibration import NEVER, Calibration, Timing, calibrated_on, crossover, kept_calibration, measure
from sep_stream.gpu.cupy_device import gpu_facts
from sep_stream.metrics import WindowParams, compute_metrics, computed_metrics, engines
from sep_stream.scoring import score
from tests.gpu.host_device import HostDevice
from tests.gpu.test_votes_on_a_device import assert_same, different
from tests.metrics.test_metric_engines import assert_same_bits, series

PARAMS = WindowParams()
BITS, POINTS = series(1, 600)


def of_sizes(windows_min: int, comparisons_min: int) -> Calibration:
    return Calibration("m", "2026-01-01", (Timing(windows_min, 2, 1),), (Timing(comparisons_min, 2, 1),))


@pytest.mark.parametrize(
    ("faster", "least"),
    [
        ([True, True, True], 10), ([False, True, True], 100), ([True, False, True], 1000),
        ([True, True, False], NEVER), ([False, False, False], NEVER),
    ],
)  # fmt: skip
def test_the_gpu_is_taken_from_where_on_it_was_always_faster(faster: list[bool], least: int) -> None:
    timings = [Timing(size, 1.0, 0.5 if won else 1.0) for size, won in zip((10, 100, 1000), faster, strict=True)]
    assert crossover(timings) == crossover(timings[::-1]) == least


def test_auto_takes_small_batches_to_the_cpu_and_large_ones_to_the_gpu() -> None:
    device = HostDevice()
    auto = AutoEngine(GpuEngine(device), of_sizes(100, 5_000))
    for n, name in ((99, "cpu"), (100, "cuda")):
        found, made_by = computed_metrics(BITS, POINTS, np.arange(63, 63 + n), PARAMS, auto)
        assert made_by == name
        assert_same_bits(found, compute_metrics(BITS, POINTS, np.arange(63, 63 + n), PARAMS, "cpu"))
    library, paths = different(1, 500, 10)
    for queries, searches in ((9, 0), (10, 1)):
        starts = np.full(queries, 2**40)
        found = score(library, 64, paths[:queries], starts, engine=auto)
        assert_same(found, score(library, 64, paths[:queries], starts, engine="cpu"))
        assert device.launches.count("votes") == searches


def test_when_the_gpu_fails_auto_goes_on_with_the_cpu_logs_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []
    device = HostDevice(lost_at=0)
    auto = AutoEngine(GpuEngine(device), of_sizes(1, 1), lambda: told.append(None))
    anchors = np.arange(63, 163)
    for _ in range(3):
        found, made_by = computed_metrics(BITS, POINTS, anchors, PARAMS, auto)
        assert made_by == "cpu"
        assert_same_bits(found, compute_metrics(BITS, POINTS, anchors, PARAMS, "cpu"))
    assert auto.failures == len(told) == len(caplog.messages) == 1, "a device that is lost is not asked again"
    assert "cudaErrorIllegalAddress" in caplog.messages[0]


def test_after_want_of_memory_auto_tries_again() -> None:
    library, paths = different(2, 500, 3)
    device = HostDevice()
    auto = AutoEngine(GpuEngine(device), of_sizes(1, 1))
    starts = np.full(3, 2**40)
    for capacity, failures in ((500, 1), (500, 2), (1 << 24, 2)):
        device.capacity = capacity
        assert_same(score(library, 64, paths, starts, engine=auto), score(library, 64, paths, starts, engine="cpu"))
        assert auto.failures == failures
    assert "votes" in device.launches


def test_a_calibration_is_measured_once_and_kept_with_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuEngine(HostDevice())
    small = partial(measure, windows=(8, 32), queries=(1, 2), library_rows=200)
    monkeypatch.setattr(calibration, "measure", small)
    assert kept_calibration(tmp_path, "a GPU") is None
    made = calibrated_on(gpu, tmp_path, "a GPU")
    assert [timing.size for timing in made.windows] == [8, 32]
    assert [timing.size for timing in made.votes] == [200, 400]
    assert all(timing.cpu_ms > 0 and timing.gpu_ms > 0 for timing in (*made.windows, *made.votes))
    assert "measured 20" in str(made)
    monkeypatch.setattr(calibration, "measure", lambda *_: pytest.fail("measured again"))
    assert calibrated_on(gpu, tmp_path, "a GPU") == kept_calibration(tmp_path, "a GPU") == made
    assert kept_calibration(tmp_path, "another GPU") is None


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"windows": 1}', '{"windows": [], "votes": [{"size": 1}]}'])
def test_a_damaged_calibration_is_as_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.json"
    calibration.write(path, of_sizes(1, 2))
    assert calibration.read(path) == of_sizes(1, 2)
    assert json.loads(path.read_text())["windows"] == [{"size": 1, "cpu_ms": 2, "gpu_ms": 1}]
    path.write_text(damage)
    assert calibration.read(path) is None


def test_the_command_line_offers_every_engine() -> None:
    assert set(ENGINES) == set(engines.ENGINE_NAMES)


@pytest.fixture
def offered() -> Iterator[None]:
    """What the test offers is forgotten after it."""
    before = dict(engines._engines)
    yield
    engines._engines.clear()
    engines._engines.update(before)


@pytest.mark.usefixtures("offered")
def test_what_is_offered_under_a_name_is_what_the_name_stands_for() -> None:
    engine = GpuEngine(HostDevice())
    engines.offer("cuda", lambda: engine)
    assert computed_metrics(BITS, POINTS, [63, 64], PARAMS, "cuda")[1] == "cuda"
    assert computed_metrics(BITS, POINTS, [63, 64], PARAMS)[1] == "cpu"


@pytest.fixture
def without_gpu() -> None:
    """Skips where there is one."""
    try:
        gpu_facts()
    except ConfigurationError:
        return
    pytest.skip("a GPU is there")


@pytest.mark.usefixtures("offered", "without_gpu")
def test_a_gpu_that_is_not_there_is_told_with_the_remedy() -> None:
    offer_engines()
    for ask in (lambda: engine_named("cuda"), lambda: compute_metrics(BITS, POINTS, [63], PARAMS, "cuda")):
        with pytest.raises(ConfigurationError, match=r"the cuda engine needs .*--engine cpu"):
            ask()


@pytest.mark.usefixtures("without_gpu")
def test_auto_without_a_gpu_is_the_cpu_engine_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []
    assert engine_named("auto", on_failure=lambda: told.append(None)) is engines.CPU
    assert len(caplog.messages) == len(told) == int(opened.extra_is_installed())


@pytest.mark.usefixtures("offered", "without_gpu")
def test_what_was_never_offered_is_told() -> None:
    engines._engines.pop("cuda", None)
    with pytest.raises(ConfigurationError, match=r"sep_stream\.gpu"):
        compute_metrics(BITS, POINTS, [63], PARAMS, "cuda")
