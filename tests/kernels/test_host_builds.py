"""What the other tests rely on: the sanitizers report, and a build that fuses fails."""

from __future__ import annotations

import numpy as np
import pytest

from sep_stream.metrics import WindowParams, compute_metrics
from tests.kernels.host.build import EXACT, FUSED, SANITIZED, library
from tests.kernels.host.launch import Launcher
from tests.kernels.host.sanitized import SanitizerError, sanitized_launcher
from tests.kernels.launches import window_metrics
from tests.metrics.test_metric_engines import series
from tests.metrics.test_no_contraction import HAS_FMA

PARAMS = WindowParams()
BITS, POINTS = series(1, 1000)
ANCHORS = np.arange(PARAMS.history - 1, len(BITS) - PARAMS.forward)


@pytest.mark.skipif(not HAS_FMA, reason="this CPU has no fused multiply-add")
def test_a_build_that_fuses_does_not_give_the_same_bits() -> None:
    expected = compute_metrics(BITS, POINTS, ANCHORS, PARAMS, "cpu")
    fused = window_metrics(Launcher(library(FUSED)), BITS, POINTS, ANCHORS, PARAMS)
    exact = window_metrics(Launcher(library(EXACT)), BITS, POINTS, ANCHORS, PARAMS)
    assert exact.damped.tobytes() == expected.damped.tobytes()
    differ = (fused.damped.view(np.uint64) != expected.damped.view(np.uint64)).any(axis=1)
    assert differ.mean() > 0.2


def test_a_read_past_the_series_is_reported() -> None:
    short = POINTS[:-1].copy()
    with (
        sanitized_launcher(library(SANITIZED)) as launch,
        pytest.raises(SanitizerError, match=r"heap-buffer-overflow(?s:.*)qfh\.cu"),
    ):
        window_metrics(launch, BITS, short, ANCHORS, PARAMS)


def test_an_overflow_is_reported() -> None:
    cosine, row = np.zeros(1), np.zeros(1, np.int32)
    with (
        sanitized_launcher(library(SANITIZED)) as launch,
        pytest.raises(SanitizerError, match=r"nearest\.cu.*signed integer overflow"),
    ):
        launch("best_blocks", 1, 1, cosine, row, 2**62, 2**62, 1, 1, cosine, row)
