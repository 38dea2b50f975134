"""Bars out of the table market_data, page by page, however long the range."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import IsolationLevel

from sep_stream.errors import InputError, StateError
from sep_stream.history.offline import bar_schema
from sep_stream.market.events import NULL
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.stores.database import told

PAGE_BARS: Final = 32_768

_COLUMNS: Final = ("open_time", "open", "high", "low", "close", "volume", "close_spread")
_PAGE: Final = """
SELECT string_agg(
    concat_ws(
        ',', extract(epoch FROM "timestamp")::bigint, open, high, low, close, volume, coalesce(spread::text, '')
    ), E'\\n' ORDER BY "timestamp"
), max("timestamp")
FROM (
    SELECT * FROM market_data
    WHERE pair = %(pair)s AND timeframe = %(timeframe)s AND "timestamp" > %(after)s AND "timestamp" < %(stop)s
    ORDER BY "timestamp" LIMIT %(page)s
) AS page
"""
"""Clients spend more on each row that comes alone than the server on making it: a page comes as one value."""
_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STOP: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""No bar lies outside."""


def read_bars(
    connection: psycopg.Connection[Any],
    pair: str,
    timeframe: str,
    start: datetime | None = None,
    stop: datetime | None = None,
) -> Iterator[pa.RecordBatch]:
    """Bars that open in [start, stop), by time, in batches with the columns of `sep-stream bars --out X.parquet`.

    None is no bound. All bars are of one moment, whatever is written meanwhile. connection: in autocommit; it holds a
    transaction until the last batch, or until the iterator is closed.

    Raises InputError for a timeframe that there is not or a time without zone, DependencyError for a server that
    refuses.
    """
    if timeframe not in TIMEFRAMES:
        raise InputError(f"timeframe: expected one of {', '.join(TIMEFRAMES)}, got {timeframe!r}")
    for time in (start, stop):
        if time is not None and time.tzinfo is None:
            raise InputError(f"{time.isoformat()}: expected a time with its zone")
    schema = bar_schema()
    for page in _pages(connection, pair, timeframe, start or _START, stop or _STOP):
        columns = _parsed(page, schema)
        n = columns.num_rows
        names = {"instrument": pa.repeat(pa.scalar(pair), n), "timeframe": pa.repeat(pa.scalar(timeframe), n)}
        arrays = [names.get(name) or columns.column(name).combine_chunks() for name in schema.names]
        yield pa.record_batch(arrays, schema=schema)


def _pages(
    connection: psycopg.Connection[Any], pair: str, timeframe: str, start: datetime, stop: datetime
) -> Iterator[str]:
    """CSV of _COLUMNS, at most PAGE_BARS lines at a time."""
    wanted: dict[str, object] = {"pair": pair, "timeframe": timeframe, "stop": stop, "page": PAGE_BARS}
    after: datetime | None = start - datetime.resolution
    with told(connection, "market_data"), _one_moment(connection):
        while True:
            page, after = connection.execute(_PAGE, {**wanted, "after": after}).fetchone() or (None, None)
            if page is None:
                return
            yield page


@contextlib.contextmanager
def _one_moment(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction in which all queries see the same."""
    if connection.isolation_level is not None or not connection.autocommit:
        raise StateError("market_data: expected a connection in autocommit, at the server's isolation level")
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield
    finally:
        connection.isolation_level = None


def _parsed(page: str, schema: pa.Schema) -> pa.Table:
    types = {name: schema.field(name).type for name in _COLUMNS} | {"open_time": pa.int64()}
    table = pa_csv.read_csv(
        io.BytesIO(page.encode()),
        read_options=pa_csv.ReadOptions(column_names=list(_COLUMNS)),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )
    times = table.column("open_time").combine_chunks().view(schema.field("open_time").type)
    return table.set_column(0, "open_time", times)


def bar_arrays(batch: pa.RecordBatch) -> Mapping[str, npt.NDArray[np.int64]]:
    """The numbers of a batch of `read_bars`, by its names, as integers.

    open_time: (n,) epoch seconds · open … close, close_spread: (n,) counts of 1e-9, NULL where there is none
    volume: (n, 2), low and high half of a 128-bit count of 1e-9
    """
    arrays = {"open_time": batch.column("open_time").view(pa.int64()).to_numpy()}
    for name in _COLUMNS[1:]:
        column = batch.column(name)
        values = np.frombuffer(column.buffers()[1] or b"", "<i8").reshape(-1, 2)[column.offset :][: len(column)]
        is_null = column.is_null().to_numpy(zero_copy_only=False)
        arrays[name] = values if name == "volume" else np.where(is_null, NULL, values[:, 0])
    return arrays
