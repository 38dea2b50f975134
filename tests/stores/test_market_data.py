"""History in bulk into the database and back: to the last digit, once, whoever else writes, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sep_stream.convert.state import BAR_DTYPE
from sep_stream.errors import DependencyError, InputError
from sep_stream.history.offline import bar_schema
from sep_stream.market.events import NULL
from sep_stream.market.instruments import Instrument, Instruments
from sep_stream.market.timeframes import DURATION_S, TIMEFRAMES
from sep_stream.runtime.embedded.postgres import SUPERUSER
from sep_stream.stores import market_data, market_data_reader
from sep_stream.stores.database import INGEST, READ, TRADING, TRAINING
from sep_stream.stores.market_data import Loaded, load_bars
from sep_stream.stores.market_data_reader import bar_arrays, read_bars
from tests.databases import Database, Databases

pytestmark = pytest.mark.integration

T0 = 1_707_091_200
"""2024-02-05 00:00 UTC."""
WIDEST_TICK = Decimal("0.465661287")
"""2^31 - 1 of it are the most that decimal(18,9) holds."""
NARROWEST_TICK = Decimal("0.000000001")


def instrument(symbol: str, tick: Decimal) -> Instrument:
    return Instrument(symbol, (), "forex", tick, tick, "quote", "always")


INSTRUMENTS = Instruments([instrument("EUR/USD", NARROWEST_TICK), instrument("WIDE Z6", WIDEST_TICK)])
Bars = npt.NDArray[np.void]


@dataclass(frozen=True)
class Store:
    """A database with what its roles do."""

    database: Database

    def load(self, bars: Bars | Iterator[Bars], load_id: str = "a", **options: Any) -> Loaded:
        batches = [bars] if isinstance(bars, np.ndarray) else bars
        return load_bars(partial(self.database.connect, INGEST), load_id, "test", INSTRUMENTS, batches, **options)

    def read(self, *arguments: Any, role: str = READ) -> pa.Table:
        with self.database.connect(role) as connection:
            return pa.Table.from_batches(read_bars(connection, *arguments), bar_schema())

    def rows(self, query: str = 'SELECT * FROM market_data ORDER BY pair COLLATE "C", timeframe, "timestamp"') -> Any:
        with self.database.connect() as connection:
            return connection.execute(query).fetchall()

    def empty(self) -> None:
        with self.database.connect() as connection:
            connection.execute("TRUNCATE market_data, market_data_loads")


@pytest.fixture(scope="module")
def one(database: Databases) -> Store:
    """For tests that empty it first."""
    return Store(database.migrated())


@pytest.fixture
def store(one: Store) -> Store:
    one.empty()
    return one


def make_bars(n: int, timeframe: int = 0, position: int = 0, first: int = 0) -> Bars:
    """n bars, one after the other, each with other values."""
    k = np.arange(first, first + n)
    bars = np.zeros(n, BAR_DTYPE)
    bars["instrument"], bars["timeframe"], bars["index"] = position, timeframe, k
    bars["open_time_s"] = T0 + k * DURATION_S[timeframe]
    for j, name in enumerate(("open", "high", "low", "close")):
        bars[name] = 1 + 7 * k + j
    bars["spread"] = k % 5 - 1
    bars["volume_units"], bars["volume_nanos"] = k * k, k
    return bars


def expected_row(bar: np.void) -> tuple[Any, ...]:
    """As SQL gives it."""
    declared = INSTRUMENTS[int(bar["instrument"])]
    price = {name: int(bar[name]) * declared.tick_size for name in ("open", "high", "low", "close", "spread")}
    return (
        declared.symbol,
        TIMEFRAMES[bar["timeframe"]],
        datetime.fromtimestamp(int(bar["open_time_s"]), UTC),
        int(bar["index"]),
        *(price[name] for name in ("open", "high", "low", "close")),
        Decimal(int(bar["volume_units"])) + Decimal(int(bar["volume_nanos"])).scaleb(-9),
        None if bar["spread"] < 0 else price["spread"],
    )


def expected(bars: Bars) -> list[tuple[Any, ...]]:
    return sorted(map(expected_row, bars))


POINTS = st.one_of(st.sampled_from([1, 9_999, 10_000, 2**31 - 1]), st.integers(1, 2**31 - 1))
ANY_BARS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 7_000_000)),
        st.tuples(POINTS, POINTS, POINTS, POINTS),
        st.one_of(st.just(-1), st.integers(0, 2**31 - 1)),
        st.one_of(st.sampled_from([0, 1, 2**63 - 1]), st.integers(0, 2**63 - 1)),
        st.one_of(st.sampled_from([0, 1, 999_999_999]), st.integers(0, 999_999_999)),
        st.integers(0, 2**63 - 1),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda bar: bar[0],
)


def as_bars(drawn: list[Any]) -> Bars:
    bars = np.zeros(len(drawn), BAR_DTYPE)
    for row, (key, prices, spread, units, nanos, index) in zip(bars, drawn, strict=True):
        row["instrument"], row["timeframe"], row["open_time_s"] = key[0], key[1], key[2] * DURATION_S[key[1]]
        row["open"], row["high"], row["low"], row["close"] = prices
        row["spread"], row["volume_units"], row["volume_nanos"], row["index"] = spread, units, nanos, index
    return bars


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=ANY_BARS, known=st.integers(0, 30))
def test_any_bars_are_stored_to_the_last_digit(one: Store, drawn: list[Any], known: int) -> None:
    """Where the table has none of their time, and over those that it has."""
    one.empty()
    bars = as_bars(drawn)
    before = bars[:known].copy()
    before["close"] = before["close"] // 2 + 1
    one.load(before, "before")
    changed = int(np.count_nonzero(before["close"] != bars["close"][:known]))
    loaded = one.load(bars)
    assert loaded == Loaded(len(bars), len(bars), changed + len(bars) - len(before), repeated=False)
    assert one.rows() == expected(bars)
    for symbol in INSTRUMENTS.symbols:
        for name in TIMEFRAMES:
            wanted = [(row[2], *row[4:]) for row in expected(bars) if row[:2] == (symbol, name)]
            found = one.read(symbol, name).select(range(2, 9)).to_pylist()
            assert [tuple(row.values()) for row in found] == wanted


def test_a_spread_wider_than_the_type_is_refused(store: Store) -> None:
    bars = make_bars(3, position=1)
    bars["spread"] = 2**32
    with pytest.raises(DependencyError, match="numeric field overflow"):
        store.load(bars)
    assert store.rows() == []


def test_the_widest_numbers_are_read_to_the_last_digit(store: Store) -> None:
    price, volume = Decimal("999999999.999999999"), Decimal("99999999999999999999999999999.999999999")
    at = datetime(2024, 2, 5, tzinfo=UTC)
    insert = "INSERT INTO market_data VALUES ('EUR/USD', 'M1', %s, 0, %s, %s, %s, %s, %s, %s)"
    with store.database.connect(INGEST) as connection:
        connection.execute(insert, [at, price, price, Decimal("0.000000001"), price, volume, price])
        connection.execute(insert, [at + timedelta(minutes=1), *[Decimal(1)] * 4, Decimal(0), None])
    [batch] = store.read("EUR/USD", "M1").to_batches()
    first, second = batch.to_pylist()
    assert (first["open"], first["low"], first["volume"]) == (price, Decimal("0.000000001"), volume)
    assert (first["close_spread"], second["close_spread"], second["volume"]) == (price, None, 0)
    arrays = bar_arrays(batch)
    assert arrays["open_time"].tolist() == [T0, T0 + 60]
    assert arrays["open"].tolist() == [10**18 - 1, 10**9]
    assert arrays["close_spread"].tolist() == [10**18 - 1, NULL]
    low, high = arrays["volume"][0].tolist()
    assert (high << 64) + low % 2**64 == 10**38 - 1


def test_arrays_of_a_part_of_a_batch_are_that_part(store: Store) -> None:
    store.load(make_bars(100))
    [batch] = store.read("EUR/USD", "M1").to_batches()
    whole, part = bar_arrays(batch), bar_arrays(batch.slice(10, 20))
    assert all(np.array_equal(part[name], whole[name][10:30]) for name in whole)


def test_a_finished_load_is_not_repeated_and_reads_nothing(store: Store) -> None:
    bars = make_bars(1_000)
    store.load(bars)
    before = store.rows("SELECT xmin, * FROM market_data ORDER BY 4")

    def unread() -> Iterator[Bars]:
        raise AssertionError("the input was read")
        yield

    assert store.load(unread()) == Loaded(1_000, 0, 0, repeated=True)
    assert store.rows("SELECT xmin, * FROM market_data ORDER BY 4") == before


def test_bars_that_are_there_are_not_written_again(store: Store) -> None:
    bars = make_bars(1_000)
    store.load(bars)
    before = store.rows("SELECT xmin, * FROM market_data ORDER BY 5")
    assert store.load(bars, "other") == Loaded(1_000, 1_000, 0, repeated=False)
    assert store.rows("SELECT xmin, * FROM market_data ORDER BY 5") == before


def test_a_bar_of_the_log_keeps_its_index(store: Store) -> None:
    store.load(make_bars(10))
    corrected = make_bars(10)
    corrected["index"] += 500
    corrected["close"] += 1
    assert store.load(corrected, "other").changed == 10
    assert [row[3] for row in store.rows()] == list(range(10))
    assert [row[7] for row in store.rows()] == [row[7] for row in expected(corrected)]


def test_an_input_without_bars_is_a_load_too(store: Store) -> None:
    assert store.load(iter(())) == Loaded(0, 0, 0, repeated=False)
    assert store.load(iter(())) == Loaded(0, 0, 0, repeated=True)


@pytest.mark.parametrize("batch", [1_000, 333, 700])
def test_a_load_that_was_cut_off_is_continued(store: Store, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """However the bars are batched the next time."""
    monkeypatch.setattr(market_data, "CHUNK_BARS", 250)
    bars = make_bars(2_000)

    def cut_off() -> Iterator[Bars]:
        yield bars[:1_100]
        raise InputError("the file is damaged")

    with pytest.raises(InputError, match=r"the file is damaged\n1,000 bars were stored"):
        store.load(cut_off())
    assert store.rows() == expected(bars[:1_000])
    rest = store.load(bars[k : k + batch] for k in range(0, 2_000, batch))
    assert rest == Loaded(2_000, 1_000, 1_000, repeated=False)
    assert store.rows() == expected(bars)
    assert store.load(bars).repeated


def test_a_load_whose_connections_are_lost_is_told_and_continued(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_data, "CHUNK_BARS", 100)
    bars = make_bars(2_000)

    def ended() -> Iterator[Bars]:
        yield bars[:1_000]
        with store.database.connect(SUPERUSER) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sep_ingest'")
        yield bars[1_000:]

    with pytest.raises(DependencyError, match=r"PostgreSQL at .*\n[\d,]+ bars were stored"):
        store.load(ended())
    rest = store.load(bars)
    assert 0 < rest.stored < rest.bars == 2_000
    assert store.rows() == expected(bars)


def test_loads_of_overlapping_ranges_at_once_store_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_data, "CHUNK_BARS", 300)
    lanes = [make_bars(1_500, timeframe, position) for timeframe in (0, 1, 2) for position in (0, 1)]
    bars = np.concatenate(lanes)
    bars = bars[np.argsort(bars["open_time_s"], kind="stable")]
    parts = {"first": bars[:6_000], "second": bars[3_000:], "backwards": bars[::-1], "same": bars[3_000:]}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda part: store.load(parts[part], part), parts))
    assert [result.stored for result in results] == [len(part) for part in parts.values()]
    assert store.rows() == expected(bars)
    assert sum(result.changed for result in results) == len(bars)


def test_runs_of_one_load_at_once_share_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_data, "CHUNK_BARS", 100)
    bars = make_bars(3_000)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: store.load(bars), range(3)))
    assert sum(result.stored for result in results) == 3_000
    assert store.rows() == expected(bars)


@pytest.mark.parametrize("role", [READ, TRAINING, TRADING])
def test_only_ingest_may_load(store: Store, role: str) -> None:
    with pytest.raises(DependencyError, match="lacks the right"):
        load_bars(partial(store.database.connect, role), "a", "test", INSTRUMENTS, [make_bars(3)])
    assert store.rows() == []


@pytest.mark.parametrize("role", [READ, TRAINING, TRADING])
def test_whoever_may_read_bars_can(store: Store, role: str) -> None:
    store.load(make_bars(3))
    assert store.read("EUR/USD", "M1", role=role).num_rows == 3


def test_a_range_is_read_from_its_start_to_before_its_stop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages, of which one may be full and the last."""
    monkeypatch.setattr(market_data_reader, "PAGE_BARS", 10)
    store.load(np.concatenate([make_bars(100), make_bars(100, 1), make_bars(100, position=1)]))
    at = [datetime.fromtimestamp(T0 + 60 * k, UTC) for k in range(101)]
    every = store.read("EUR/USD", "M1")
    assert every.column("open_time").to_pylist() == at[:100]
    assert [len(batch) for batch in every.to_batches()] == [10] * 10
    assert store.read("EUR/USD", "M1", at[17], at[38]).equals(every.slice(17, 21))
    assert store.read("EUR/USD", "M1", None, at[5]).equals(every.slice(0, 5))
    assert store.read("EUR/USD", "M1", at[95]).equals(every.slice(95))
    assert store.read("EUR/USD", "M1", at[5], at[5]).num_rows == 0
    assert store.read("GBP/USD", "M1").num_rows == 0


