"""The declared schemas, and single records through fastavro."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from sep_stream.errors import ConfigurationError, InputError
from sep_stream.market.evolution import reading_faults
from sep_stream.market.writers import Ask, WriterSchemas, with_default_values

MAGIC: Final = 0
HEADER_BYTES: Final = 5
"""Confluent's frame: the magic byte and a 4-byte big-endian schema id."""


@dataclass(frozen=True)
class Schema:
    """raw: as declared · parsed: as fastavro wants it · schema_id: what its records are written with · also: other ids
    under which they are read"""

    name: str
    schema_id: int
    raw: Mapping[str, Any]
    parsed: Any
    also: tuple[int, ...] = ()

    @cached_property
    def reading(self) -> Any:
        """The schema in the form in which fastavro reads with it what was written with other versions."""
        return with_default_values(copy.deepcopy(self.parsed))

    @property
    def text(self) -> str:
        """As JSON, always the same."""
        return json.dumps(self.raw, separators=(",", ":"))


class Schemas:
    """The schemas of `schemas/avro` by name and by id."""

    def __init__(self, schemas: Mapping[str, Schema], writers: WriterSchemas | None = None) -> None:
        self._by_name = dict(schemas)
        self._by_record = {schema.raw["name"]: schema for schema in schemas.values()}
        self._writers = WriterSchemas() if writers is None else writers
        self._unreadable: dict[int, str] = {}
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

    def of(self, name: str) -> tuple[Mapping[str, Any], int, tuple[int, ...], WriterSchemas]:
        """(raw schema, id, other ids, writers): what a BulkCodec is made of."""
        schema = self._by_name[name]
        return schema.raw, schema.schema_id, schema.also, self._writers

    def with_ids(self, ids: Mapping[str, Sequence[int]]) -> Schemas:
        """These schemas, written with the first of the ids that a registry gave them, and read under all of them.

        They are read under their ids of before as well: what was written then is read ever after. Raises
        ConfigurationError for an id of two schemas.
        """
        return Schemas({schema.name: _renumbered(schema, ids.get(schema.name, ())) for schema in self}, self._writers)

    def with_writers(self, texts: Mapping[int, str], ask: Ask | None = None) -> Schemas:
        """These schemas, which also read what was written with other versions of them.

        texts: versions by id, which count before what an id stood for until now · ask: see WriterSchemas
        """
        return Schemas(self._by_name, self._writers.with_texts(texts, ask))

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
        schema, writer = self._read_as(schema_id)
        body = io.BytesIO(value[HEADER_BYTES:])
        try:
            record: Any = fastavro.schemaless_reader(body, writer, schema.reading)
        except Exception as error:  # fastavro raises many kinds on garbage
            raise InputError(f"the value is not an Avro {schema.name}: {type(error).__name__} {error}") from error
        if body.read(1):
            raise InputError(f"the value has bytes after its Avro {schema.name}")
        return schema.name, record

    def _read_as(self, schema_id: int) -> tuple[Schema, Any]:
        """Our schema, and the parsed one of the writer, for records with an id."""
        own = self._by_id.get(schema_id)
        if own is not None and not self._writers.is_known(schema_id):
            return own, own.parsed
        writer = self._writers.find([schema_id]).get(schema_id)
        schema = self._by_record.get(writer.record) if writer is not None else None
        if writer is None or schema is None:
            raise InputError(f"schema id {schema_id} is not one of those known here")
        if schema_id not in self._unreadable:
            faults = reading_faults(schema.raw, writer.raw)
            self._unreadable[schema_id] = "; ".join(map(str, faults))
        if self._unreadable[schema_id]:
            raise InputError(
                f"schema id {schema_id} is a {schema.name} that ours is not compatible with: "
                f"{self._unreadable[schema_id]}"
            )
        return schema, writer.parsed


def load_schemas(folder: Path) -> Schemas:
    """The schemas of a folder: NAME.avsc with the ids of ids.json, and earlier versions, earlier/NAME-ID.avsc.

    Raises ConfigurationError that names a file that is wrong.
    """
    ids: dict[str, int] = _read(folder / "ids.json")
    schemas = {name: _load(folder / f"{name}.avsc", name, schema_id) for name, schema_id in ids.items()}
    return Schemas(schemas, WriterSchemas(dict(_earlier(folder / "earlier", schemas))))


def _earlier(folder: Path, schemas: Mapping[str, Schema]) -> Iterator[tuple[int, str]]:
    """Ids and texts of the versions that records may have been written with before."""
    for path in sorted(folder.glob("*.avsc")):
        name, _, schema_id = path.stem.rpartition("-")
        if name not in schemas or not schema_id.isdecimal():
            raise ConfigurationError(f"{path}: expected NAME-ID.avsc, with a name and an earlier id of ids.json")
        if any(int(schema_id) == schema.schema_id for schema in schemas.values()):
            raise ConfigurationError(f"{path}: its id is in ids.json, too: give the newer version an id of its own")
        faults = reading_faults(schemas[name].raw, _load(path, name, int(schema_id)).raw)
        if faults:
            raise ConfigurationError(f"{path}: can't be read with {name}.avsc: {'; '.join(map(str, faults))}")
        yield int(schema_id), path.read_text()


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
