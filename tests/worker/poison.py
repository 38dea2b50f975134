"""Records that their schema lets through although no stage makes them: each field of a good one, taken to extremes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from tests.worker.harness import SCHEMAS

Record = dict[str, Any]
LONG_TEXT = "x" * 70_000
WORDS = (
    "",
    LONG_TEXT,
    "EUR/USD",
    "USD/JPY",
    "XXX/YYY",
    "\0",
    "ü€😀",
    "[]",
    "[1]",
    "{}",
    "null",
    "[" * 3_000,
    "zz",
    "ab" * 32,
)
HOUR_MS = 3_600_000
NINE_PLACES = Decimal("0.000000001")


def poisoned(name: str, good: Record) -> Iterator[tuple[str, bytes]]:
    """Records of a schema, each with what was changed in it."""
    for field, changed in _records(SCHEMAS[name].raw, good, {}, ""):
        yield field, SCHEMAS.encode(name, changed)


def odd_keys(good: bytes) -> list[bytes | None]:
    return [None, b"", b"\xff\xfe", b"XXX/YYY", good + b"|M1", b"GBP/USD", b"k" * 70_000]


def odd_values(good: bytes) -> list[bytes | None]:
    return [None, b"", good[:-1], good + b"\0", b"\1" + good[1:], b"\0\0\0\0\7" + good[5:], good[:5] + b"\xff" * 40]


def _records(schema: Mapping[str, Any], good: Record, named: dict[str, Any], path: str) -> Iterator[tuple[str, Record]]:
    """Whole records, or nested ones, with one field changed."""
    for field in schema["fields"]:
        name = field["name"]
        for told, value in _values(field["type"], good[name], named, f"{path}{name}"):
            yield told, {**good, name: value}


def _values(kind: Any, good: Any, named: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(kind, list):
        yield f"{path}=null", None
        kind = kind[1]
    if isinstance(kind, str) and "." in kind:
        kind = named[kind.rpartition(".")[2]]
    what = kind if isinstance(kind, str) else kind["type"]
    if what == "record":
        named[kind["name"]] = kind
        if good is not None:
            yield from _records(kind, good, named, f"{path}.")
        return
    for value in _extremes(what, kind, good):
        yield f"{path}={str(value)[:40]}", value


def _extremes(what: str, kind: Any, good: Any) -> list[Any]:
    if isinstance(kind, dict) and kind.get("logicalType") == "decimal":
        largest = Decimal(10 ** kind["precision"] - 1) * NINE_PLACES
        return [largest, -largest, Decimal(0), NINE_PLACES, -NINE_PLACES, b"\x7f" + b"\xff" * 8, b"\x80" + b"\0" * 20]
    if isinstance(kind, dict) and str(kind.get("logicalType", "")).startswith("timestamp"):
        per_hour = HOUR_MS * (1_000 if kind["logicalType"] == "timestamp-micros" else 1)
        now = int(good.timestamp() * per_hour / 3_600)
        return [0, -1, 1, 2**63 - 1, -(2**63), now + 1, now + per_hour, now - per_hour, now + 200 * per_hour, now * 10]
    if what == "enum":
        return list(kind["symbols"])
    extremes: dict[str, list[Any]] = {
        "int": [0, -1, 1, 2**31 - 1, -(2**31)],
        "long": [0, -1, 1, 2**63 - 1, -(2**63), 2**62],
        "double": [float("nan"), float("inf"), float("-inf"), 1.7e308, -1.7e308, 0.0, -1.0, 2.0, 5e-324],
        "boolean": [True, False],
        "string": list(WORDS),
    }
    if what != "bytes":
        return extremes[what]
    size, noise = len(good), random.Random(1).randbytes
    return [
        b"",
        bytes(size),
        b"\xff" * size,
        b"\x7f" * size,
        b"\x80" * size,
        noise(size),
        good[:-1],
        good + b"\0",
        noise(70_000),
    ]
