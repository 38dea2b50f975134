"""History in bulk into the table market_data: chunk by chunk, each a transaction that remembers what it stored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg

from sep_stream.convert.state import BAR_DTYPE
from sep_stream.errors import InputError, SepError
from sep_stream.market.instruments import Instruments
from sep_stream.stores.copy_format import COLUMNS, Lane, encode, lanes
from sep_stream.stores.database import told

CHUNK_BARS: Final = 20_000
"""A transaction's: some 3 MB on their way. TimescaleDB opens 100,000 compressed rows in one at most."""
CONNECTIONS: Final = 2
"""The server keeps a core busy for each; its index costs more than all else."""
LOCK_S_MAX: Final = 60
"""For another that stores the same bars."""
TRIES_MAX: Final = 5
"""Of a chunk that another writer got in the way of."""

_CAME_BETWEEN: Final = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.CheckViolation,  # the bars' year got its partition
)
"""What another writer's work can cause."""

Connection = psycopg.Connection[Any]
Connect = Callable[[], Connection]

_COLUMNS: Final = ", ".join(COLUMNS)
_VALUES: Final = ("open", "high", "low", "close", "volume", "spread")
_KEY: Final = ("pair", "timeframe", '"timestamp"')
STAGE: Final = "CREATE TEMPORARY TABLE IF NOT EXISTS market_data_staged (LIKE market_data) ON COMMIT DELETE ROWS"
UPSERT: Final = f"""
INSERT INTO market_data ({_COLUMNS})
SELECT {_COLUMNS} FROM market_data_staged ORDER BY pair COLLATE "C", timeframe COLLATE "C", "timestamp"
ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _VALUES)}
WHERE ({", ".join(f"market_data.{name}" for name in _VALUES)})
    IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _VALUES)})
"""  # noqa: S608 - of names above
"""A bar that is there already keeps its index: that of the log, where it came from there. One that is the same is not
written again."""
_COPY: Final = f"COPY {{table}} ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_CLAIM: Final = """
INSERT INTO market_data_loads (load_id, chunk, bars, is_last, source) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_IS_THERE: Final = """
SELECT EXISTS (SELECT FROM market_data WHERE pair = %s AND timeframe = %s AND "timestamp" BETWEEN %s AND %s)
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Of a load. bars: that the input has · stored: by this run · changed: of these, not in the table before, or other
    than there · repeated: an earlier run had finished, and this one did nothing"""

    bars: int
    stored: int
    changed: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int
    bars: npt.NDArray[np.void]
    is_last: bool


