"""Whether two versions of a schema read each other's records, and which field is in the way where they don't."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final

_PROMOTED: Final = {
    ("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double"),
    ("string", "bytes"),
}  # fmt: skip
"""(written, read): what Avro reads as another type; bytes as a string it reads only if they happen to be UTF-8."""
_NAMED: Final = ("record", "enum", "fixed")
_ATTRIBUTES: Final = ("logicalType", "precision", "scale", "size")
"""What gives the same bytes another meaning: Avro's own rules look at the size of a fixed alone."""


@dataclass(frozen=True, slots=True)
class Difference:
    """field: its path in the record; empty: the record itself."""

    field: str
    told: str

    def __str__(self) -> str:
        return f"field {self.field!r} {self.told}" if self.field else f"the record {self.told}"


def differences(new: Any, old: Any) -> list[Difference]:
    """Why records of one can't be read with the other, either way: Avro's FULL compatibility. Empty: they can.

    new, old: schemas as parsed from JSON.
    """
    backward = _Reading(new, old, is_new=True).faults(new, old)
    forward = _Reading(old, new, is_new=False).faults(old, new)
    return list(dict.fromkeys((*backward, *forward)))


def reading_faults(reader: Any, writer: Any) -> list[Difference]:
    """Why records of the writer's schema can't be read with the reader's. Empty: they can.

    Bytes are read as a string, too: a record whose bytes are not UTF-8 is malformed by itself.
    """
    return _Reading(reader, writer, is_new=True, promoted=_PROMOTED | {("bytes", "string")}).faults(reader, writer)


class _Reading:
    """Records of one schema read with another. is_new: the reader is the newer one"""

    def __init__(self, reader: Any, writer: Any, is_new: bool, promoted: Set[tuple[str, str]] = _PROMOTED) -> None:
        self._reader_types, self._writer_types = _named_types(reader), _named_types(writer)
        self._is_new, self._promoted = is_new, promoted

    def faults(self, reader: Any, writer: Any, path: str = "", within: tuple[Any, ...] = ()) -> list[Difference]:
        """within: the pairs of named types around it, so that a type that holds itself comes to an end"""
        reader, writer = self._reader_types.get(_key(reader), reader), self._writer_types.get(_key(writer), writer)
        if (id(reader), id(writer)) in within:
            return []
        within = (*within, (id(reader), id(writer)))
        if isinstance(writer, list):
            found = [fault for branch in writer for fault in self.faults(reader, branch, path, within)]
            return [self._changed(reader, writer, path)] if any(fault.field == path for fault in found) else found
        if isinstance(reader, list):
            return self._branches(reader, writer, path, within)
        if _attributes(reader) == _attributes(writer):
            if _type(reader) == _type(writer):
                return self._inside(reader, writer, path, within)
            if (_type(writer), _type(reader)) in self._promoted:
                return []
        return [self._changed(reader, writer, path)]

    def _branches(self, reader: list[Any], writer: Any, path: str, within: tuple[Any, ...]) -> list[Difference]:
        """Of the branch that has the writer's type, so that the field in the way is told, else of any."""
        kinds = [self._reader_types.get(_key(branch), branch) for branch in reader]
        same = [kind for kind in kinds if _type(kind) == _type(writer) and _short_name(kind) == _short_name(writer)]
        found = [self.faults(kind, writer, path, within) for kind in same or kinds]
        if all(found):
            return found[0] if same else [self._changed(reader, writer, path)]
        return []

    def _inside(self, reader: Any, writer: Any, path: str, within: tuple[Any, ...]) -> list[Difference]:
        """Of two of the same type."""
        if _short_name(reader) != _short_name(writer):
            return [self._changed(reader, writer, path)]
        match _type(reader):
            case "record":
                return self._fields(reader, writer, path, within)
            case "enum":
                return self._symbols(reader, writer, path)
            case "array":
                return self.faults(reader["items"], writer["items"], f"{path}[]", within)
            case "map":
                return self.faults(reader["values"], writer["values"], f"{path}{{}}", within)
        return []

    def _fields(self, reader: Any, writer: Any, path: str, within: tuple[Any, ...]) -> list[Difference]:
        written = {field["name"]: field for field in writer["fields"]}
        found = []
        for field in reader["fields"]:
            inner = f"{path}.{field['name']}".lstrip(".")
            name = next((name for name in (field["name"], *field.get("aliases", ())) if name in written), None)
            if name is not None:
                found += self.faults(field["type"], written[name]["type"], inner, within)
            elif "default" not in field:
                told = "is new and has no default" if self._is_new else "is gone, and there it has no default"
                found.append(Difference(inner, told))
        return found

    def _symbols(self, reader: Any, writer: Any, path: str) -> list[Difference]:
        unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        if not unknown or "default" in reader:
            return []
        change = "no longer has" if self._is_new else "newly has"
        return [Difference(path, f"{change} {', '.join(unknown)}, which an enum without a default can't do")]

    def _changed(self, reader: Any, writer: Any, path: str) -> Difference:
        new, old = (reader, writer) if self._is_new else (writer, reader)
        return Difference(path, f"is {_told(new)}, and there it is {_told(old)}")


def _named_types(schema: Any) -> dict[str, Any]:
    """Every named type of a schema, by its names with and without namespace."""
    found: dict[str, Any] = {}
    waiting = [(schema, "")]
    while waiting:
        kind, namespace = waiting.pop()
        if isinstance(kind, list):
            waiting += [(branch, namespace) for branch in kind]
        elif isinstance(kind, dict):
            namespace = kind.get("namespace", namespace)
            if kind.get("type") in _NAMED:
                found[_short_name(kind)] = found[f"{namespace}.{_short_name(kind)}"] = kind
            waiting += [(field["type"], namespace) for field in kind.get("fields", ())]
            waiting += [(kind[part], namespace) for part in ("type", "items", "values") if part in kind]
    return found


def _key(kind: Any) -> str:
    return kind if isinstance(kind, str) else ""


def _type(kind: Any) -> str:
    inner = kind["type"] if isinstance(kind, dict) else kind
    return inner if isinstance(inner, str) else _type(inner)


def _short_name(kind: Any) -> str:
    """Empty for a type without a name. Avro compares names without namespaces."""
    return str(kind.get("name", "")).rpartition(".")[2] if isinstance(kind, dict) else ""


def _attributes(kind: Any) -> tuple[Any, ...]:
    """A decimal's scale is 0 where it is left out."""
    if not isinstance(kind, dict):
        return (None,) * len(_ATTRIBUTES)
    implied = {"scale": 0} if kind.get("logicalType") == "decimal" else {}
    return tuple((implied | dict(kind)).get(name) for name in _ATTRIBUTES)


def _told(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(map(_told, kind))
    if not isinstance(kind, dict):
        return str(kind)
    if kind.get("logicalType") == "decimal":
        return f"decimal({kind.get('precision')},{kind.get('scale', 0)})"
    return str(kind.get("logicalType") or kind.get("name") or _type(kind))
