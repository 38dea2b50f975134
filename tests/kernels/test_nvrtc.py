"""What NVRTC makes of the kernels, on a machine without a GPU."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from sep_stream.errors import DependencyError
from sep_stream.metrics.kernels import OPTIONS, KernelSource, cubin, ptx
from tests.kernels.host.launch import KERNELS

pytestmark = [
    pytest.mark.nvrtc,
    pytest.mark.skipif(find_spec("cupy") is None, reason="the gpu extra is not installed: uv sync --extra gpu"),
]

NAMES = sorted(path.stem for path in KERNELS.glob("*.cu"))
FUSED = re.compile(r"\bfma\.r[nzmp]\.f64\b")
FLUSHED = re.compile(r"\.ftz\b")
APPROXIMATE = re.compile(r"\b\w+\.approx\b")
DOUBLE = re.compile(r"\bmul\.r?n?\.?f64\b")


def source(name: str) -> KernelSource:
    return KernelSource.read(KERNELS, name)


def with_option(old: str, new: str) -> tuple[str, ...]:
    assert old in OPTIONS
    return tuple(new if option == old else option for option in OPTIONS)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fused_flushed_or_approximated(name: str, arch: str) -> None:
    code = ptx(source(name), arch)
    assert f".target {arch}" in code
    if name != "by_row":  # which moves values
        assert DOUBLE.search(code), "no product of doubles: not the code that was meant"
    assert not FUSED.search(code)
    assert not FLUSHED.search(code)
    assert not APPROXIMATE.search(code)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_where_products_may_be_fused_they_are_found(arch: str) -> None:
    assert FUSED.search(ptx(source("qfh"), arch, with_option("-fmad=false", "-fmad=true")))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_where_subnormals_may_be_flushed_they_are_found(arch: str) -> None:
    """In the rounding of a path's values to float32, and in the search's float32 products."""
    for name in ("qfh", "nearest"):
        assert FLUSHED.search(ptx(source(name), arch, with_option("-ftz=false", "-ftz=true")))


@pytest.mark.parametrize("name", NAMES)
def test_a_cubin_is_compiled_once_for_each_architecture(name: str, tmp_path: Path) -> None:
    first = cubin(KERNELS, name, "sm_90", tmp_path)
    assert first.startswith(b"\x7fELF")
    (path,) = tmp_path.iterdir()
    made_at = path.stat().st_mtime_ns
    assert cubin(KERNELS, name, "sm_90", tmp_path) == first
    assert path.stat().st_mtime_ns == made_at
    assert cubin(KERNELS, name, "sm_80", tmp_path) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_a_changed_header_is_another_cubin(tmp_path: Path) -> None:
    folder, cache = tmp_path / "kernels", tmp_path / "cache"
    folder.mkdir()
    for path in KERNELS.iterdir():
        (folder / path.name).write_text(path.read_text())
    cubin(folder, "qbsa", "sm_80", cache)
    header = folder / "window.cuh"
    header.write_text(header.read_text() + "// changed\n")
    cubin(folder, "qbsa", "sm_80", cache)
    assert len(list(cache.iterdir())) == 2


def test_a_gpu_that_nvrtc_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"NVRTC \d+\.\d+ can't compile qbsa\.cu for sm_7777: .*architecture"):
        cubin(KERNELS, "qbsa", "sm_7777", tmp_path)


def test_an_error_in_a_kernel_is_told_with_its_line() -> None:
    broken = KernelSource("broken.cu", 'extern "C" __global__ void broken() { x; }', {})
    with pytest.raises(DependencyError, match=r"broken\.cu\(1\): error"):
        ptx(broken, "sm_80")
