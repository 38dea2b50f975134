"""`bench gpu`: the baseline computes the contract, the figures can be made, and without a GPU it says so."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.gpu import GpuEngine
from sep_stream.gpu.cupy_device import gpu_facts
from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics
from sep_stream.runtime.resources import resource
from tests.cli.commands import run
from tests.gpu.host_device import HostDevice
from tests.metrics.test_metric_engines import series


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(resource("bench")))
    spec = importlib.util.spec_from_file_location("bench_gpu", resource("bench") / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("params", [WindowParams(), WindowParams(20, 12, 4, eps=0.02, hold=2)], ids=str)
def test_whole_array_operations_compute_the_contract(bench: ModuleType, params: WindowParams) -> None:
    bits, points = series(1, 700)
    anchors = params.history - 1 + np.random.default_rng(1).integers(0, 500, 200)
    found = bench.elementwise.metrics(np, bits.astype(np.int32), points.astype(np.float64), anchors, params)
    expected = compute_metrics(bits, points, anchors, params, "cpu")
    for field in fields(MetricsBatch):
        if field.name != "probes":
            column = getattr(expected, field.name)
            assert np.asarray(found[field.name], column.dtype).tobytes() == column.tobytes(), field.name


def test_the_figures_from_host_to_host_can_be_made(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CPU_WINDOWS", 500), ("QUERIES_MAX", 40)):
        monkeypatch.setattr(bench, name, value)
    arguments = argparse.Namespace(runs=1, seconds=0.0)
    engine, made = GpuEngine(HostDevice()), bench.made_series(2_000)
    library = bench.made_library(made, 1_000)
    figures = [
        bench.host_to_host(engine, made, arguments),
        bench.bits_to_scores(engine, made, library, arguments),
        bench.nearest_paths(engine, library, arguments),
    ]
    assert all(figure.ours > 0 for figure in figures)
    assert [figure.ratio is not None for figure in figures] == [True, False, True]


def test_without_a_gpu_it_says_so_and_that_is_no_failure(tmp_path: Path) -> None:
    try:
        gpu_facts()
    except ConfigurationError:
        code, out, err = run("bench", "gpu", "--runs", 1, "--seconds", 1, "--json", cwd=tmp_path)
        assert (code, out) == (0, "")
        assert "no GPU" in err
    else:
        pytest.skip("a GPU is there")
