"""Compiled kernels are kept in a folder; what is missing for compiling is told with its remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.metrics.kernels import KernelSource, cubin, kept
from tests.kernels.host.launch import KERNELS


def refuse() -> bytes:
    raise AssertionError("made again")


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "qfh.cubin"
    assert kept(path, lambda: b"code") == b"code"
    assert kept(path, refuse) == b"code"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" + b[1:], lambda b: b + b"\0"])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "qfh.cubin"
    kept(path, lambda: b"code" * 20)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert kept(path, lambda: b"code" * 20) == b"code" * 20
    assert path.read_bytes() == whole


def test_several_may_make_the_same_at_once(tmp_path: Path) -> None:
    path, code = tmp_path / "qfh.cubin", b"code" * 100_000
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: kept(path, lambda: code), range(40))) == {code}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyError, match=r"can't be kept in .*/file/kernels.*name another folder"):
        kept(tmp_path / "file" / "kernels" / "qfh.cubin", lambda: b"code")


def test_a_source_comes_with_its_headers() -> None:
    source = KernelSource.read(KERNELS, "qfh")
    assert source.name == "qfh.cu"
    assert {f'#include "{name}"' for name in source.headers} >= {
        line for line in source.text.splitlines() if line.startswith("#include")
    }


def test_a_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kernel qfh: .*qfh\.cu.*reinstall sep-stream"):
        KernelSource.read(tmp_path, "qfh")


def test_without_the_extra_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name == "cupy" or name.startswith("cupy.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sep-stream\[gpu\]'"):
        cubin(KERNELS, "qfh", "sm_90", tmp_path)
    assert list(tmp_path.iterdir()) == []
