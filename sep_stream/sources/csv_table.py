"""Comma-separated files as tables of text, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.sources.table import TABLE_ROWS_MAX, Column, Note, Table

CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Read at once; a longer line is an error."""

_NEWLINE, _RETURN, _COMMA, _QUOTE = (ord(c) for c in '\n\r,"')


@dataclass(frozen=True, slots=True)
class Header:
    """names: of all columns, as the file has them"""

    names: tuple[str, ...]


def read_header(path: Path, file: BinaryIO) -> Header:
    """The names in the first line. InputError where that can't be names."""
    line = file.readline(CHUNK_BYTES)
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line 1: expected a header of column names, got bytes that are not UTF-8") from error
    names = tuple(name.strip().strip('"').strip() for name in text.strip().split(","))
    if not any(names):
        raise InputError(f"{path}: line 1: expected a header of column names, got an empty line")
    return Header(names)


def csv_tables(path: Path, wanted: Mapping[str, int], header: Header, file: BinaryIO) -> Iterator[Table]:
    """Tables of at most TABLE_ROWS_MAX rows; the file stands behind its header.

    wanted: column numbers by the name of the event's field. Quotes around a field are dropped and blank lines passed
    over. Raises InputError for a line with another number of fields than the header.
    """
    fields = list(wanted)
    slot = np.full(len(header.names), -1, np.int64)
    slot[list(wanted.values())] = np.arange(len(fields))
    line, rest = 2, b""
    while True:
        chunk = file.read(CHUNK_BYTES)
        text = rest + chunk
        if not chunk and text:
            text += b"\n"
        whole = text.rfind(b"\n") + 1
        if not whole and len(text) > CHUNK_BYTES:
            raise InputError(f"{path}: line {line}: longer than {CHUNK_BYTES} bytes; expected a CSV file")
        data = np.frombuffer(text, np.uint8, whole)
        at = 0
        while at < whole:
            start = np.empty((len(fields), TABLE_ROWS_MAX), np.int64)
            length = np.empty((len(fields), TABLE_ROWS_MAX), np.int32)
            lines = np.empty(TABLE_ROWS_MAX, np.int64)
            rows, at, line, count = _split(data, at, line, slot, start, length, lines)
            if rows:
                columns = {
                    name: Column(header.names[wanted[name]], VarColumn(data, start[k, :rows], length[k, :rows]))
                    for k, name in enumerate(fields)
                }
                yield Table(path, "line", lines[:rows], columns)
            if count:
                raise InputError(f"{path}: line {line}: expected {len(header.names)} fields as in line 1, got {count}")
        rest = text[whole:]
        if not chunk:
            return


def note_unused(path: Path, header: Header, wanted: Mapping[str, int], known: frozenset[str], note: Note) -> None:
    """Tell which columns are not read, but for those known to carry nothing an event holds."""
    unused = [
        name
        for k, name in enumerate(header.names)
        if k not in wanted.values() and name.lower() not in known
    ]
    if unused:
        note(f"{path}: columns not read: {', '.join(map(repr, unused))}")


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _split(
    data: Any, p: int, line: int, slot: Any, start: Any, length: Any, lines: Any
) -> Any:
    """(rows, next position, next line, fields): fields is not 0 where a line has a wrong number of them."""
    row, end = 0, len(data)
    while p < end and row < len(lines):
        if data[p] == _NEWLINE or (data[p] == _RETURN and data[p + 1] == _NEWLINE):
            p += 1 if data[p] == _NEWLINE else 2
            line += 1
            continue
        field, begin, quoted = 0, p, False
        while True:
            byte = data[p]
            if byte == _QUOTE:
                quoted = not quoted
            elif byte == _NEWLINE or (byte == _COMMA and not quoted):
                if field < len(slot) and slot[field] >= 0:
                    a, b = begin, p
                    if byte == _NEWLINE and b > a and data[b - 1] == _RETURN:
                        b -= 1
                    if b - a >= 2 and data[a] == _QUOTE and data[b - 1] == _QUOTE:
                        a, b = a + 1, b - 1
                    start[slot[field], row] = a
                    length[slot[field], row] = b - a
                field += 1
                begin = p + 1
                if byte == _NEWLINE:
                    break
            p += 1
        p += 1
        if field != len(slot):
            return row, p, line, field
        lines[row] = line
        line += 1
        row += 1
    return row, p, line, 0
