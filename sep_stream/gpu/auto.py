"""`AutoEngine`: the GPU for batches that are worth the copy, else the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sep_stream.errors import DependencyError
from sep_stream.gpu.calibration import Calibration
from sep_stream.gpu.engine import GpuEngine
from sep_stream.metrics import MetricsBatch, WindowParams
from sep_stream.metrics.engines import CPU
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import Votes, cpu_votes

log = logging.getLogger(__name__)


class AutoEngine:
    """Chooses by batch size, as measured. Both give the same bits, so the choice shows in headers and times alone.

    A batch that the GPU fails at is computed by the CPU; that is logged and counted. One that has failed for good is
    not asked again.

    failures: batches so far · on_failure: called at each of them
    """

    def __init__(self, gpu: GpuEngine, calibration: Calibration, on_failure: Callable[[], None] = lambda: None) -> None:
        self.gpu, self.calibration, self._on_failure = gpu, calibration, on_failure
        self.failures = 0

    def metrics(
        self,
        bits: npt.NDArray[np.uint8],
        points: npt.NDArray[np.int32],
        anchors: npt.NDArray[np.int64],
        params: WindowParams,
    ) -> tuple[MetricsBatch, str]:
        """See `Engine.metrics`."""
        if len(anchors) >= self.calibration.windows_min and not self.gpu.lost:
            try:
                return self.gpu.metrics(bits, points, anchors, params)
            except DependencyError as error:
                self._failed(error)
        return CPU.metrics(bits, points, anchors, params)

    def votes(
        self,
        library: PathLibrary,
        block_rows: int,
        paths: npt.NDArray[np.float32],
        eligible: npt.NDArray[np.int64],
        matches: int,
    ) -> Votes:
        """See `VotingEngine.votes`."""
        if int(np.minimum(eligible, len(library)).sum()) >= self.calibration.comparisons_min and not self.gpu.lost:
            try:
                return self.gpu.votes(library, block_rows, paths, eligible, matches)
            except DependencyError as error:
                self._failed(error)
        return cpu_votes(library, block_rows, paths, eligible, matches)

    def _failed(self, error: DependencyError) -> None:
        self.failures += 1
        log.warning("engine auto: failure %d of the GPU, the CPU engine goes on: %s", self.failures, error)
        self._on_failure()
