"""The schemas that records were written with, by their ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
from fastavro.read import LOGICAL_READERS
from fastavro.schema import SchemaParseException, UnknownType

Ask = Callable[[Sequence[int]], Mapping[int, str]]
"""Returns the texts of those of the schema ids that somebody knows."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A schema that records were written with.

    raw: as its text says · parsed: as fastavro wants it · record: the name of its record without namespace; empty
    for what is no record
    """

    raw: Any
    parsed: Any
    record: str

    @classmethod
    def parse(cls, text: str) -> Writer:
        """The schema of a text. One that can't be parsed has no record, and so reads nothing."""
        try:
            raw = json.loads(text)
            parsed = fastavro.parse_schema(json.loads(text))
        except (SchemaParseException, UnknownType, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls(None, None, "")
        is_record = isinstance(parsed, dict) and parsed.get("type") == "record"
        return cls(raw, parsed, parsed["name"].rpartition(".")[2] if is_record else "")


class WriterSchemas:
    """Writers that are known, and those that are found when an id is first met.

    known: texts by id · ask: looks for ids that are not known; who asks a server bounds its requests
    """

    def __init__(self, known: Mapping[int, str] | None = None, ask: Ask | None = None) -> None:
        self._known = {schema_id: Writer.parse(text) for schema_id, text in (known or {}).items()}
        self._ask = ask

    def with_texts(self, texts: Mapping[int, str], ask: Ask | None) -> WriterSchemas:
        """These and those; a text replaces another of the same id."""
        joined = WriterSchemas(texts, ask)
        joined._known = self._known | joined._known
        return joined

    def is_known(self, schema_id: int) -> bool:
        return schema_id in self._known

    def known(self) -> Iterable[tuple[int, Writer]]:
        """The writers known so far, by id."""
        return self._known.items()

    def find(self, ids: Sequence[int]) -> dict[int, Writer]:
        """The writers of those ids that are known or can be found."""
        new = [schema_id for schema_id in ids if schema_id not in self._known]
        if new and self._ask is not None:
            self._known |= {schema_id: Writer.parse(text) for schema_id, text in self._ask(new).items()}
        return {schema_id: self._known[schema_id] for schema_id in ids if schema_id in self._known}


def with_default_values(schema: Any) -> Any:
    """A parsed schema whose defaults are what fastavro would read, changed in place.

    fastavro puts a default into a record as JSON has it: bytes and decimals as text, times as integers.
    """
    if isinstance(schema, list):
        for branch in schema:
            with_default_values(branch)
    elif isinstance(schema, dict):
        for field in schema.get("fields", ()):
            with_default_values(field["type"])
            if "default" in field:
                field["default"] = _value(field["type"], field["default"])
    return schema


def _value(kind: Any, default: Any) -> Any:
    """A default as fastavro reads a value of this type. Of a union, a default is of the first branch."""
    kind = kind[0] if isinstance(kind, list) else kind
    what = kind["type"] if isinstance(kind, dict) else kind
    value = default.encode("latin-1") if what in ("bytes", "fixed") else default
    convert = (
        LOGICAL_READERS.get(f"{what}-{kind['logicalType']}")
        if isinstance(kind, dict) and "logicalType" in kind
        else None
    )
    return value if convert is None else convert(value, kind)