def load_identity(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """Of an input, 64 hex digits: of the files' content in their order, whatever their names, and of all that its bars
    depend on besides. InputError for a file that can't be read."""
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    text = json.dumps({"files": digests, "chunk_bars": CHUNK_BARS, **options}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_bars(
    connect: Connect,
    load_id: str,
    source: str,
    instruments: Instruments,
    batches: Iterable[npt.NDArray[np.void]],
    connections: int = CONNECTIONS,
) -> Loaded:
    """Store bars, (b,) BAR_DTYPE each batch, as new rows or over those that are there.

    load_id: of the input, see `load_identity`; the same gives the same bars in the same order · source: its name, kept
    for people · connect: a connection in autocommit, by a role that may write market_data

    A run that was cut off is continued by the next: chunks that are stored are passed over. Several runs at once
    share the work. Of a load that was finished nothing is read.

    Raises DependencyError for a server that refuses or is gone; what was stored till then stays.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(connect()))]
        done = _stored_before(opened[0], load_id)
        if done.finished:
            return Loaded(done.bars, 0, 0, repeated=True)
        opened += [stack.enter_context(contextlib.closing(connect())) for _ in range(connections - 1)]
        return _Load(opened, load_id, source, instruments).run(batches, done.chunks)


@dataclass(frozen=True, slots=True)
class _Stored:
    chunks: frozenset[int]
    bars: int
    finished: bool


def _stored_before(connection: Connection, load_id: str) -> _Stored:
    with told(connection):
        rows = connection.execute(
            "SELECT chunk, bars, is_last FROM market_data_loads WHERE load_id = %s", [load_id]
        ).fetchall()
    return _Stored(frozenset(row[0] for row in rows), sum(row[1] for row in rows), any(row[2] for row in rows))


class _Load:
    """A run. Chunks are stored by several connections at once; the last one when all others are."""

    def __init__(self, connections: Sequence[Connection], load_id: str, source: str, instruments: Instruments) -> None:
        self._load_id, self._source, self._instruments = load_id, source, instruments
        self._n_connections = len(connections)
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()  # holds no more than these
        for connection in connections:
            with told(connection):
                connection.execute(f"SET lock_timeout = '{LOCK_S_MAX}s'")
            self._idle.put(connection)
        self._bars = self._stored = self._changed = 0

    def run(self, batches: Iterable[npt.NDArray[np.void]], done: frozenset[int]) -> Loaded:
        pending: deque[Future[tuple[int, int]]] = deque()
        try:
            with ThreadPoolExecutor(self._n_connections) as pool:
                for chunk in _chunks(batches):
                    self._bars += len(chunk.bars)
                    if chunk.number in done:
                        continue
                    while len(pending) >= (1 if chunk.is_last else self._n_connections):
                        self._account(pending.popleft())
                    pending.append(pool.submit(self._store, chunk))
                while pending:
                    self._account(pending.popleft())
        except SepError as error:
            for future in pending:
                if future.exception() is None:
                    self._account(future)
            raise type(error)(
                f"{error}\n{self._stored:,} bars were stored by this run; the same command goes on behind them"
            ) from error
        return Loaded(self._bars, self._stored, self._changed, repeated=False)

    def _account(self, future: Future[tuple[int, int]]) -> None:
        stored, changed = future.result()
        self._stored += stored
        self._changed += changed

    def _store(self, chunk: _Chunk) -> tuple[int, int]:
        connection = self._idle.get()
        try:
            with told(connection, self._source):
                parts = lanes(chunk.bars, self._instruments)
                return self._with_retries(connection, chunk, parts, encode(parts))
        finally:
            self._idle.put(connection)

    def _with_retries(
        self, connection: Connection, chunk: _Chunk, parts: Sequence[Lane], rows: bytes
    ) -> tuple[int, int]:
        left = TRIES_MAX
        while True:
            try:
                with connection.transaction():
                    return self._store_once(connection, chunk, parts, rows)
            except _CAME_BETWEEN:
                # The next try sees its bars.
                left -= 1
                if not left:
                    raise

    def _store_once(self, connection: Connection, chunk: _Chunk, parts: Sequence[Lane], rows: bytes) -> tuple[int, int]:
        """Bars stored, and of these new or other than before."""
        claim = (self._load_id, chunk.number, len(chunk.bars), chunk.is_last, self._source)
        # Waits for another run's transaction of the same chunk.
        if not connection.execute(_CLAIM, claim).rowcount:
            return 0, 0
        # Straight into the table, where that is free, costs a third of an upsert.
        if all(_is_free(connection, lane) for lane in parts):
            _copy(connection, "market_data", rows)
            return len(chunk.bars), len(chunk.bars)
        connection.execute(STAGE)
        _copy(connection, "market_data_staged", rows)
        return len(chunk.bars), connection.execute(UPSERT.encode()).rowcount


def _is_free(connection: Connection, lane: Lane) -> bool:
    """Whether the table has no bar of the lane's time."""
    times = lane.bars["open_time_s"]
    span = (datetime.fromtimestamp(int(time_s), UTC) for time_s in (times[0], times[-1]))
    return connection.execute(_IS_THERE, (lane.symbol, lane.timeframe, *span)).fetchone() == (False,)


def _copy(connection: Connection, table: str, rows: bytes) -> None:
    with connection.cursor().copy(_COPY.format(table=table).encode()) as copy:
        copy.write(rows)


def _chunks(batches: Iterable[npt.NDArray[np.void]]) -> Iterator[_Chunk]:
    """All bars in chunks of CHUNK_BARS, however they are batched; one empty chunk where there are none."""
    number, held, count = 0, [np.empty(0, BAR_DTYPE)], 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        if count <= CHUNK_BARS:  # the last chunk is only known when another follows
            continue
        bars = np.concatenate(held)
        while len(bars) > CHUNK_BARS:
            yield _Chunk(number, bars[:CHUNK_BARS], is_last=False)
            number, bars = number + 1, bars[CHUNK_BARS:]
        held, count = [bars], len(bars)
    yield _Chunk(number, np.concatenate(held), is_last=True)
