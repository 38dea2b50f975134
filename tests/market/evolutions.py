"""Random pairs of a writer's and a reader's schema that Avro resolves, and values of any schema."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import fastavro
from hypothesis import strategies as st

from tests.market.schema_values import LONG_MAX, LONG_MIN, SCHEMAS, bare

Kind = dict[str, Any]

NODE = {
    "type": "record",
    "name": "Node",
    "fields": [{"name": "v", "type": "long"}, {"name": "next", "type": ["null", "Node"]}],
}
UNKNOWN_TO_US: list[Any] = [
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", ["null", "string"],
    ["string", "null", "long", {"type": "array", "items": "int"}], {"type": "array", "items": "string"},
    {"type": "array", "items": {"type": "array", "items": ["null", "double"]}}, {"type": "array", "items": "null"},
    {"type": "map", "values": "long"}, {"type": "map", "values": {"type": "map", "values": "boolean"}},
    {"type": "fixed", "name": "Digest", "size": 5}, {"type": "enum", "name": "Side", "symbols": ["L", "R"]}, NODE,
    {"type": "record", "name": "Empty", "fields": []},
    {"type": "record", "name": "Pair", "fields": [
        {"name": "one", "type": {"type": "record", "name": "Part", "fields": [{"name": "x", "type": "string"}]}},
        {"name": "two", "type": ["null", "Part"]},
    ]},
]  # fmt: skip
"""Types of fields that only a writer has: anything that Avro can hold."""

DEFAULTS: list[tuple[Any, Any]] = [
    ("string", ""), ("string", "a€"), ("bytes", "\u00ff\u0000"), ("long", -(2**62)), ("int", 7), ("double", -0.1),
    ("float", 0.5), ("boolean", True), (["null", "string"], None),
    ({"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 9}, "\u00fe\u0001"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}, "\u0080" + 9 * "\u0001"),
    ({"type": "enum", "name": "Shade", "symbols": ["DARK", "LIGHT"]}, "LIGHT"),
    ({"type": "long", "logicalType": "timestamp-micros"}, 1),
]  # fmt: skip
"""Types of fields that only the reader has, with their defaults."""


@st.composite
def evolutions(draw: st.DrawFn, name: str) -> tuple[Kind, Kind]:
    """(writer, reader): two schemas that grew out of one of ours, the writer's readable with the reader's."""
    reader = copy.deepcopy(dict(SCHEMAS[name].raw))
    for kind, default in draw(st.lists(st.sampled_from(DEFAULTS), max_size=3, unique_by=_key)):
        place = draw(st.integers(0, len(reader["fields"])))
        new = {"name": f"new{place}_{len(reader['fields'])}", "type": kind, "default": default}
        reader["fields"].insert(place, new)
        if draw(st.booleans()):
            new["aliases"] = [f"{new['name']}_before"]
    writer = copy.deepcopy(reader)
    _change(draw, writer, 0)
    return writer, reader


def _key(pair: tuple[Any, Any]) -> str:
    return str(pair[0])


def _change(draw: st.DrawFn, record: Kind, depth: int) -> None:
    fields: list[Kind] = []
    for field in record["fields"]:
        if "default" in field and draw(st.integers(0, 3)) == 0 and not _is_defined_in(field["type"]):
            continue
        field["name"] = draw(st.sampled_from([field["name"], *field.pop("aliases", ())]))
        field["type"] = _changed(draw, field["type"], depth)
        field.pop("default", None)
        fields.append(field)
    if depth == 0:
        for k, kind in enumerate(draw(st.lists(st.sampled_from(UNKNOWN_TO_US), max_size=4, unique_by=str))):
            # A name must stand after its definition: what is added defines all that it uses.
            fields.insert(draw(st.integers(0, len(fields))), {"name": f"theirs{k}", "type": copy.deepcopy(kind)})
        if not any(map(_is_defined_in, (field["type"] for field in fields))):
            fields = draw(st.permutations(fields))
    record["fields"] = list(fields)


def _is_defined_in(kind: Any) -> bool:
    """Whether a later field may refer to a type that this one defines."""
    kinds = kind if isinstance(kind, list) else [kind]
    return any(isinstance(kind, dict) and kind["type"] in ("record", "enum") for kind in kinds)


def _changed(draw: st.DrawFn, kind: Any, depth: int) -> Any:
    if isinstance(kind, list):
        inner = _changed(draw, kind[1], depth)
        return draw(st.sampled_from([["null", inner], [inner, "null"], inner]))
    if isinstance(kind, str):
        others = {"long": ["int"], "double": ["float", "int", "long"], "float": ["int"], "string": ["bytes"],
                  "bytes": ["string"]}  # fmt: skip
        return draw(st.sampled_from([kind, *others.get(kind, ())]))
    if kind["type"] == "record":
        _change(draw, kind, depth + 1)
    elif kind["type"] == "enum" and "default" in kind:
        symbols = draw(st.permutations([*kind["symbols"], "NEWER"]))
        kind = kind | {"symbols": symbols[draw(st.integers(0, len(symbols) - 1)) :]}
        kind.pop("default")
    return kind


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of any schema, without logical types, as fastavro writes them."""
    return _Values().of(fastavro.parse_schema(bare(schema)), 0)


class _Values:
    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def of(self, kind: Any, depth: int) -> st.SearchStrategy[Any]:
        if isinstance(kind, list):
            kinds = kind[:1] if depth > 3 and kind[0] == "null" else kind
            return st.one_of(*[self._branch(branch, depth) for branch in kinds])
        if isinstance(kind, str) and kind in self._named:
            kind = self._named[kind]
        if isinstance(kind, dict) and "name" in kind:
            self._named[kind["name"]] = kind
        return self._plain(kind, kind["type"] if isinstance(kind, dict) else kind, depth)

    def _branch(self, kind: Any, depth: int) -> st.SearchStrategy[Any]:
        return self.of(kind, depth + 1)

    def _plain(self, kind: Any, what: str, depth: int) -> st.SearchStrategy[Any]:
        strategies: Mapping[str, Callable[[], st.SearchStrategy[Any]]] = {
            "null": st.none,
            "boolean": st.booleans,
            "int": lambda: st.integers(-(2**31), 2**31 - 1),
            "long": lambda: st.integers(LONG_MIN + 1, LONG_MAX),
            "float": lambda: st.floats(width=32),
            "double": st.floats,
            "bytes": lambda: st.binary(max_size=9),
            "string": lambda: st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            "fixed": lambda: st.binary(min_size=kind["size"], max_size=kind["size"]),
            "enum": lambda: st.sampled_from(kind["symbols"]),
            "array": lambda: st.lists(self.of(kind["items"], depth + 1), max_size=3),
            "map": lambda: st.dictionaries(st.text("ab", max_size=2), self.of(kind["values"], depth + 1), max_size=3),
            "record": lambda: st.fixed_dictionaries(
                {field["name"]: self.of(field["type"], depth + 1) for field in kind["fields"]}
            ),
        }
        return strategies[what]()
