"""What the GPU engine needs of a device: memory, copies, launches, and an order among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DeviceMemoryError(Exception):
    """The device, or the bound set on its use, has no room for what was asked."""


class DeviceLostError(Exception):
    """The device gave an error after which nothing that it holds can be relied on."""


class Memory(Protocol):
    """A stretch of device memory; it is free again once nothing refers to it."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes."""


Stream = Any
"""Work in order; work of two streams in any. What a device's `stream` gives."""

Argument = int | np.generic | None
"""Of a kernel: a device address, a scalar of the parameter's own dtype, or a null pointer."""


class Device(Protocol):
    """A GPU, or what stands for one. Every call may raise DeviceMemoryError or DeviceLostError; errors of copies and
    launches can come with a later call, `synchronize` at the latest.

    name: for messages and figures
    """

    @property
    def name(self) -> str: ...

    def use(self) -> None:
        """To be called before others in each thread."""

    def free_bytes(self) -> int:
        """What `allocate` may still give in all."""

    def allocate(self, size: int) -> Memory: ...

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Host memory (size,) uint8 from and to which copies run beside other work."""

    def stream(self) -> Stream: ...

    def copy_in(self, address: int, host: Array, stream: Stream) -> None:
        """A contiguous array into device memory. A pinned one must stay as it is until the copy is done."""

    def copy_out(self, host: Array, address: int, stream: Stream) -> None:
        """Device memory into a contiguous array, which holds it once the stream is synchronized."""

    def launch(self, kernel: str, grid: int, block: int, arguments: Sequence[Argument], stream: Stream) -> None:
        """A kernel of `kernels/`, with the arguments that the head of its file names, in that order."""

    def follow(self, stream: Stream, after: Stream) -> None:
        """What `stream` is given from now on begins when all that `after` was given until now is done."""

    def synchronize(self, stream: Stream) -> None:
        """Wait until all that the stream was given is done."""

    def release(self) -> None:
        """Give free memory back to the system."""
