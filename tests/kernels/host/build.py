"""A shared library of all kernels, built once for each content and set of flags."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from sep_stream.runtime.jars import cache_folder
from tests.kernels.host.launch import KERNELS

HOST: Final = Path(__file__).resolve().parent

EXACT: Final = ("-O2", "-ffp-contract=off")
"""Nothing is fused or reordered: what the contract wants."""
FUSED: Final = ("-O2", "-march=native", "-ffp-contract=fast")
"""Products are fused with sums wherever the CPU can."""
SANITIZED: Final = (
    "-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
)  # fmt: skip


def library(flags: tuple[str, ...]) -> Path:
    """The shared library built with these flags; skips where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine")
    command = (compiler, "-std=c++17", "-shared", "-fPIC", "-w", *flags, f"-I{KERNELS}", f"-I{HOST}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(repr((command, version)).encode())
    for path in _sources():
        key.update(path.name.encode() + path.read_bytes())
    folder = cache_folder() / "host-kernels"
    built = folder / f"{key.hexdigest()[:16]}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{built.stem}.{os.getpid()}"
        subprocess.run([*command, str(HOST / "kernels.cpp"), "-o", str(unfinished)], check=True)
        unfinished.replace(built)
    return built


def _sources() -> Iterator[Path]:
    for folder, patterns in ((KERNELS, ("*.cu", "*.cuh")), (HOST, ("*.cpp", "*.h"))):
        for pattern in patterns:
            yield from sorted(folder.glob(pattern))
