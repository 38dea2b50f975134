"""A device over the host build of the kernels: memory of its own and bounded, work put off, faults on demand.

What a stream is given runs when something waits for it, and of several streams in a random order that `follow` alone
restricts. So pinned memory that is written to or read too early, a kernel that does not wait for its inputs, and memory
that is given back too early all give wrong results.
"""

from __future__ import annotations

import ctypes
import random
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.gpu.device import Argument, Array, DeviceLostError, DeviceMemoryError
from sep_stream.gpu.stretches import ALIGNMENT
from tests.kernels.host.build import EXACT, library
from tests.kernels.host.launch import parameters

GARBAGE = 0xA5
"""What fresh memory is full of: nothing may depend on it."""
GUARD_BYTES = 256

_parameters = cache(parameters)


class HostMemory:
    """Between two guards, which tell of a write beside it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes = np.full(size + 2 * GUARD_BYTES + ALIGNMENT, GARBAGE, np.uint8)
        self._start = GUARD_BYTES + -(self._bytes.ctypes.data + GUARD_BYTES) % ALIGNMENT
        self.address = self._bytes.ctypes.data + self._start

    @property
    def is_whole(self) -> bool:
        before = self._bytes[: self._start]
        after = self._bytes[self._start + self.size :]
        return bool((before == GARBAGE).all() and (after == GARBAGE).all())


class HostStream:
    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], None] | None, HostStream | None, int]] = deque()
        self.given = self.done = 0

    def give(self, work: Callable[[], None] | None, after: HostStream | None = None) -> None:
        """after: this can't begin before what that stream has been given by now is done"""
        self.waiting.append((work, after, after.given if after else 0))
        self.given += 1


class HostDevice:
    """capacity: bytes · lost_at: the launch, from 0, that fails as if the device fell off the bus, and all after it
    no_room_at: launches that fail for want of memory"""

    name = "host build"

    def __init__(
        self, capacity: int = 1 << 28, seed: int = 0, lost_at: int | None = None, no_room_at: Sequence[int] = ()
    ) -> None:
        self._library = ctypes.CDLL(str(library(EXACT)))
        self._random = random.Random(seed)
        self._streams: list[HostStream] = []
        self._live: weakref.WeakSet[HostMemory] = weakref.WeakSet()
        self.capacity, self.lost_at, self.no_room_at = capacity, lost_at, set(no_room_at)
        self.launches, self.used_max, self.copied_in, self.copied_out = list[str](), 0, 0, 0
        self.at_once_max = 0

    @property
    def used(self) -> int:
        return sum(memory.size for memory in self._live)

    def use(self) -> None:
        pass

    def free_bytes(self) -> int:
        return self.capacity - self.used

    def allocate(self, size: int) -> HostMemory:
        if size > self.free_bytes():
            raise DeviceMemoryError(f"{size} bytes of {self.free_bytes()}")
        memory = HostMemory(size)
        self._live.add(memory)
        self.used_max = max(self.used_max, self.used)
        return memory

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        return np.full(size, GARBAGE, np.uint8)

    def stream(self) -> HostStream:
        self._streams.append(HostStream())
        return self._streams[-1]

    def copy_in(self, address: int, host: Array, stream: HostStream) -> None:
        self._expect_inside(address, host.nbytes)
        assert host.flags.c_contiguous
        self.copied_in += host.nbytes
        self._give_copy(stream, address, address, host.ctypes.data, host)

    def copy_out(self, host: Array, address: int, stream: HostStream) -> None:
        self._expect_inside(address, host.nbytes)
        assert host.flags.c_contiguous
        self.copied_out += host.nbytes
        self._give_copy(stream, address, host.ctypes.data, address, host)

    def _give_copy(self, stream: HostStream, address: int, to: int, source: int, host: Array) -> None:
        def copy() -> None:
            self._expect_inside(address, host.nbytes)
            ctypes.memmove(to, source, host.nbytes)

        stream.give(copy)

    def _expect_inside(self, address: int, size: int) -> None:
        assert any(m.address <= address and address + size <= m.address + m.size for m in self._live), (
            "not in memory that is held"
        )

    def launch(self, kernel: str, grid: int, block: int, arguments: Sequence[Argument], stream: HostStream) -> None:
        number = len(self.launches)
        self.launches.append(kernel)
        if self.lost_at is not None and number >= self.lost_at:
            raise DeviceLostError("cudaErrorIllegalAddress")
        if number in self.no_room_at:
            raise DeviceMemoryError("cudaErrorMemoryAllocation")
        declared = _parameters(kernel)
        assert len(arguments) == len(declared), f"{kernel}: {len(declared)} parameters, {len(arguments)} arguments"
        values = [self._value(kernel, *each) for each in zip(declared, arguments, strict=True)]
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))

        def run(_kept: Any = values) -> None:
            for argument in arguments:
                if isinstance(argument, int):
                    self._expect_inside(argument, 1)
            getattr(self._library, f"launch_{kernel}")(ctypes.c_uint(grid), ctypes.c_uint(block), addresses)

        stream.give(run)
        self.at_once_max = max(self.at_once_max, sum(bool(each.waiting) for each in self._streams))

    def _value(self, kernel: str, declared: tuple[str, npt.DTypeLike, bool], argument: Argument) -> Array:
        """The argument's own bytes, as an array of one element."""
        name, dtype, is_pointer = declared
        if not is_pointer:
            assert isinstance(argument, np.generic), f"{kernel} {name}: {argument!r}"
            assert argument.dtype == dtype, f"{kernel} {name}: {np.dtype(dtype)} expected, {argument.dtype} given"
            return np.array([argument], dtype)
        if argument is not None:
            assert isinstance(argument, int), f"{kernel} {name}: {argument!r}"
            assert argument % np.dtype(dtype).itemsize == 0, f"{kernel} {name}: not aligned"
            self._expect_inside(argument, 1)
        return np.array([argument or 0], np.uintp)

    def follow(self, stream: HostStream, after: HostStream) -> None:
        stream.give(None, after)

    def synchronize(self, stream: HostStream) -> None:
        while stream.waiting:
            ready = [each for each in self._streams if each.waiting and self._may_begin(each)]
            assert ready, "streams wait for each other"
            chosen = self._random.choice(ready)
            work, _, _ = chosen.waiting.popleft()
            if work is not None:
                work()
            chosen.done += 1
        assert all(memory.is_whole for memory in self._live), "a write beside an allocation"

    def _may_begin(self, stream: HostStream) -> bool:
        _, after, until = stream.waiting[0]
        return after is None or after.done >= until

    def release(self) -> None:
        pass
