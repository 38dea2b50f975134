"""The declared schemas, and single records through fastavro."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from sep_stream.errors import ConfigurationError, InputError

MAGIC: Final = 0
HEADER_BYTES: Final = 5
"""Confluent's frame: the magic byte and a 4-byte big-endian schema id."""


@dataclass(frozen=True, slots=True)
class Schema:
    """raw: as declared · parsed: as fastavro wants it · schema_id: what its records are written with · also: other ids
    under which they are read"""

    name: str
    schema_id: int
    raw: Mapping[str, Any]
    parsed: Any
    also: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """As JSON, always the same."""
        return json.dumps(self.raw, separators=(",", ":"))


class Schemas:
    """The schemas of `schemas/avro` by name and by id."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._by_name = dict(schemas)
        self._by_id: dict[int, Schema] = {}
        for schema in schemas.values():
            for schema_id in (schema.schema_id, *schema.also):
                other = self._by_id.setdefault(schema_id, schema)
                if other is not schema:
                    raise ConfigurationError(
                        f"schema id {schema_id} is that of {other.name} and of {schema.name}: a record with it would "
                        "be read as one or the other; use a schema registry of your own for these topics"
                    )

    def __iter__(self) -> Iterator[Schema]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Schema:
        return self._by_name[name]

    def of(self, name: str) -> tuple[Mapping[str, Any], int, tuple[int, ...]]:
        """(raw schema, id, other ids): what a BulkCodec is made of."""
        schema = self._by_name[name]
        return schema.raw, schema.schema_id, schema.also

    def with_ids(self, ids: Mapping[str, Sequence[int]]) -> Schemas:
        """These schemas, written with the first of the ids that a registry gave them, and read under all of them.

        They are read under their ids of before as well: what was written then is read ever after. Raises
        ConfigurationError for an id of two schemas.
        """
        return Schemas({schema.name: _renumbered(schema, ids.get(schema.name, ())) for schema in self})

    def encode(self, name: str, record: Mapping[str, Any]) -> bytes:
        """A framed record. Raises InputError if it does not fit the schema."""
        schema = self._by_name[name]
        out = io.BytesIO()
        out.write(bytes([MAGIC]) + schema.schema_id.to_bytes(4, "big"))
        try:
            fastavro.schemaless_writer(out, schema.parsed, record)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise InputError(f"{name}: the record does not fit its schema: {error}") from error
        return out.getvalue()

    def decode(self, value: bytes) -> tuple[str, dict[str, Any]]:
        """(schema name, record) of a framed value. Raises InputError that tells what is wrong with it."""
        if len(value) < HEADER_BYTES or value[0] != MAGIC:
            raise InputError("the value does not begin with the magic byte 0 and a 4-byte schema id")
        schema_id = int.from_bytes(value[1:HEADER_BYTES], "big")
        schema = self._by_id.get(schema_id)
        if schema is None:
            raise InputError(f"schema id {schema_id} is not one of those known here")
        body = io.BytesIO(value[HEADER_BYTES:])
        try:
            record: Any = fastavro.schemaless_reader(body, schema.parsed, None)
        except Exception as error:  # fastavro raises many kinds on garbage
            raise InputError(f"the value is not an Avro {schema.name}: {type(error).__name__} {error}") from error
        if body.read(1):
            raise InputError(f"the value has bytes after its Avro {schema.name}")
        return schema.name, record


def load_schemas(folder: Path) -> Schemas:
    """The schemas of a folder: NAME.avsc with the ids of ids.json. ConfigurationError names a file that is wrong."""
    ids: dict[str, int] = _read(folder / "ids.json")
    return Schemas({name: _load(folder / f"{name}.avsc", name, schema_id) for name, schema_id in ids.items()})


def _renumbered(schema: Schema, ids: Sequence[int]) -> Schema:
    first, *also = dict.fromkeys((*ids, schema.schema_id, *schema.also))
    return replace(schema, schema_id=first, also=tuple(also))


def _load(path: Path, name: str, schema_id: int) -> Schema:
    raw = _read(path)
    try:
        return Schema(name, schema_id, raw, fastavro.parse_schema(raw))
    except (SchemaParseException, UnknownType) as error:
        raise ConfigurationError(f"{path}: not an Avro schema: {error}") from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: not found; it belongs to the package") from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from error
