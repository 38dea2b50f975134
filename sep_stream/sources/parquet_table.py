"""Parquet files as tables of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.timeframes import YEAR_2200_US
from sep_stream.sources.formats import PLACE
from sep_stream.sources.table import TABLE_ROWS_MAX, Column, Table
from sep_stream.sources.text import EXPECTED, Fault


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file; InputError where it is no Parquet."""
    try:
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not Parquet: {error}") from error


def parquet_tables(path: Path, file: pq.ParquetFile, wanted: Mapping[str, str], assume_utc: bool) -> Iterator[Table]:
    """Tables of at most TABLE_ROWS_MAX rows.

    wanted: the file's column names by the name of the event's field. Floats become their shortest text, as `repr` gives
    it, decimals theirs; timestamps are taken as they are, and need a zone unless `assume_utc`.
    """
    first = 1
    try:
        for batch in file.iter_batches(TABLE_ROWS_MAX, columns=list(wanted.values())):
            places = np.arange(first, first + len(batch), dtype=np.int64)
            first += len(batch)
            arrays = {name: batch.column(label) for name, label in wanted.items()}
            time = arrays["time"] if pa.types.is_timestamp(arrays["time"].type) else None
            columns = {name: Column(wanted[name], _text(path, wanted[name], array)) for name, array in arrays.items()}
            table = Table(path, PLACE["parquet"], places, columns)
            if time is not None:
                table = Table(path, PLACE["parquet"], places, columns, _times(table, time, assume_utc))
            yield table
    except pa.ArrowException as error:
        raise InputError(f"{path}: row {first} or later: cannot be read: {error}") from error


def _text(path: Path, label: str, array: Any) -> VarColumn:
    try:
        text = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: field {label!r}: expected numbers or text, got {array.type}") from error
    _, offsets, data = text.buffers()
    n = len(text)
    bounds = np.frombuffer(offsets, np.int32, n + 1, text.offset * 4).astype(np.int64)
    length = np.diff(bounds).astype(np.int32)
    length[np.asarray(text.is_null())] = -1
    return VarColumn(np.frombuffer(data or b"", np.uint8), bounds[:-1], length)


def _times(table: Table, array: Any, assume_utc: bool) -> npt.NDArray[np.int64]:
    """Timestamps in µs; what is finer is cut off."""
    label = table.columns["time"].label
    if array.type.tz is None and not assume_utc:
        raise table.error(0, label, EXPECTED[Fault.NAIVE_TIME] + f", got {array.type}")
    if array.null_count:
        raise table.error(int(np.flatnonzero(np.asarray(array.is_null()))[0]), label, EXPECTED[Fault.EMPTY])
    factor = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[array.type.unit]
    times = np.asarray(array.cast(pa.int64())) // (1_000 if array.type.unit == "ns" else 1)
    out = np.flatnonzero((times < 0) | (times >= YEAR_2200_US // factor))
    if len(out):
        raise table.error(int(out[0]), label, EXPECTED[Fault.TIME_RANGE] + f", got {array[int(out[0])]}")
    return times * factor
