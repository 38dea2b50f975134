"""The engines of this machine by name: `cuda` on its GPU, and `auto`, which chooses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from sep_stream.errors import SepError
from sep_stream.gpu.auto import AutoEngine
from sep_stream.gpu.calibration import calibrated_on
from sep_stream.gpu.cupy_device import CupyDevice, extra_is_installed, gpu_facts
from sep_stream.gpu.engine import GpuEngine
from sep_stream.metrics.engines import CPU, Engine, engine_of, offer
from sep_stream.runtime.jars import cache_folder
from sep_stream.runtime.resources import resource

log = logging.getLogger(__name__)


@cache
def gpu_engine(memory_mib: int | None = None) -> GpuEngine:
    """The engine of the first visible GPU, opened at the first call.

    memory_mib: most that is taken of its memory; None: see CupyDevice
    Raises ConfigurationError where there is no GPU or the extra is missing, DependencyError where it can't be used.
    """
    memory_bytes_max = None if memory_mib is None else memory_mib << 20
    return GpuEngine(CupyDevice(resource("kernels"), cache_folder() / "kernels", memory_bytes_max))


def engine_named(name: str, memory_mib: int | None = None, on_failure: Callable[[], None] = lambda: None) -> Engine:
    """The engine that a name stands for on this machine; a GPU is opened, and `auto` measured where it never was.

    on_failure: called each time that `auto` goes on without a GPU that failed, or can't be opened
    Raises what `gpu_engine` raises for `cuda`. `auto` is the CPU engine where the extra is not installed, and, with a
    line in the log, where a GPU can't be opened.
    """
    if name == "cuda":
        return gpu_engine(memory_mib)
    if name != "auto":
        return engine_of(name)
    if not extra_is_installed():
        return CPU
    try:
        gpu = gpu_engine(memory_mib)
        return AutoEngine(gpu, calibrated_on(gpu, cache_folder(), str(gpu_facts())), on_failure)
    except SepError as error:
        log.warning("engine auto: the CPU engine is used: %s", error)
        on_failure()
        return CPU


def offer_engines() -> None:
    """Let `cuda` and `auto` be known by their names wherever an engine is named."""
    offer("cuda", gpu_engine)
    offer("auto", cache(lambda: engine_named("auto")))
