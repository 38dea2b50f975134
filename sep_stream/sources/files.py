"""`read_events`: the candles or quotes of a file as event batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.events import NULL, EventBatch, Kind
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import DURATION_S, MINUTE_US, US_PER_S
from sep_stream.sources.csv_table import csv_tables, read_header
from sep_stream.sources.formats import FORMATS, PLACE
from sep_stream.sources.json_table import json_tables
from sep_stream.sources.table import Note, Table

SOURCE_PREFIX: Final = "file:"
GRANULARITY_ROWS_MIN: Final = 30
"""From so many candles on, times that are all multiples of a longer duration apart are taken for one: that minutes are
missing so by chance has a probability of 2^-29."""

_PRICES: Final = ("open", "high", "low", "close")
_TIME_NAMES: Final = ("time", "timestamp")
_HEAD_BYTES: Final = 512
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Shape:
    """Columns of a kind of file. unused: may be there and carry nothing that an event holds."""

    kind: Kind
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


_SHAPES: Final = {
    "candle": _Shape(Kind.BAR, _PRICES, ("volume",)),
    "quote": _Shape(Kind.QUOTE, ("bid", "ask"), (), ("bid_size", "ask_size")),
}


def ignore(note: str) -> None:
    """Takes a note and does nothing."""


def read_events(
    path: Path,
    instruments: Instruments,
    instrument: str,
    *,
    format: str | None = None,  # noqa: A002 - the flag's name
    assume_utc: bool = False,
    note: Note = ignore,
) -> Iterator[EventBatch]:
    """The events of a file in batches of bounded size.

    instrument: symbol or alias · format: one of FORMATS; left out, it is told from the content
    assume_utc: a time without a zone is UTC, else it is an error · note: told of columns and candles not read

    Source is "file:NAME", sequence and offset are the row's line (CSV) or number (JSON, Parquet): publishing a file
    again is recognised. Prices are exact; one with more than 9 decimals is rounded to the tick size from its text, as
    the contract rounds prices off the grid. Sizes of quotes are no volume. A candle's prices are its own or its mid's;
    those of bid and ask alone are halved as a quote's; with both, the candle tells the spread at its close.

    Raises InputError that names file, line and field for what can't be read exactly, and for times that go back.
    """
    position = instruments.position(instrument)
    last_us, rows = NULL, 0
    for table, shape in _tables(path, instruments, position, format, assume_utc, note):
        batch = _batch(table, shape, position, int(instruments.tick_units[position]), assume_utc)
        _check_order(table, batch.event_time, last_us)
        if rows == 0 and shape.kind == Kind.BAR:
            _check_granularity(table, batch.event_time)
        last_us = int(batch.event_time[-1])
        rows += len(batch)
        yield batch
    if rows == 0:
        note(f"{path}: holds no candles or quotes")


def read_files(
    paths: Sequence[Path],
    instruments: Instruments,
    instrument: str,
    *,
    format: str | None = None,  # noqa: A002
    assume_utc: bool = False,
    note: Note = ignore,
) -> Iterator[tuple[Path, EventBatch]]:
    """The events of several files of one instrument, which must follow each other in time, each batch with its file.

    Files that cover the same time, such as one of bid and one of ask candles, are not merged: choose one. Raises
    InputError before the first batch where a file begins no later than the one before it, and when a file begins
    before the one before it has ended; otherwise as `read_events`.
    """
    options: dict[str, Any] = {"format": format, "assume_utc": assume_utc}
    if len(paths) > 1:
        _check_begins(paths, instruments, instrument, options)
    last_us = NULL
    for path in paths:
        for batch in read_events(path, instruments, instrument, note=note, **options):
            if batch.event_time[0] < last_us:
                raise _overlap(path, int(batch.event_time[0]), f"the file before it ends at {_iso(last_us)}")
            yield path, batch
            last_us = int(batch.event_time[-1])


def place_in(path: Path, format: str | None = None) -> str:  # noqa: A002
    """What a position in the file is called: `line`, `candle` or `row`."""
    return PLACE.get(_container(path, format)[1], "row")


def _check_begins(paths: Sequence[Path], instruments: Instruments, instrument: str, options: Mapping[str, Any]) -> None:
    last_us = NULL
    for path in paths:
        first = next(read_events(path, instruments, instrument, **options), None)
        if first is None:
            continue
        begin_us = int(first.event_time[0])
        if begin_us <= last_us:
            raise _overlap(path, begin_us, f"the file before it at {_iso(last_us)}")
        last_us = begin_us


def _overlap(path: Path, begin_us: int, other: str) -> InputError:
    return InputError(
        f"{path}: begins at {_iso(begin_us)}, {other}; give files in time order, and one of several that cover "
        "the same time (bid and ask are not merged)"
    )


def _tables(
    path: Path, instruments: Instruments, position: int, format_: str | None, assume_utc: bool, note: Note
) -> Iterator[tuple[Table, _Shape]]:
    forced, container = _container(path, format_)
    if container == "bi5":
        raise InputError(f"{path}: Dukascopy's .bi5 is not supported; give candles or quotes as CSV, JSON or Parquet")
    if container == "json":
        for table in json_tables(path, instruments, position, note):
            yield table, _SHAPES["candle"]
    elif container == "parquet":
        from sep_stream.sources.parquet_table import open_parquet, parquet_tables

        file = open_parquet(path)
        names = tuple(file.schema_arrow.names)
        shape, wanted = _choose(path, "its columns", names, forced, note)
        for table in parquet_tables(path, file, {name: names[k] for name, k in wanted.items()}, assume_utc):
            yield table, shape
    else:
        with path.open("rb") as stream:
            names = read_header(path, stream)
            shape, wanted = _choose(path, "line 1", names, forced, note)
            for table in csv_tables(path, names, wanted, stream):
                yield table, shape


def _container(path: Path, format_: str | None) -> tuple[str | None, str]:
    """What the rows are, if that is forced, and what they are packed in."""
    if format_ is not None and format_ not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format_!r}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(_BOM).lstrip()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if format_ is not None:
        rows, _, container = format_.rpartition("-")
        return rows or None, container
    if head.startswith(b"PAR1"):
        return None, "parquet"
    if head[:1] in (b"[", b"{"):
        return None, "json"
    return None, "bi5" if path.suffix == ".bi5" else "csv"


def _choose(
    path: Path, place: str, names: Sequence[str], forced: str | None, note: Note
) -> tuple[_Shape, dict[str, int]]:
    """The shape that these column names make, and the columns' numbers by field."""
    numbers = {name.strip().lower(): k for k, name in reversed(list(enumerate(names)))}
    time = next((numbers[name] for name in _TIME_NAMES if name in numbers), None)
    for rows, shape in _SHAPES.items():
        if forced in (None, rows) and time is not None and all(name in numbers for name in shape.required):
            fields = (*shape.required, *(name for name in shape.optional if name in numbers))
            wanted = {"time": time} | {name: numbers[name] for name in fields}
            unread = [name for k, name in enumerate(names) if k not in wanted.values()]
            told = [name for name in unread if name.strip().lower() not in shape.unused]
            if told:
                note(f"{path}: columns not read: {', '.join(told)}")
            return shape, wanted
    expected = {"candle": "time, open, high, low, close[, volume]", "quote": "time, bid, ask[, bid_size, ask_size]"}
    raise InputError(
        f"{path}: {place}: expected the columns {' or '.join(expected[k] for k in expected if forced in (None, k))}, "
        f"got {', '.join(names) or 'none'!r:.200}"
    )


