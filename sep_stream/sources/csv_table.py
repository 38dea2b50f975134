"""Comma-separated files as tables of text, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numba as nb
import numpy as np

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.sources.formats import PLACE
from sep_stream.sources.table import TABLE_ROWS_MAX, Column, Table

CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Read at once; a longer line is an error."""

_NEWLINE, _RETURN, _COMMA, _QUOTE = (ord(c) for c in '\n\r,"')


def read_header(path: Path, file: BinaryIO) -> tuple[str, ...]:
    """The column names in the first line. InputError where that can't be names."""
    try:
        text = file.readline(CHUNK_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line 1: expected a header of column names, got bytes that are not UTF-8") from error
    return tuple(name.strip().strip('"').strip() for name in text.strip().split(","))


def csv_tables(path: Path, names: Sequence[str], wanted: Mapping[str, int], file: BinaryIO) -> Iterator[Table]:
    """Tables of at most TABLE_ROWS_MAX rows; the file stands behind its header.

    names: the header · wanted: column numbers by the name of the event's field. Quotes around a field are dropped and
    blank lines passed over. Raises InputError for a line with another number of fields than the header.
    """
    slot = np.full(len(names), -1, np.int64)
    slot[list(wanted.values())] = np.arange(len(wanted))
    labels = {name: names[number] for name, number in wanted.items()}
    line, rest = 2, b""
    while True:
        chunk = file.read(CHUNK_BYTES)
        text = rest + chunk
        if not chunk and text:
            text += b"\n"
        whole = text.rfind(b"\n") + 1
        if not whole and len(text) > CHUNK_BYTES:
            raise InputError(f"{path}: line {line}: longer than {CHUNK_BYTES} bytes; expected a CSV file")
        at, data = 0, np.frombuffer(text, np.uint8, whole)
        while at < whole:
            table, at, line, fields = _table(path, labels, slot, data, at, line)
            if len(table):
                yield table
            if fields:
                raise InputError(f"{path}: line {line}: expected {len(names)} fields as in line 1, got {fields}")
        rest = text[whole:]
        if not chunk:
            return


def _table(
    path: Path, labels: Mapping[str, str], slot: Any, data: Any, at: int, line: int
) -> tuple[Table, int, int, int]:
    """The rows from position `at` on, the position and line after them, and the fields of a line that has too many or
    too few (0: none)."""
    start = np.empty((len(labels), TABLE_ROWS_MAX), np.int64)
    length = np.empty((len(labels), TABLE_ROWS_MAX), np.int32)
    lines = np.empty(TABLE_ROWS_MAX, np.int64)
    rows, at, line, fields = _split(data, at, line, slot, start, length, lines)
    columns = {
        name: Column(label, VarColumn(data, start[k, :rows], length[k, :rows]))
        for k, (name, label) in enumerate(labels.items())
    }
    return Table(path, PLACE["csv"], lines[:rows], columns), at, line, fields


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _split(data: Any, p: int, line: int, slot: Any, start: Any, length: Any, lines: Any) -> Any:
    """(rows, next position, next line, fields); data ends with a newline."""
    row, end = 0, len(data)
    while p < end and row < len(lines):
        if data[p] == _NEWLINE or (data[p] == _RETURN and data[p + 1] == _NEWLINE):
            p += 1 if data[p] == _NEWLINE else 2
            line += 1
            continue
        fields, p = _split_line(data, p, slot, row, start, length)
        if fields != len(slot):
            return row, p, line, fields
        lines[row] = line
        line += 1
        row += 1
    return row, p, line, 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _split_line(data: Any, p: int, slot: Any, row: int, start: Any, length: Any) -> Any:
    """(number of fields, position of the next line)."""
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
                return field, begin
        p += 1
