"""How long the tests took, as recorded: what a run starts first, and what it may cost in all."""

from __future__ import annotations

import ast
import json
import platform
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

TESTS: Final = Path(__file__).parent
RECORD: Final = TESTS / "durations.json"
SLOW_S: Final = 3.0
"""A test that took longer is recorded by its name."""


@dataclass(frozen=True, slots=True)
class File:
    """What is recorded of a file: its test functions, and the seconds of all its tests, their fixtures included."""

    functions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Durations:
    """The record. slowest: seconds of single tests, by node id, the longest first"""

    measured: str
    files: dict[str, File]
    slowest: dict[str, float]

    @property
    def seconds(self) -> float:
        """All tests, one after the other."""
        return sum(file.seconds for file in self.files.values())

    @classmethod
    def load(cls) -> Durations:
        """Return the record; an empty one before the first."""
        if not RECORD.exists():
            return cls("", {}, {})
        kept = json.loads(RECORD.read_text())
        return cls(kept["measured"], {name: File(*file) for name, file in kept["files"].items()}, kept["slowest"])

    def save(self) -> None:
        files = {name: [file.functions, file.seconds] for name, file in sorted(self.files.items())}
        slowest = dict(sorted(self.slowest.items(), key=lambda test: (-test[1], test[0])))
        text = json.dumps({"measured": self.measured, "slowest": slowest, "files": files}, indent=1)
        # a file a line
        RECORD.write_text(text.replace("[\n   ", "[").replace(",\n   ", ", ").replace("\n  ]", "]") + "\n")


def functions_by_file() -> dict[str, int]:
    """Return the number of test functions by file, relative to the root."""
    return {path.relative_to(TESTS.parent).as_posix(): _functions(path) for path in TESTS.rglob("test_*.py")}


def _functions(path: Path) -> int:
    tree = ast.parse(path.read_text())
    return sum(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))


def longest_files_first(items: list[pytest.Item]) -> None:
    """Sort the tests by what their files took; those of a file that is not recorded come first."""
    seconds = {name: file.seconds for name, file in Durations.load().files.items() if file.seconds > 0}
    items.sort(key=lambda item: -seconds.get(item.nodeid.split("::")[0], 1e9))


class Recorder:
    """Plugin of the main process that replaces what is recorded of each file that ran."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.save(session.config)

    def save(self, config: pytest.Config) -> None:
        kept, functions = Durations.load(), functions_by_file()
        ran: dict[str, float] = defaultdict(float)
        for test, seconds in self._seconds.items():
            ran[test.split("::")[0]] += seconds
        every_file_ran = config.args_source == pytest.Config.ArgsSource.TESTPATHS and not _is_selection(config)
        others = dict.fromkeys(functions, 0.0) if every_file_ran else {}  # those of which all tests are slow
        seconds_by_file = others | ran
        files = kept.files | {name: File(functions[name], round(s, 1)) for name, s in seconds_by_file.items()}
        slowest = {test: s for test, s in kept.slowest.items() if test.split("::")[0] not in seconds_by_file}
        slowest |= {test: round(s, 1) for test, s in self._seconds.items() if s >= SLOW_S}
        Durations(
            measured=_described(config),
            files={name: file for name, file in files.items() if name in functions},
            slowest={test: s for test, s in slowest.items() if test.split("::")[0] in functions},
        ).save()


def _is_selection(config: pytest.Config) -> bool:
    """Return whether other tests than the usual ones were asked for, by -k or -m."""
    return bool(config.option.keyword) or config.option.markexpr != "not slow"


def _described(config: pytest.Config) -> str:
    processes: Any = config.getoption("numprocesses", None) or 1
    return f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {processes} test processes"