def _batch(table: Table, shape: _Shape, position: int, tick: int, assume_utc: bool) -> EventBatch:
    is_bar = shape.kind == Kind.BAR
    return EventBatch.of(
        shape.kind,
        position,
        table.times(assume_utc),
        SOURCE_PREFIX + table.path.name,
        **(_candle_prices(table, tick) if is_bar else {}),
        **{name: table.decimals(name, tick, nullable=is_bar) for name in ("bid", "ask")},
        duration_s=DURATION_S[0] if is_bar else NULL,
        volume=table.decimals("volume", nullable=True) if is_bar else NULL,
        sequence=table.places,
        offset=table.places,
    )


def _candle_prices(table: Table, tick: int) -> dict[str, npt.NDArray[np.int64]]:
    if "open" in table.columns:
        return {name: table.decimals(name, tick) for name in _PRICES}
    # Rounded up to a point later, as half a point of a quote is: floor((bid + ask + 1) / 2) in points.
    sides = {name: (table.decimals(f"bid.{name}", tick), table.decimals(f"ask.{name}", tick)) for name in _PRICES}
    return {name: (bid + ask + 1) // 2 for name, (bid, ask) in sides.items()}


def _check_order(table: Table, event_time: npt.NDArray[np.int64], last_us: int) -> None:
    back = np.flatnonzero(np.diff(event_time, prepend=last_us if last_us != NULL else event_time[0]) < 0)
    if len(back):
        row = int(back[0])
        before = int(event_time[row - 1]) if row else last_us
        raise table.error(
            row,
            table.columns["time"].label,
            f"{_iso(int(event_time[row]))} is before {_iso(before)} of the {table.place} above; "
            "expected market data in time order",
        )


def _check_granularity(table: Table, event_time: npt.NDArray[np.int64]) -> None:
    steps = np.diff(event_time)
    step_us = int(np.gcd.reduce(steps))
    if np.count_nonzero(steps) + 1 >= GRANULARITY_ROWS_MIN and step_us > MINUTE_US and step_us % MINUTE_US == 0:
        raise table.error(
            1,
            table.columns["time"].label,
            f"candles are {step_us // MINUTE_US} minutes apart, or multiples of it; expected one-minute candles",
        )


def _iso(time_us: int) -> str:
    seconds, micros = divmod(time_us, US_PER_S)
    time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    return time.isoformat().replace("+00:00", "Z")