def test_what_is_read_is_of_one_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_data_reader, "PAGE_BARS", 10)
    store.load(make_bars(25))
    with store.database.connect(READ) as connection:
        batches = read_bars(connection, "EUR/USD", "M1")
        found = [next(batches).num_rows]
        store.load(make_bars(100, first=25), "later")
        found += [batch.num_rows for batch in batches]
        assert found == [10, 10, 5]
        assert sum(batch.num_rows for batch in read_bars(connection, "EUR/USD", "M1")) == 125


def test_a_reader_that_stops_early_leaves_the_connection_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_data_reader, "PAGE_BARS", 10)
    store.load(make_bars(25))
    with store.database.connect(READ) as connection:
        batches = read_bars(connection, "EUR/USD", "M1")
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert connection.isolation_level is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("EUR/USD", "M2"), "expected one of M1, M5, M15"), (("EUR/USD", "M1", datetime(2024, 1, 1)), "zone")],  # noqa: DTZ001
)
def test_a_wrong_question_is_refused(store: Store, arguments: tuple[Any, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        store.read(*arguments)


def peak_mib(work: Callable[[], None]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def test_memory_is_that_of_chunks_and_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars are 9 MB, 18 MB on their way."""
    monkeypatch.setattr(market_data, "CHUNK_BARS", 2_000)
    monkeypatch.setattr(market_data_reader, "PAGE_BARS", 2_000)
    count = 100_000

    def load() -> None:
        store.load(make_bars(1_000, first=k) for k in range(0, count, 1_000))

    in_arrow = 0

    def read() -> None:
        nonlocal in_arrow
        before, seen = pa.total_allocated_bytes(), 0
        with store.database.connect(READ) as connection:
            for batch in read_bars(connection, "EUR/USD", "M1"):
                seen += batch.num_rows
                in_arrow = max(in_arrow, pa.total_allocated_bytes() - before)
        assert seen == count

    assert peak_mib(load) < 6
    assert peak_mib(read) < 3
    assert in_arrow < 3 * 2**20
