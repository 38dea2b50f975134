"""Engines by name: those of this package, and those that a program offers beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError
from sep_stream.metrics import cpu, reference
from sep_stream.metrics.batch import MetricsBatch
from sep_stream.metrics.params import WindowParams

ENGINE_NAMES: Final = ("reference", "cpu", "cuda", "auto")


class Engine(Protocol):
    """What computes windows. All engines agree to the last bit."""

    def metrics(
        self,
        bits: npt.NDArray[np.uint8],
        points: npt.NDArray[np.int32],
        anchors: npt.NDArray[np.int64],
        params: WindowParams,
    ) -> tuple[MetricsBatch, str]:
        """Metrics of the windows at `anchors`, which lie inside the series, and the name of the engine that made them.

        Raises DependencyError where a device fails.
        """


Compute = Callable[
    [npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int64], WindowParams],
    MetricsBatch,
]


class HostEngine:
    """An engine that is a function, run on this processor."""

    def __init__(self, name: str, compute: Compute) -> None:
        self._name, self._compute = name, compute

    def metrics(
        self,
        bits: npt.NDArray[np.uint8],
        points: npt.NDArray[np.int32],
        anchors: npt.NDArray[np.int64],
        params: WindowParams,
    ) -> tuple[MetricsBatch, str]:
        return self._compute(bits, points, anchors, params), self._name


CPU: Final = HostEngine("cpu", cpu.compute)
_engines: Final[dict[str, Callable[[], Engine]]] = {
    "auto": lambda: CPU,
    "reference": lambda: HostEngine("reference", reference.compute),
    "cpu": lambda: CPU,
}


def offer(name: str, engine: Callable[[], Engine]) -> None:
    """Let `engine` be what a name of ENGINE_NAMES stands for from now on; it is called at each use of the name."""
    _engines[name] = engine


def engine_of(engine: str | Engine) -> Engine:
    """The engine of a name; an engine itself is one already. Raises ConfigurationError for a name without one."""
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINE_NAMES:
        raise ConfigurationError(f"engine: expected one of {', '.join(ENGINE_NAMES)}, got {engine!r}")
    if engine not in _engines:
        raise ConfigurationError(
            f"engine {engine}: not offered here; import `sep_stream.gpu` and call `offer_engines()`"
        )
    return _engines[engine]()
