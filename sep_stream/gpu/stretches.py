"""Where the arrays of a piece of work lie: in one stretch of device memory, and in pinned memory beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.gpu.device import Argument, Device, Memory

ALIGNMENT: Final = 256
"""Bytes; what a device's own allocator gives, and more than any load of a kernel wants."""
THREADS: Final = 128
"""Of a thread block."""
BLOCKS_MAX: Final = 1 << 20
"""Of a grid: the kernels' threads take several items where there are more."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """Bytes, with what is left out for the alignment of the next."""
        return -(-prod(self.shape) * np.dtype(self.dtype).itemsize // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Layout:
    """Arrays one after the other: those that come from the host, those of the device alone, those that go back."""

    inputs: Sequence[Field] = ()
    scratch: Sequence[Field] = ()
    outputs: Sequence[Field] = ()

    @property
    def size(self) -> int:
        return sum(field.size for field in (*self.inputs, *self.scratch, *self.outputs))


class Slot:
    """Device memory and pinned memory for one piece of work after another, and the streams that it runs on.

    main: copies, and what depends on them · side: what may run beside the main stream's kernels
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.main, self.side = device.stream(), device.stream()
        self._memory: Memory | None = None
        self._sent, self._returned = (np.empty(0, np.uint8) for _ in range(2))
        self._inputs_size = self._outputs_size = self._outputs_from = 0
        self._at: dict[str, int] = {}
        self._host: dict[str, npt.NDArray[Any]] = {}

    @property
    def held_bytes(self) -> int:
        return 0 if self._memory is None else self._memory.size

    def lay_out(self, layout: Layout) -> None:
        """Make room for arrays. What they held before is gone; the streams have to be at rest."""
        self._inputs_size = sum(field.size for field in layout.inputs)
        self._outputs_size = sum(field.size for field in layout.outputs)
        self._outputs_from = layout.size - self._outputs_size
        if self._memory is None or self._memory.size < layout.size:
            self._memory = None
            self._memory = self._device.allocate(layout.size)
        self._sent = self._room(self._sent, self._inputs_size)
        self._returned = self._room(self._returned, self._outputs_size)
        self._at, self._host, at = {}, {}, 0
        for field in (*layout.inputs, *layout.scratch, *layout.outputs):
            self._at[field.name] = self._memory.address + at
            at += field.size
        for fields, memory in ((layout.inputs, self._sent), (layout.outputs, self._returned)):
            at = 0
            for field in fields:
                values = memory[at : at + prod(field.shape) * np.dtype(field.dtype).itemsize]
                self._host[field.name] = values.view(field.dtype).reshape(field.shape)
                at += field.size

    def _room(self, held: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
        return held if len(held) >= size else self._device.pinned(size)

    def give_back(self) -> None:
        """Hold no memory any more, of the device or of the host."""
        self._memory, self._at, self._host = None, {}, {}
        self._sent, self._returned = (np.empty(0, np.uint8) for _ in range(2))

    def __getitem__(self, name: str) -> int:
        """The device address of an array."""
        return self._at[name]

    def host(self, name: str) -> npt.NDArray[Any]:
        """An array that goes to the device, or one that has come from it."""
        return self._host[name]

    def send(self) -> None:
        """Copy the inputs to the device."""
        if self._inputs_size and self._memory is not None:
            self._device.copy_in(self._memory.address, self._sent[: self._inputs_size], self.main)

    def fetch(self) -> None:
        """Copy the outputs to the host."""
        if self._outputs_size and self._memory is not None:
            address = self._memory.address + self._outputs_from
            self._device.copy_out(self._returned[: self._outputs_size], address, self.main)

    def launch(self, kernel: str, items: int, arguments: Sequence[Argument], side: bool = False) -> None:
        """Launch a kernel with a thread for each of so many items."""
        grid = max(1, min(BLOCKS_MAX, -(-items // THREADS)))
        self._device.launch(kernel, grid, THREADS, arguments, self.side if side else self.main)

    def fork(self) -> None:
        """Let the side stream begin when all on the main one is done."""
        self._device.follow(self.side, self.main)

    def join(self) -> None:
        """Let the main stream go on when all on the side one is done."""
        self._device.follow(self.main, self.side)

    def wait(self) -> None:
        """Until all work is done."""
        self._device.synchronize(self.side)
        self._device.synchronize(self.main)
