"""The declared schemas: pinned ids, and the rules that let a schema grow."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest

from sep_stream.errors import ConfigurationError, InputError
from sep_stream.market.avro import load_schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.events import Kind
from sep_stream.runtime.resources import resource
from sep_stream.runtime.topology import Topology

FOLDER = resource("schemas") / "avro"
SCHEMAS = load_schemas(FOLDER)
NAMES = [schema.name for schema in SCHEMAS]

PATTERN = {"pattern_id": "p", "instrument": "EUR/USD", "path": b"\0\0", "confidence": 0.5}


def types_in(kind: Any) -> Iterator[Any]:
    """Every named type of a schema, from the outside in."""
    if isinstance(kind, list):
        for part in kind:
            yield from types_in(part)
    elif isinstance(kind, dict):
        if "name" in kind:
            yield kind
        for field in kind.get("fields", ()):
            yield from types_in(field["type"])


def test_ids_count_from_two_to_the_thirtieth() -> None:
    """Up there they cannot collide with those that a registry gives."""
    assert [schema.schema_id for schema in SCHEMAS] == [2**30 + k for k in range(len(NAMES))]


def test_ids_stay_what_they_were() -> None:
    assert NAMES == [
        "market_event", "bar", "window", "metrics", "signal", "latest_price", "pattern", "trading_result",
        "model_manifest", "snapshot", "rejected", "gap", "requeued",
    ]  # fmt: skip


def test_every_file_has_an_id() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in FOLDER.glob("*.avsc"))


@pytest.mark.parametrize("topic", Topology.load().topics, ids=lambda topic: topic.name)
def test_every_topic_has_a_schema_for_its_values_but_that_of_what_connect_could_not_read(topic: Any) -> None:
    assert topic.value in NAMES if topic.name != "connect.dead.letters" else topic.value == ""


@pytest.mark.parametrize("name", NAMES)
def test_fastavro_parses_every_schema(name: str) -> None:
    assert fastavro.parse_schema(json.loads((FOLDER / f"{name}.avsc").read_text()))["name"].startswith("sep.market.v1.")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_namespace(name: str) -> None:
    raw = SCHEMAS[name].raw
    assert raw["namespace"] == "sep.market.v1"
    assert raw["name"] == "".join(word.capitalize() for word in name.split("_"))


@pytest.mark.parametrize("name", NAMES)
def test_every_enum_has_unknown_as_its_default(name: str) -> None:
    """Without a default, a symbol can never be added."""
    for kind in types_in(SCHEMAS[name].raw):
        if kind["type"] == "enum":
            assert kind["default"] == kind["symbols"][-1] == "UNKNOWN"


@pytest.mark.parametrize("name", NAMES)
def test_every_nullable_field_is_null_by_default(name: str) -> None:
    for kind in types_in(SCHEMAS[name].raw):
        for field in kind.get("fields", ()):
            if isinstance(field["type"], list):
                assert field["type"][0] == "null"
                assert field.get("default", "none") is None


def test_kinds_of_events_are_the_symbols_in_order() -> None:
    [kind] = [kind for kind in types_in(SCHEMAS["market_event"].raw) if kind["name"] == "EventKind"]
    assert kind["symbols"] == [member.name for member in Kind]


def test_a_record_comes_back_with_its_schemas_name() -> None:
    value = SCHEMAS.encode("pattern", PATTERN)
    assert value[:5] == b"\0" + SCHEMAS["pattern"].schema_id.to_bytes(4, "big")
    assert SCHEMAS.decode(value) == ("pattern", PATTERN)


@pytest.mark.parametrize(
    "record",
    [{}, PATTERN | {"confidence": "high"}, PATTERN | {"path": "text"}, PATTERN | {"instrument": None}],
    ids=["empty", "confidence", "path", "instrument"],
)
def test_a_record_that_does_not_fit_is_told_with_its_schema(record: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="pattern: the record does not fit its schema"):
        SCHEMAS.encode("pattern", record)


def test_a_decimal_that_does_not_fit_is_told() -> None:
    price = {"instrument": "EUR/USD", "price": Decimal("1.0000000001"), "event_time": 0}
    with pytest.raises(InputError, match="latest_price: the record does not fit its schema"):
        SCHEMAS.encode("latest_price", price)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "magic byte"),
        (b"\0\0\0", "magic byte"),
        (b"\1" + SCHEMAS.encode("pattern", PATTERN)[1:], "magic byte"),
        (b"\0\0\0\0\x2a", "schema id 42 is not one of those known"),
        (SCHEMAS.encode("pattern", PATTERN)[:-1], "is not an Avro pattern"),
        (SCHEMAS.encode("pattern", PATTERN) + b"\0", "has bytes after its Avro pattern"),
    ],
    ids=["empty", "short", "magic", "id", "cut", "more"],
)
def test_a_value_that_is_no_record_is_told(value: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        SCHEMAS.decode(value)


def test_with_other_ids_it_is_written_with_the_first_and_read_under_all() -> None:
    renumbered = SCHEMAS.with_ids({"pattern": [7, 8, 7]})
    by_id = {schema_id: b"\0" + schema_id.to_bytes(4, "big") for schema_id in (7, 8, SCHEMAS["pattern"].schema_id)}
    body = SCHEMAS.encode("pattern", PATTERN)[5:]
    assert renumbered.encode("pattern", PATTERN) == by_id[7] + body
    assert [renumbered.decode(head + body) for head in by_id.values()] == 3 * [("pattern", PATTERN)]
    assert renumbered["bar"] == SCHEMAS["bar"]


def test_what_was_written_before_is_read_however_often_ids_change() -> None:
    again = SCHEMAS.with_ids({"pattern": [7]}).with_ids({"pattern": [9]})
    assert again["pattern"].schema_id == 9
    assert set(again["pattern"].also) == {7, SCHEMAS["pattern"].schema_id}


def test_an_id_of_two_schemas_is_refused() -> None:
    taken = SCHEMAS["bar"].schema_id
    with pytest.raises(ConfigurationError, match=f"schema id {taken} is that of bar and of pattern"):
        SCHEMAS.with_ids({"pattern": [taken]})


def test_the_text_of_a_schema_is_the_schema() -> None:
    assert all(json.loads(schema.text) == schema.raw for schema in SCHEMAS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "avro"))


def test_a_missing_schema_is_named(folder: Path) -> None:
    (folder / "bar.avsc").unlink()
    with pytest.raises(ConfigurationError, match=r"bar\.avsc: not found"):
        load_schemas(folder)


@pytest.mark.parametrize("name", ["bar.avsc", "ids.json"])
def test_broken_json_is_told_with_its_file(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(ConfigurationError, match=f"{name}: not JSON"):
        load_schemas(folder)


@pytest.mark.parametrize(
    "text", ['{"type": "table"}', '{"type": "record", "name": "Bar", "fields": [{"name": "x", "type": "price"}]}']
)
def test_a_schema_that_is_none_is_told_with_its_file(folder: Path, text: str) -> None:
    (folder / "bar.avsc").write_text(text)
    with pytest.raises(ConfigurationError, match=r"bar\.avsc: not an Avro schema"):
        load_schemas(folder)


def grow_pattern(folder: Path, *fields: dict[str, Any], schema_id: int = 2**30 + 100) -> None:
    """Another version of the schema, with an id of its own; the version before is kept beside it."""
    earlier = folder / "earlier"
    earlier.mkdir()
    shutil.copy(folder / "pattern.avsc", earlier / f"pattern-{SCHEMAS['pattern'].schema_id}.avsc")
    raw = json.loads((folder / "pattern.avsc").read_text())
    (folder / "pattern.avsc").write_text(json.dumps(raw | {"fields": [*fields, *raw["fields"]]}))
    ids = json.loads((folder / "ids.json").read_text())
    (folder / "ids.json").write_text(json.dumps(ids | {"pattern": schema_id}))


GRADE = {"name": "grade", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
         "default": "\u0001\u0000"}  # fmt: skip


def test_what_was_written_with_an_earlier_version_is_read_without_a_registry(folder: Path) -> None:
    grow_pattern(folder, GRADE)
    grown = load_schemas(folder)
    values = [SCHEMAS.encode("pattern", PATTERN), grown.encode("pattern", PATTERN | {"grade": Decimal("9.5")})]
    assert values[0][:5] != values[1][:5]
    grades = [Decimal("2.56"), Decimal("9.50")]
    assert [grown.decode(value) for value in values] == [("pattern", PATTERN | {"grade": grade}) for grade in grades]
    decoded = BulkCodec(*grown.of("pattern")).decode(values)
    assert decoded.errors.tolist() == [0, 0]
    assert decoded.columns["grade"].tolist() == [256, 950]


def test_an_earlier_version_needs_an_id_of_its_own(folder: Path) -> None:
    grow_pattern(folder, GRADE, schema_id=SCHEMAS["pattern"].schema_id)
    with pytest.raises(ConfigurationError, match=r"pattern-\d+\.avsc: its id is in ids\.json, too"):
        load_schemas(folder)


def test_an_earlier_version_that_can_not_be_read_is_told_with_its_field(folder: Path) -> None:
    grow_pattern(folder, {"name": "grade", "type": "long"})
    with pytest.raises(ConfigurationError, match=r"can't be read with pattern\.avsc: field 'grade' is new and has no"):
        load_schemas(folder)


def test_a_file_that_is_no_earlier_version_is_told(folder: Path) -> None:
    (folder / "earlier").mkdir()
    (folder / "earlier" / "pattern.avsc").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"earlier/pattern\.avsc: expected NAME-ID\.avsc"):
        load_schemas(folder)


def test_a_later_version_that_ours_can_not_read_is_told_with_its_field() -> None:
    raw = json.loads(SCHEMAS["pattern"].text)
    raw["fields"][0]["type"] = "long"
    told = (
        "schema id 9 is a pattern that ours is not compatible with: field 'pattern_id' is string, and there it is long"
    )
    with pytest.raises(InputError, match=re.escape(told)):
        SCHEMAS.with_writers({9: json.dumps(raw)}).decode(b"\0\0\0\0\x09\2")


PINNED_FIELDS = {
    2**30 + 0: "7ab6721f18e6a789",
    2**30 + 1: "ebea50523f7e44d0",
    2**30 + 2: "7e4fcb2a00c8ba22",
    2**30 + 3: "0d5e8c0d8ba469e5",
    2**30 + 4: "3c62d29ad2c4a630",
    2**30 + 5: "e60eb642ffc2899b",
    2**30 + 6: "2c2828199342b54d",
    2**30 + 7: "3b149e64374be7f7",
    2**30 + 8: "b775d8070335da9c",
    2**30 + 9: "81698339602122ee",
    2**30 + 10: "e22f66f8847997e3",
    2**30 + 11: "5a9c6430507608c6",
    2**30 + 12: "d41164cf5d30aaec",
}
"""Of all that gives bytes their meaning, by pinned id."""


def test_a_pinned_id_stands_for_one_schema_for_ever() -> None:
    """Without a registry the id is all that a record says: a schema that changes needs another, see docs/stores.md."""
    texts = {schema.schema_id: schema.raw for schema in SCHEMAS}
    texts |= {int(path.stem.rpartition("-")[2]): json.loads(path.read_text()) for path in FOLDER.glob("earlier/*.avsc")}
    assert {schema_id: digest_of(raw) for schema_id, raw in sorted(texts.items())} == PINNED_FIELDS


def digest_of(raw: Any) -> str:
    return hashlib.sha256(json.dumps(without_docs(raw), sort_keys=True).encode()).hexdigest()[:16]


def without_docs(kind: Any) -> Any:
    if isinstance(kind, list):
        return [without_docs(part) for part in kind]
    if isinstance(kind, dict):
        return {key: without_docs(part) for key, part in kind.items() if key != "doc"}
    return kind
