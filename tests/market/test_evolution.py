"""What lets a schema grow: the field in the way is named, and what is said to be compatible is read both ways."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from fastavro.schema import UnknownType

from sep_stream.market.evolution import differences
from tests.market.schema_values import FILLED, NAMES, SCHEMAS, wire_record

Kind = dict[str, Any]


def record(*fields: Kind) -> Kind:
    return {"type": "record", "name": "R", "fields": list(fields)}


def field(kind: Any, name: str = "x", **more: Any) -> Kind:
    return {"name": name, "type": kind} | more


def decimal(precision: int, scale: int) -> Kind:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def enum(*symbols: str, **more: Any) -> Kind:
    return {"type": "enum", "name": "E", "symbols": list(symbols)} | more


NULL_OR_LONG = ["null", "long"]
LATER = field(NULL_OR_LONG, "later", default=None)
KNOTTED = {"type": "record", "name": "Node", "fields": [field(["null", "Node"], "next", default=None)]}

REFUSED: dict[str, tuple[Kind, Kind, list[str]]] = {
    "new": (record(field("long")), record(), ["field 'x' is new and has no default"]),
    "gone": (record(), record(field("long")), ["field 'x' is gone, and there it has no default"]),
    "renamed": (
        record(field("long", "y")), record(field("long")),
        ["field 'y' is new and has no default", "field 'x' is gone, and there it has no default"],
    ),
    "type": (record(field("string")), record(field("long")), ["field 'x' is string, and there it is long"]),
    "promoted one way": (record(field("long")), record(field("int")), ["field 'x' is long, and there it is int"]),
    "nullable": (
        record(field(NULL_OR_LONG)), record(field("long")), ["field 'x' is null or long, and there it is long"]
    ),
    "no longer nullable": (
        record(field("long")), record(field(NULL_OR_LONG)), ["field 'x' is long, and there it is null or long"]
    ),
    "unit of a time": (
        record(field({"type": "long", "logicalType": "timestamp-millis"})),
        record(field({"type": "long", "logicalType": "timestamp-micros"})),
        ["field 'x' is timestamp-millis, and there it is timestamp-micros"],
    ),
    "scale": (
        record(field(decimal(18, 8))), record(field(decimal(18, 9))),
        ["field 'x' is decimal(18,8), and there it is decimal(18,9)"],
    ),
    "new symbol": (
        record(field(enum("A", "B"))), record(field(enum("A"))),
        ["field 'x' newly has B, which an enum without a default can't do"],
    ),
    "inside": (
        record(field(record(field("string", "y")) | {"name": "Inner"})),
        record(field(record(field("long", "y")) | {"name": "Inner"})),
        ["field 'x.y' is string, and there it is long"],
    ),
    "inside of what may be null": (
        record(field(["null", record(field("string", "y")) | {"name": "Inner"}])),
        record(field(["null", record(field("long", "y")) | {"name": "Inner"}])),
        ["field 'x.y' is string, and there it is long"],
    ),
    "in an array": (
        record(field({"type": "array", "items": "string"})), record(field({"type": "array", "items": "long"})),
        ["field 'x[]' is string, and there it is long"],
    ),
    "in a map": (
        record(field({"type": "map", "values": "string"})), record(field({"type": "map", "values": "long"})),
        ["field 'x{}' is string, and there it is long"],
    ),
    "a named type, further on": (
        record(field(enum("A", "B"), "first"), field("E")), record(field(enum("A"), "first"), field("E")),
        [
            "field 'first' newly has B, which an enum without a default can't do",
            "field 'x' newly has B, which an enum without a default can't do",
        ],
    ),
    "another record": (record() | {"name": "S"}, record(), ["the record is S, and there it is R"]),
}  # fmt: skip
COMPATIBLE: dict[str, tuple[Kind, Kind]] = {
    "the same": (record(field(decimal(18, 9))), record(field(decimal(18, 9)))),
    "new with a default": (record(field("long"), LATER), record(field("long"))),
    "gone with a default": (record(field("long")), record(field("long"), LATER)),
    "other order": (record(field("long"), field("int", "y")), record(field("int", "y"), field("long"))),
    "other words": (record(field("long", doc="new words")), record(field("long"))),
    "new symbol, with a default": (
        record(field(enum("A", "B", "UNKNOWN", default="UNKNOWN"))),
        record(field(enum("A", "UNKNOWN", default="UNKNOWN"))),
    ),
    "a type that holds itself": (KNOTTED, copy.deepcopy(KNOTTED)),
}


@pytest.mark.parametrize(("new", "old", "told"), REFUSED.values(), ids=REFUSED)
def test_the_field_in_the_way_is_told(new: Kind, old: Kind, told: list[str]) -> None:
    assert [str(difference) for difference in differences(new, old)] == told


@pytest.mark.parametrize(("new", "old"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_what_reads_both_ways_is_compatible(new: Kind, old: Kind) -> None:
    assert differences(new, old) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_compatible_with_itself(name: str) -> None:
    raw = SCHEMAS[name].raw
    assert differences(copy.deepcopy(raw), raw) == []


def without(schema: Kind, k: int) -> Kind:
    changed = copy.deepcopy(schema)
    del changed["fields"][k]
    return changed


def with_one_more(schema: Kind, k: int) -> Kind:
    changed = copy.deepcopy(schema)
    changed["fields"].insert(k, LATER)
    return changed


def as_text(schema: Kind, k: int) -> Kind:
    changed = copy.deepcopy(schema)
    changed["fields"][k] = {"name": schema["fields"][k]["name"], "type": "string"}
    return changed


def is_whole(schema: Kind) -> bool:
    """False where the definition of a type went with a field, and others name it."""
    try:
        fastavro.parse_schema(schema)
    except UnknownType:
        return False
    return True


def read(reader: Any, writer: Any, record: Any) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, writer, record)
    out.seek(0)
    fastavro.schemaless_reader(out, writer, reader)


@pytest.mark.parametrize("change", [without, with_one_more, as_text])
@pytest.mark.parametrize("name", NAMES)
def test_fastavro_reads_with_one_what_the_other_wrote_if_they_are_compatible(
    name: str, change: Callable[[Kind, int], Kind]
) -> None:
    """One way is looked at: what the changed schema reads of a record that is there."""
    raw: Any = SCHEMAS[name].raw
    for k in range(len(raw["fields"])):
        changed = change(raw, k)
        if not is_whole(changed):
            continue
        told = differences(changed, raw)
        if not told:
            read(changed, raw, wire_record(name, FILLED[name]))
        elif change is as_text:
            assert told[0].field == raw["fields"][k]["name"]
        elif change is without:
            assert [difference.field for difference in told] == [raw["fields"][k]["name"]]
