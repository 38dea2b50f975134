"""Rules of the house that no linter knows: who imports whom, and what the core must not touch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import sep_stream

PACKAGE = Path(sep_stream.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

CORE = ("market", "convert", "metrics", "scoring", "settling")
"""In the direction of imports: each may use itself and those before it."""
CORE_LIBRARIES = {"numpy", "numba", "fastavro", "cupy"}
"""fastavro: between bytes and records in memory, for market alone. cupy: for the GPU."""
OUTSIDE = {
    "asyncio", "http", "multiprocessing", "random", "requests", "secrets", "select", "shutil", "socket", "sqlite3",
    "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
"""Of the standard library: network, processes, clocks and chance."""
FILES_MAY_BE_READ_BY = {"market/avro.py", "metrics/kernels.py"}
"""Declared schemas, and kernels, which are kept compiled: in folders that the caller names."""
OPENING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "load", "save", "fromfile", "tofile"}
CHANCE = {"uuid1", "uuid4", "default_rng", "urandom"}
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def package_of(path: Path) -> str:
    return name_of(path).split("/")[0]


CORE_MODULES = [path for path in MODULES if package_of(path) in CORE]


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Place and dotted text of all that modules call."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{name_of(path)}:{node.lineno}", ast.unparse(node.func)


def imports(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Module and dotted name of all that modules import."""
    return ((name_of(path), name) for path in paths for name in imported(path))


def last(call: str) -> str:
    return call.rpartition(".")[2]


def test_the_core_is_there() -> None:
    assert {package_of(path) for path in CORE_MODULES} == set(CORE)


def test_the_core_imports_only_itself_and_what_lies_before_it() -> None:
    for path in CORE_MODULES:
        allowed = {"errors", "threads", *CORE[: CORE.index(package_of(path)) + 1]}
        allowed |= {"files"} if name_of(path) in FILES_MAY_BE_READ_BY else set()
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("sep_stream.")}
        assert ours <= allowed, name_of(path)


def test_the_core_uses_only_arrays_and_the_standard_library() -> None:
    known = {"sep_stream", *CORE_LIBRARIES, *sys.stdlib_module_names}
    assert [found for found in imports(CORE_MODULES) if found[1].split(".")[0] not in known] == []


def test_only_market_reads_and_writes_single_records() -> None:
    users = {package_of(path) for path in CORE_MODULES if any(name.startswith("fastavro") for name in imported(path))}
    assert users == {"market"}


def test_the_core_imports_no_network_process_clock_or_chance() -> None:
    assert [found for found in imports(CORE_MODULES) if found[1].split(".")[0] in OUTSIDE] == []


def test_the_core_asks_no_clock() -> None:
    assert [found for found in calls(CORE_MODULES) if "." in found[1] and last(found[1]) in CLOCKS] == []


def test_the_core_leaves_nothing_to_chance() -> None:
    assert [f for f in calls(CORE_MODULES) if "random." in f[1] or last(f[1]) in CHANCE] == []


def test_the_core_opens_no_files() -> None:
    paths = [path for path in CORE_MODULES if name_of(path) not in FILES_MAY_BE_READ_BY]
    assert [found for found in calls(paths) if last(found[1]) in OPENING] == []


def test_the_library_prints_nothing() -> None:
    assert [found for found in calls(MODULES) if found[1] in ("print", "pprint", "pprint.pprint")] == []


def test_only_the_command_line_knows_the_command_line() -> None:
    paths = [path for path in MODULES if not name_of(path).startswith(("cli/", "__main__"))]
    assert [f for f in imports(paths) if f[1].split(".")[0] == "click" or f[1].startswith("sep_stream.cli")] == []
