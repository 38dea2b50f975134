"""The same comparisons on a GPU, where there is one: every output, tens of millions of windows, want of memory."""

from __future__ import annotations

import numpy as np
import pytest

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.gpu import GpuEngine
from sep_stream.gpu.calibration import measure
from sep_stream.gpu.cupy_device import CupyDevice, gpu_facts
from sep_stream.gpu.device import DeviceLostError, DeviceMemoryError
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.runtime.jars import cache_folder
from sep_stream.runtime.resources import resource
from sep_stream.scoring.gate import GateParameters, gate_failures
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import cpu_votes
from tests.gpu.test_votes_on_a_device import assert_same, different, made
from tests.metrics.test_metric_engines import assert_same_bits, series
from tests.scoring.test_nearest_blocks import full_sort

WINDOWS = 10_000_000
AT_ONCE = 2_000_000


def opened(memory_bytes_max: int | None = None) -> CupyDevice:
    return CupyDevice(resource("kernels"), cache_folder() / "kernels", memory_bytes_max)


@pytest.fixture(scope="module")
def engine() -> GpuEngine:
    """On this machine's GPU; skips where there is none."""
    try:
        gpu_facts()
    except ConfigurationError as error:
        pytest.skip(str(error))
    return GpuEngine(opened())


@pytest.mark.usefixtures("engine")
class TestWithAGpu:
    def test_ten_million_windows_have_the_cpus_bits(self, engine: GpuEngine) -> None:
        params = WindowParams()
        for seed in range(WINDOWS // AT_ONCE):
            bits, points = series(seed, AT_ONCE + params.window_bars - 1, 0.3 + 0.1 * seed)
            anchors = np.arange(params.history - 1, params.history - 1 + AT_ONCE)
            found = compute_metrics(bits, points, anchors, params, engine)
            assert_same_bits(found, compute_metrics(bits, points, anchors, params, "cpu"))

    @pytest.mark.parametrize(
        "params",
        [WindowParams(12, 1, 1, hold=1), WindowParams(65, 128, 32), WindowParams(700, 900, 300, eps=1e-5, hold=9)],
        ids=str,
    )
    def test_other_windows_in_any_order_have_them_too(self, engine: GpuEngine, params: WindowParams) -> None:
        bits, points = series(11, params.window_bars + 20_000)
        anchors = params.history - 1 + np.random.default_rng(1).integers(0, 20_000, 5_000)
        found = compute_metrics(bits, points, anchors, params, engine)
        assert_same_bits(found, compute_metrics(bits, points, anchors, params, "cpu"))

    @pytest.mark.parametrize("seed", range(5))
    def test_nearest_paths_are_those_of_a_full_sort_with_ties_and_zero_rows(self, engine: GpuEngine, seed: int) -> None:
        library, paths = made(seed, 700, 9, 48)
        rows, queries = library.paths.astype(np.int8), paths.astype(np.int8)
        for eligible in (0, 1, 63, 64, 65, 699, 700):
            found = engine.votes(library, 64, paths, np.full(9, eligible), 5)
            for j, query in enumerate(queries.tolist()):
                expected = full_sort(rows, query, eligible, 64, 5)
                missing = 5 - len(expected)
                assert found.match_row[j].tolist() == [r for _, r in expected] + [-1] * missing
                assert found.match_cosine[j].tolist() == [c for c, _ in expected] + [0.0] * missing

    def test_votes_of_a_large_library_are_the_cpus(self, engine: GpuEngine) -> None:
        library, paths = different(3, 3_000_000, 200)
        eligible = np.random.default_rng(3).integers(0, 3_000_001, 200)
        assert_same(engine.votes(library, 64, paths, eligible, 32), cpu_votes(library, 64, paths, eligible, 32))

    def test_bits_to_votes_are_those_of_metrics_and_votes(self, engine: GpuEngine) -> None:
        params = WindowParams()
        bits, points = series(5, 600_000, 0.6)
        anchors = np.arange(params.history - 1, len(bits) - params.forward)
        expected = compute_metrics(bits, points, anchors, params, "cpu")
        n = 200_000
        minutes = 60 * np.arange(n, dtype=np.int64)
        outcome = (np.arange(n) % 7 - 3).astype(np.int32)
        library = PathLibrary.build("EUR/USD", "M1", expected.path[:n], minutes, minutes + 1, minutes + 2, outcome)
        at = np.arange(0, len(anchors), 997)
        eligible = np.minimum(at, n)
        found = engine.score_windows(bits, points, anchors, params, library, at, eligible)
        assert found.gate.tobytes() == gate_failures(expected, np.ones(len(anchors)), GateParameters()).tobytes()
        assert_same(found.votes, cpu_votes(library, params.forward, expected.path[at], eligible, 32))

    @pytest.mark.parametrize("mebibytes", [2, 16])
    def test_a_small_pool_changes_nothing(self, mebibytes: int) -> None:
        small = GpuEngine(opened(mebibytes << 20))
        bits, points = series(7, 200_000)
        anchors = np.arange(63, 199_000)
        assert_same_bits(
            compute_metrics(bits, points, anchors, WindowParams(), small),
            compute_metrics(bits, points, anchors, WindowParams(), "cpu"),
        )
        library, paths = different(8, 60_000, 50)
        eligible = np.full(50, 60_000)
        assert_same(small.votes(library, 64, paths, eligible, 32), cpu_votes(library, 64, paths, eligible, 32))
        assert small.device.free_bytes() <= mebibytes << 20

    def test_a_pool_without_room_is_told(self) -> None:
        bits, points = series(9, 300)
        with pytest.raises(DependencyError, match="no room for"):
            compute_metrics(bits, points, np.arange(63, 200), WindowParams(), GpuEngine(opened(512)))

    def test_it_passes_its_own_check_and_can_be_measured(self, engine: GpuEngine) -> None:
        engine.check()
        assert measure(engine, "this").windows[-1].gpu_ms > 0


def test_cupys_errors_become_those_of_a_device() -> None:
    cupy = pytest.importorskip("cupy", reason="the gpu extra is not installed: uv sync --extra gpu")
    device = CupyDevice.__new__(CupyDevice)
    device._cuda = cupy.cuda
    runtime = cupy.cuda.runtime
    for error, expected in (
        (cupy.cuda.memory.OutOfMemoryError(1, 2, 3), DeviceMemoryError),
        (runtime.CUDARuntimeError(2), DeviceMemoryError),
        (runtime.CUDARuntimeError(700), DeviceLostError),
        (runtime.CUDARuntimeError(999), DeviceLostError),
    ):
        with pytest.raises(expected), device._told():
            raise error
