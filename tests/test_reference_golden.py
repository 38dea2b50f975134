"""The reference still gives the committed golden files, and stands on its own."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.golden import make

REFERENCE = Path(__file__).parent / "reference"


@pytest.mark.parametrize("file_name", make.DOCUMENTS)
def test_reference_gives_the_committed_file(file_name: str) -> None:
    assert make.text_of(make.DOCUMENTS[file_name]()) == (make.FOLDER / file_name).read_text()


@pytest.mark.parametrize("deadband", make.DEADBANDS)
def test_reference_gives_the_outputs_of_the_committed_events(deadband: int) -> None:
    golden = json.loads((make.FOLDER / "events.json").read_text())
    events = [make.read_event(row) for row in golden["events"]]
    assert make.event_outputs(events, deadband) == golden["outputs"][str(deadband)]


def test_golden_files_show_every_rule() -> None:
    events = json.loads((make.FOLDER / "events.json").read_text())["outputs"]["0"]
    assert {(row[0], row[2]) for row in events if row[0] == "window"} == {("window", t) for t in ("M1", "M5", "M15")}
    assert {row[0] for row in events} == {"bar", "window", "late", "duplicate", "dead"}
    assert {row[2] for row in events if row[0] == "dead"} == {
        "UNKNOWN_KIND", "BAD_TIME", "MISSING_FIELD", "NOT_POSITIVE", "PRICE_RANGE", "CROSSED", "BAD_DURATION",
        "UNALIGNED", "BAD_CANDLE", "BAD_VOLUME", "BAD_MODEL_ID", "JUMP",
    }  # fmt: skip
    signals = json.loads((make.FOLDER / "signals.json").read_text())["signals"]
    assert {s["gate_passed"] for s in signals} == {s["confirmed"] for s in signals} == {True, False}


def test_reference_imports_nothing_of_the_package() -> None:
    modules = {path.name: set(imported(path)) for path in REFERENCE.glob("*.py") if not path.name.startswith("test_")}
    assert modules
    assert not {name: found for name, found in modules.items() if "sep_stream" in found}


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
