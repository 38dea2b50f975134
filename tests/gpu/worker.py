"""`sep-stream` with the host build in the GPU's place: `python -m tests.gpu.worker worker --engine cuda`."""

from __future__ import annotations

import os
from functools import cache

from sep_stream.runtime.numba_cache import configure_numba_cache

configure_numba_cache()

from sep_stream import cli  # noqa: E402
from sep_stream.gpu import GpuEngine, cupy_device, opened  # noqa: E402
from tests.gpu.host_device import HostDevice  # noqa: E402


@cache
def host_engine(memory_mib: int | None = None) -> GpuEngine:
    lost_at = os.environ.get("LOST_AT")
    return GpuEngine(HostDevice(lost_at=None if lost_at is None else int(lost_at)))


if __name__ == "__main__":
    opened.gpu_engine = host_engine
    cupy_device.gpu_facts = lambda: None
    cli.main()
