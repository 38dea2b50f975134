"""An NVIDIA GPU through CuPy: the only module that touches one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.gpu.device import Argument, Array, DeviceLostError, DeviceMemoryError, Memory
from sep_stream.metrics.kernels import cubin

EXTRA_REMEDY: Final = "pip install 'sep-stream[gpu]'"
FREE_SHARE: Final = 0.6
"""Of what is free when the device is opened: the bound where none is set."""


_OUT_OF_MEMORY: Final = 2
"""cudaErrorMemoryAllocation and CUDA_ERROR_OUT_OF_MEMORY."""
_DEVICE: Final = 0
"""The first of those that CUDA_VISIBLE_DEVICES leaves."""
_FILES: Final = {
    "qfh": "qfh", "qbsa": "qbsa", "quantise": "quantise", "best_rows": "nearest", "best_blocks": "nearest",
    "by_row_4": "by_row", "by_row_8": "by_row", "place": "votes", "votes": "votes",
    "gates": "votes",
}  # fmt: skip
"""Which .cu file a kernel is in."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a figure or a calibration is of. driver, runtime: as CUDA numbers them, 12040 is 12.4"""

    name: str
    capability: str
    memory_mib: int
    driver: int
    runtime: int
    cupy: str

    def __str__(self) -> str:
        driver, runtime = (f"{v // 1000}.{v % 1000 // 10}" for v in (self.driver, self.runtime))
        return (
            f"{self.name}, {self.memory_mib:,} MiB, sm_{self.capability}, CUDA {driver}, CuPy {self.cupy} ({runtime})"
        )


def extra_is_installed() -> bool:
    return find_spec("cupy") is not None


def gpu_facts() -> GpuFacts:
    """What GPU there is. Raises ConfigurationError, with the remedy, where there is none or CuPy can't reach it."""
    cupy = _cupy()
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() == 0:
            raise ConfigurationError(f"no GPU is visible; {_REMEDY}")
        properties = runtime.getDeviceProperties(_DEVICE)
        versions = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except runtime.CUDARuntimeError as error:
        raise ConfigurationError(f"no GPU can be used ({error}); {_REMEDY}") from error
    name: bytes = properties["name"]
    capability = f"{properties['major']}{properties['minor']}"
    return GpuFacts(name.decode(), capability, properties["totalGlobalMem"] >> 20, *versions, cupy.__version__)


_REMEDY: Final = (
    "the cuda engine needs an NVIDIA GPU and its driver (does `nvidia-smi` list it? does CUDA_VISIBLE_DEVICES hide "
    "it?); --engine cpu gives the same results without one"
)


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ConfigurationError(
            f"the cuda engine needs CuPy ({error}); {EXTRA_REMEDY}, or take --engine cpu"
        ) from error
    return cupy


class CupyDevice:
    """The first visible GPU.

    kernels: folder of the .cu files · cache: where cubins are kept · memory_bytes_max: most that is taken of the
    device; None: FREE_SHARE of what is free now
    Raises ConfigurationError where there is no GPU, DependencyError where it can't be used.
    """

    def __init__(self, kernels: Path, cache: Path, memory_bytes_max: int | None = None) -> None:
        self.facts = gpu_facts()
        self._kernels, self._cache, self._cupy = kernels, cache, _cupy()
        self._cuda = self._cupy.cuda
        self._functions: dict[str, int] = {}
        self._modules: dict[str, int] = {}
        try:
            with self._told():
                self.use()
                free = self._cuda.runtime.memGetInfo()[0]
                self._bound = int(free * FREE_SHARE) if memory_bytes_max is None else memory_bytes_max
                self._pool = self._cuda.MemoryPool()
                self._pool.set_limit(size=max(1, self._bound))
        except (DeviceLostError, DeviceMemoryError) as error:
            raise DependencyError(f"the GPU {self.name} can't be used: {error}; {_REMEDY}") from error

    @property
    def name(self) -> str:
        return self.facts.name

    def use(self) -> None:
        self._cuda.Device(_DEVICE).use()

    def free_bytes(self) -> int:
        with self._told():
            free = self._cuda.runtime.memGetInfo()[0] + self._pool.free_bytes()
            return max(0, min(free, self._bound - self._pool.used_bytes()))

    def allocate(self, size: int) -> Memory:
        with self._told():
            return _PoolMemory(self._pool.malloc(size), size)

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        with self._told():
            memory = self._cuda.alloc_pinned_memory(size)
        return np.frombuffer(memory, np.uint8, size)

    def stream(self) -> Any:
        with self._told():
            return self._cuda.Stream(non_blocking=True)

    def copy_in(self, address: int, host: Array, stream: Any) -> None:
        self._copy(address, host.ctypes.data, host.nbytes, self._cuda.runtime.memcpyHostToDevice, stream)

    def copy_out(self, host: Array, address: int, stream: Any) -> None:
        self._copy(host.ctypes.data, address, host.nbytes, self._cuda.runtime.memcpyDeviceToHost, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: Any) -> None:
        with self._told():
            self._cuda.runtime.memcpyAsync(to, source, size, kind, stream.ptr)

    def launch(self, kernel: str, grid: int, block: int, arguments: Sequence[Argument], stream: Any) -> None:
        # cuLaunchKernel copies each argument from its address while it is called.
        values = [np.array([0 if a is None else a], np.uintp if a is None or isinstance(a, int) else a.dtype)
                  for a in arguments]  # fmt: skip
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        with self._told():
            self._cuda.driver.launchKernel(
                self._function(kernel), grid, 1, 1, block, 1, 1, 0, stream.ptr, ctypes.addressof(addresses), 0
            )

    def _function(self, kernel: str) -> int:
        found = self._functions.get(kernel)
        if found is None:
            file = _FILES[kernel]
            if file not in self._modules:
                code = cubin(self._kernels, file, f"sm_{self.facts.capability}", self._cache)
                self._modules[file] = self._cuda.driver.moduleLoadData(code)
            found = self._functions[kernel] = self._cuda.driver.moduleGetFunction(self._modules[file], kernel)
        return found

    def follow(self, stream: Any, after: Any) -> None:
        with self._told():
            event = self._cuda.Event(disable_timing=True)
            event.record(after)
            stream.wait_event(event)

    def synchronize(self, stream: Any) -> None:
        with self._told():
            stream.synchronize()

    def release(self) -> None:
        with self._told():
            self._pool.free_all_blocks()
            self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        return self._cuda.runtime.CUDARuntimeError, self._cuda.driver.CUDADriverError

    @contextmanager
    def _told(self) -> Iterator[None]:
        """CuPy's errors as those of a device."""
        try:
            yield
        except self._cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error
        except self._errors as error:
            if getattr(error, "status", None) == _OUT_OF_MEMORY:
                raise DeviceMemoryError(str(error)) from error
            raise DeviceLostError(str(error)) from error


class _PoolMemory:
    """Memory of CuPy's pool, which has it back once this is gone."""

    def __init__(self, pointer: Any, size: int) -> None:
        self._pointer, self.size = pointer, size

    @property
    def address(self) -> int:
        address: int = self._pointer.ptr
        return address
