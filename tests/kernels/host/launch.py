"""Launches of the host build: the arguments of a kernel, in its order, checked against its declaration.

Imports nothing that is slow to load: the sanitized build runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

KERNELS: Final = Path(__file__).resolve().parents[3] / "kernels"

DTYPES: Final = {
    "u64": np.uint64, "i64": np.int64, "int": np.int32, "double": np.float64, "float": np.float32, "u8": np.uint8,
}  # fmt: skip
_DECLARED: Final = re.compile(r'extern "C" __global__ void (\w+)\((.*?)\)', re.DOTALL)
_PARAMETER: Final = re.compile(r"(const )?(\w+)(\* __restrict__)? (\w+)")

Array = npt.NDArray[Any]
Argument = Array | float | None
"""An array is handed over by its address, None is a null pointer."""


def parameters(kernel: str) -> list[tuple[str, npt.DTypeLike, bool]]:
    """Name, dtype and whether it is a pointer, of each parameter of a kernel."""
    for path in sorted(KERNELS.glob("*.cu")):
        for name, declared in _DECLARED.findall(path.read_text()):
            if name == kernel:
                return [_parameter(part) for part in " ".join(declared.split()).split(", ")]
    raise KeyError(kernel)


def _parameter(declared: str) -> tuple[str, npt.DTypeLike, bool]:
    match = _PARAMETER.fullmatch(declared)
    assert match, declared
    return match[4], DTYPES[match[2]], match[3] is not None


class Launcher:
    """The kernels of a host library, in this process."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def __call__(self, kernel: str, grid: int, block: int, *args: Argument) -> None:
        declared = parameters(kernel)
        assert len(args) == len(declared), f"{kernel}: {len(declared)} parameters, {len(args)} arguments"
        values = [_value(name, dtype, pointer, arg) for (name, dtype, pointer), arg in zip(declared, args, strict=True)]
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        getattr(self._library, f"launch_{kernel}")(ctypes.c_uint(grid), ctypes.c_uint(block), addresses)


def _value(name: str, dtype: npt.DTypeLike, pointer: bool, arg: Argument) -> Array:
    """The argument's own bytes, as an array of one element."""
    if not pointer:
        assert not isinstance(arg, np.ndarray), name
        assert arg is not None, name
        return np.array([arg], dtype)
    if arg is None:
        return np.zeros(1, np.uintp)
    assert isinstance(arg, np.ndarray), name
    assert arg.dtype == dtype, f"{name}: {np.dtype(dtype)} expected, {arg.dtype} given"
    assert arg.flags.c_contiguous, name
    return np.array([arg.ctypes.data], np.uintp)
