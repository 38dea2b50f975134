"""The CUDA kernels, compiled for a GPU and kept: by an NVRTC call of our own.

CuPy's `RawModule(code=…)` would append `-ftz=true` to the options, and small values of a path would become zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.files import write_whole

OPTIONS: Final = ("--std=c++17", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")
"""IEEE-754 as the contract has it: no product fused with a sum, nothing flushed to zero or approximated."""

_EXTRA: Final = "pip install 'sep-stream[gpu]'"
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A .cu file and the headers that it may include. headers: by name"""

    name: str
    text: str
    headers: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, name: str) -> KernelSource:
        """`name`.cu of a folder, and the folder's .cuh files. Raises ConfigurationError where they can't be read."""
        try:
            headers = {path.name: path.read_text() for path in sorted(folder.glob("*.cuh"))}
            return cls(f"{name}.cu", (folder / f"{name}.cu").read_text(), headers)
        except OSError as error:
            raise ConfigurationError(f"kernel {name}: {error}; reinstall sep-stream") from error


def cubin(folder: Path, name: str, arch: str, cache: Path) -> bytes:
    """The cubin of `name`.cu for an architecture like "sm_90", from the cache folder or compiled and kept there.

    Raises ConfigurationError without the `gpu` extra or the kernel's source, DependencyError where NVRTC refuses or the
    cache folder can't be used.
    """
    source, nvrtc = KernelSource.read(folder, name), _nvrtc()
    key = hashlib.sha256(repr((source, arch, OPTIONS, nvrtc.getVersion())).encode()).hexdigest()
    return kept(
        cache / f"{name}-{arch}-{key[:16]}.cubin", lambda: _compiled(nvrtc, source, arch, OPTIONS, nvrtc.getCUBIN)
    )


def ptx(source: KernelSource, arch: str, options: tuple[str, ...] = OPTIONS) -> str:
    """The PTX of a kernel: what NVRTC makes of it, readable. Raises as `cubin` does."""
    nvrtc = _nvrtc()
    return _compiled(nvrtc, source, arch, options, nvrtc.getPTX).decode()


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds, else what `make` gives, which is then kept there.

    A file that was damaged is made again; several processes may do so at once. Raises DependencyError where the folder
    can't be used.
    """
    try:
        if path.exists() and (content := _verified(path.read_bytes())) is not None:
            return content
        content = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content + hashlib.sha256(content).digest())
    except OSError as error:
        raise DependencyError(
            f"compiled kernels can't be kept in {path.parent}: {error}; name another folder"
        ) from error
    return content


def _verified(stored: bytes) -> bytes | None:
    content, digest = stored[:-_DIGEST_BYTES], stored[-_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _nvrtc() -> Any:
    """CuPy's binding of NVRTC; it needs neither a GPU nor a driver."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:  # RuntimeError: CuPy without the library
        raise ConfigurationError(f"the cuda engine needs CuPy and NVRTC ({error}); {_EXTRA}") from error
    return nvrtc


def _compiled(
    nvrtc: Any, source: KernelSource, arch: str, options: tuple[str, ...], result: Callable[[Any], bytes]
) -> bytes:
    headers = [text.encode() for text in source.headers.values()]
    program = nvrtc.createProgram(source.text, source.name, headers, [name.encode() for name in source.headers])
    try:
        nvrtc.compileProgram(program, [f"-arch={arch}", *options])
        return result(program)
    except nvrtc.NVRTCError as error:
        version = ".".join(map(str, nvrtc.getVersion()))
        log = nvrtc.getProgramLog(program).strip()
        raise DependencyError(f"NVRTC {version} can't compile {source.name} for {arch}: {error}: {log}") from error
    finally:
        nvrtc.destroyProgram(program)
