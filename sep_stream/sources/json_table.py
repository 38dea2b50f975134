"""Candle JSON as tables of text: numbers keep the digits that they are written with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.instruments import Instruments
from sep_stream.sources.formats import PLACE
from sep_stream.sources.table import TABLE_ROWS_MAX, Column, Note, Table

FILE_BYTES_MAX: Final = 256 * 1024 * 1024
"""The file is loaded whole, at some ten times its size."""
GRANULARITY: Final = "M1"

_PRICES: Final = ("open", "high", "low", "close")
_GROUPS: Final = ("mid", "bid", "ask")
_Path = tuple[str, ...]


def json_tables(path: Path, instruments: Instruments, position: int, note: Note) -> Iterator[Table]:
    """Tables of the candles of a list, or of OANDA's {"candles": […]}.

    Candles hold open, high, low, close, or groups mid, bid, ask of o, h, l, c. From bid and ask without mid come the
    columns bid.open … ask.close; from both, also `bid` and `ask` at the close. A candle that is not `complete` is left
    out, which the note tells. Raises InputError where the file, or what it says of itself, is something else.
    """
    document = _load(path)
    if isinstance(document, dict):
        _check_header(path, document, instruments, position)
        document = document.get("candles")
    if not isinstance(document, list):
        raise InputError(f'{path}: expected a list of candles, or an object with a list "candles"')
    for number, candle in enumerate(document, 1):
        if not isinstance(candle, dict):
            raise InputError(f"{path}: candle {number}: expected an object, got {candle!r:.60}")
    numbers = np.array([k for k, candle in enumerate(document) if candle.get("complete", True) is not False], np.int64)
    if len(numbers) < len(document):
        note(f"{path}: {len(document) - len(numbers)} candles are not complete yet and left out")
    fields = _fields(document[numbers[0]]) if len(numbers) else {}
    for first in range(0, len(numbers), TABLE_ROWS_MAX):
        rows = numbers[first : first + TABLE_ROWS_MAX]
        candles = [document[k] for k in rows.tolist()]
        columns = {name: _column(path, rows, candles, keys, name == "volume") for name, keys in fields.items()}
        yield Table(path, PLACE["json"], rows + 1, columns)


def _load(path: Path) -> Any:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise InputError(f"{path}: JSON of over {FILE_BYTES_MAX >> 20} MiB is not read; give it as CSV or Parquet")
    try:
        return json.loads(path.read_bytes(), parse_float=str, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def _check_header(path: Path, document: dict[str, Any], instruments: Instruments, position: int) -> None:
    granularity, name = document.get("granularity", GRANULARITY), document.get("instrument")
    if granularity != GRANULARITY:
        raise InputError(
            f"{path}: field 'granularity': expected {GRANULARITY}, one-minute candles, got {granularity!r}"
        )
    if name is not None and instruments.position(str(name)) != position:
        raise InputError(
            f"{path}: field 'instrument': expected {instruments[position].symbol}, as asked for, got {name!r}"
        )


def _fields(candle: dict[str, Any]) -> dict[str, _Path]:
    """Where the columns lie in a candle, by the first one's shape."""
    fields: dict[str, _Path] = {"time": ("time",)}
    if "time" not in candle and "timestamp" in candle:
        fields["time"] = ("timestamp",)
    groups = [group for group in _GROUPS if isinstance(candle.get(group), dict)]
    if "mid" in groups or len(groups) == 1:
        fields |= {name: (groups[0], name[0]) for name in _PRICES}
    elif groups:
        fields |= {f"{group}.{name}": (group, name[0]) for group in groups for name in _PRICES}
    else:
        fields |= {name: (name,) for name in _PRICES}
    if "bid" in groups and "ask" in groups:
        fields |= {group: (group, "c") for group in ("bid", "ask")}
    if "volume" in candle:
        fields["volume"] = ("volume",)
    return fields


def _column(path: Path, rows: Any, candles: Sequence[dict[str, Any]], keys: _Path, nullable: bool) -> Column:
    texts: list[bytes | None] = []
    for row, candle in enumerate(candles):
        value: Any = candle
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str) and not (value is None and nullable):
            found = "nothing" if value is None else f"{value!r:.60}"
            raise InputError(f"{path}: candle {rows[row] + 1}: field {'.'.join(keys)!r}: expected a value, got {found}")
        texts.append(None if value is None else value.encode(errors="replace"))
    return Column(".".join(keys), VarColumn.from_list(texts))
