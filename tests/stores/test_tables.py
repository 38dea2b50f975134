"""The database's tables: what each role must not do, results before their patterns, rollups equal to their bars."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sep_stream.errors import DependencyError
from sep_stream.runtime.embedded.postgres import OWNER, SUPERUSER
from sep_stream.stores import migrations, upkeep
from sep_stream.stores.database import INGEST, READ, TRADING, TRAINING
from sep_stream.stores.migrations import read_state
from sep_stream.stores.upkeep import refresh, table_states
from tests.databases import BAR, Database, Databases, locks_waited_for, quiet
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.integration

T0 = datetime(2024, 2, 5, tzinfo=UTC)
RESULT = """
    INSERT INTO trading_results VALUES (
        %(trade)s, %(signal)s, %(pattern)s, 'EUR/USD', 'M1', 'BUY', %(at)s, 1.1, %(at)s, 1.2, 1000, %(points)s, 1.5,
        false
    )"""
SIGNAL = """
    INSERT INTO signals VALUES (
        %(signal)s, 'EUR/USD', 'M1', %(at)s, %(at)s, 'BUY', NULL, %(confidence)s, 0.6, 3, true, '[]', true, NULL, NULL,
        '[]', 'model', 'sep-metrics/1', 7, %(at)s, 1.1, 1.2, NULL
    )"""
PATTERN = """
    INSERT INTO quantum_patterns VALUES (%s, 'EUR/USD', %s, 0.7)
    ON CONFLICT (pattern_id) DO UPDATE SET
        pair = EXCLUDED.pair, pattern_data = EXCLUDED.pattern_data, confidence_score = EXCLUDED.confidence_score"""
UPSERT = f'{BAR} ON CONFLICT (pair, timeframe, "timestamp") DO UPDATE SET close = EXCLUDED.close'
M1 = ["EUR/USD", "M1", T0]


def trade(**values: Any) -> dict[str, Any]:
    ids = {name: uuid.uuid4() for name in ("trade", "signal", "pattern")}
    return ids | {"at": T0, "points": 2.0, "confidence": 0.6, **values}


def bring_up_to_date(database: Database) -> list[str]:
    messages: list[str] = []
    with database.connect() as connection:
        refresh(connection, read_state(connection), messages.append)
    return messages


def rows(database: Database, query: str, role: str = READ) -> list[tuple[Any, ...]]:
    with database.connect(role) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def tables(database: Databases) -> Database:
    """One database for tests that leave it as it is."""
    return database.migrated()


MAY = [
    (INGEST, UPSERT, M1),
    (INGEST, "CREATE TEMPORARY TABLE loading (LIKE market_data)", []),
    (TRADING, SIGNAL, trade()),
    (TRADING, RESULT, trade()),
    (TRADING, PATTERN, [uuid.uuid4(), b"path"]),
    (TRADING, "SELECT * FROM market_data, market_data_h1, results_by_day LIMIT 1", []),
    (TRAINING, "SELECT * FROM market_data, market_data_h1, market_data_d1, market_data_compared LIMIT 1", []),
    (READ, "SELECT * FROM market_data, signals, quantum_patterns, trading_results, schema_migrations LIMIT 1", []),
    (READ, "SELECT * FROM hit_rate_by_confidence, results_by_day, market_data_compared LIMIT 1", []),
]
MUST_NOT = [
    (INGEST, SIGNAL, trade()),
    (INGEST, RESULT, trade()),
    (INGEST, "SELECT * FROM signals", []),
    (INGEST, "DELETE FROM market_data", []),
    (INGEST, "TRUNCATE market_data", []),
    (INGEST, "DROP TABLE market_data", []),
    (INGEST, "SELECT market_data_add_year(1990)", []),
    (INGEST, "INSERT INTO market_data_default SELECT * FROM market_data", []),
    (TRADING, BAR, M1),
    (TRADING, "UPDATE market_data SET close = 1", []),
    (TRADING, "DELETE FROM trading_results", []),
    (TRADING, "CREATE TEMPORARY TABLE t (a int)", []),
    (TRAINING, BAR, M1),
    (TRAINING, SIGNAL, trade()),
    (TRAINING, "SELECT * FROM trading_results", []),
    (READ, BAR, M1),
    (READ, SIGNAL, trade()),
    (READ, "UPDATE signals SET confidence = 1", []),
    (READ, "DELETE FROM schema_migrations", []),
    (READ, "CREATE TABLE mine (a int)", []),
    (READ, "REFRESH MATERIALIZED VIEW results_by_day", []),
    (READ, "SELECT * FROM pg_authid", []),
    (OWNER, "CREATE ROLE another", []),
    (OWNER, "COPY market_data TO PROGRAM 'cat'", []),
]


@pytest.mark.parametrize(("role", "statement", "values"), MAY)
def test_a_role_does_its_work(tables: Database, role: str, statement: str, values: Any) -> None:
    with tables.connect(role) as connection, connection.transaction(force_rollback=True):
        connection.execute(statement, values)


@pytest.mark.parametrize(("role", "statement", "values"), MUST_NOT)
def test_a_role_does_nothing_else(tables: Database, role: str, statement: str, values: Any) -> None:
    with tables.connect(role) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement, values)


def test_another_user_of_the_server_does_not_get_in(tables: Database) -> None:
    with Database(tables.server, "postgres").connect(SUPERUSER) as connection:
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'known'")
        try:
            parameters = tables.server.login(READ, tables.name).parameters() | {"user": "stranger", "password": "known"}
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(**parameters)
        finally:
            connection.execute("DROP ROLE stranger")


def test_a_result_may_come_before_its_pattern(make_database: Callable[[], Database]) -> None:
    database, values = make_database(), trade()
    pattern = values["pattern"]
    with database.connect(TRADING) as connection:
        connection.execute(RESULT, values)
        found = "SELECT pair, pattern_data, confidence_score FROM quantum_patterns WHERE pattern_id = %s"
        assert connection.execute(found, [pattern]).fetchall() == [(None, None, None)]
        connection.execute(PATTERN, [pattern, b"path"])
        assert connection.execute(found, [pattern]).fetchall() == [("EUR/USD", b"path", 0.7)]
        connection.execute(RESULT, trade(pattern=pattern))
        assert connection.execute(found, [pattern]).fetchall() == [("EUR/USD", b"path", 0.7)]
    with database.connect() as owner, pytest.raises(psycopg.errors.ForeignKeyViolation):
        owner.execute("DELETE FROM quantum_patterns")


def test_views_count_hits_by_confidence_and_day(make_database: Callable[[], Database]) -> None:
    database = make_database()
    trades = [
        trade(confidence=0.60, points=2.0),
        trade(confidence=0.64, points=-1.0),
        trade(confidence=1.0, points=4.0, at=T0 + timedelta(days=1)),
    ]
    with database.connect(TRADING) as connection:
        for values in trades:
            connection.execute(SIGNAL, values)
            connection.execute(RESULT, values)
    assert rows(database, "SELECT * FROM results_by_day") == []
    bring_up_to_date(database)
    hits = "SELECT confidence_from::float8, trades, hits, hit_rate, points FROM hit_rate_by_confidence ORDER BY 1"
    assert rows(database, hits) == [(0.6, 2, 1, 0.5, 1.0), (0.95, 1, 1, 1.0, 4.0)]
    days = "SELECT day::text, trades, hits, points, profit_loss::float8 FROM results_by_day ORDER BY 1"
    assert rows(database, days) == [("2024-02-05", 2, 1, 1.0, 3.0), ("2024-02-06", 1, 1, 4.0, 1.5)]


def test_views_are_refreshed_under_the_eyes_of_readers(
    make_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh that is not CONCURRENTLY would wait for the reader, and end with an error after WAIT_S_MAX."""
    monkeypatch.setattr(upkeep, "WAIT_S_MAX", 5)
    database = make_database()
    with database.connect(READ) as reader, reader.transaction():
        for view in ("results_by_day", "hit_rate_by_confidence", "market_data_h1", "market_data_d1"):
            reader.execute(f"SELECT * FROM {view}")
        bring_up_to_date(database)


def test_streamed_bars_are_compared_with_those_built_from_m1(make_database: Callable[[], Database]) -> None:
    database = make_database()
    bar = "INSERT INTO market_data VALUES ('EUR/USD', %s, %s, 0, %s, %s, %s, %s, %s, NULL)"
    with database.connect(INGEST) as connection:
        for k in range(10):
            connection.execute(bar, ["M1", T0 + timedelta(minutes=k), 1 + k, 20 + k, 0.5 - k / 100, 2 + k, 10])
        connection.execute(bar, ["M5", T0, 1, 24, 0.46, 6, 50])
        connection.execute(bar, ["M5", T0 + timedelta(minutes=5), 6, 29, 0.41, 10.5, 50])
        connection.execute(bar, ["M15", T0 - timedelta(minutes=15), 6, 29, 0.41, 10.5, 50])
    compared = rows(database, """
        SELECT timeframe, extract(epoch FROM "timestamp")::int - 1707091200, agree, streamed_close, built_close
        FROM market_data_compared ORDER BY 1, 2""")  # fmt: skip
    assert compared == [
        ("M15", -900, False, 10.5, None),
        ("M15", 0, False, None, 11),
        ("M5", 0, True, 6, 6),
        ("M5", 300, False, 10.5, 11),
    ]


RAW = """
    SELECT pair, date_bin(%(stride)s, "timestamp", 'epoch') AS at,
        (array_agg(open ORDER BY "timestamp"))[1], max(high), min(low),
        (array_agg(close ORDER BY "timestamp" DESC))[1], sum(volume), count(*)
    FROM market_data WHERE timeframe = 'M1' GROUP BY 1, 2 ORDER BY 1, 2"""
MINUTES = st.lists(
    st.tuples(st.sampled_from(["EUR/USD", "GBP/USD"]), st.integers(0, 9 * 1440)), unique=True, max_size=60
)


@pytest.fixture(scope="module")
def rolled(database: Databases) -> Iterator[psycopg.Connection[Any]]:
    with database.migrated().connect() as connection:
        yield connection


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(minutes=MINUTES, refreshed=st.integers(0, 60))
def test_rollups_equal_their_bars_whenever_they_were_refreshed(
    rolled: psycopg.Connection[Any], minutes: list[tuple[str, int]], refreshed: int
) -> None:
    """As long as no bar comes over a day late, for which a refresh is needed."""
    rolled.execute("DELETE FROM market_data")
    refresh(rolled, read_state(rolled), quiet)
    minutes.sort(key=lambda item: item[1])
    for k, (pair, minute) in enumerate(minutes):
        rolled.execute(BAR.replace("1.15", str(1 + minute / 1e5)), [pair, "M1", T0 + timedelta(minutes=minute)])
        if k == refreshed:
            refresh(rolled, read_state(rolled), quiet)
    for view, stride in (("market_data_h1", "1 hour"), ("market_data_d1", "1 day")):
        expected = rolled.execute(RAW, {"stride": stride}).fetchall()
        assert rolled.execute(f"SELECT * FROM {view} ORDER BY 1, 2").fetchall() == expected


def test_a_late_bar_is_in_the_rollups_after_a_refresh(make_database: Callable[[], Database]) -> None:
    database = make_database()
    with database.connect(INGEST) as connection:
        for day in (0, 9):
            connection.execute(BAR, ["EUR/USD", "M1", T0 + timedelta(days=day)])
        bring_up_to_date(database)
        connection.execute(BAR, ["EUR/USD", "M1", T0 + timedelta(minutes=1)])
    total = "SELECT sum(bars) FROM market_data_h1"
    assert rows(database, total) == [(2,)]
    bring_up_to_date(database)
    assert rows(database, total) == [(3,)]


def test_bars_of_years_without_a_partition_are_moved_to_one(make_database: Callable[[], Database]) -> None:
    database = make_database()
    with database.connect(INGEST) as connection:
        for time_ in ("1998-12-31T23:59:00Z", "1999-01-01T00:00:00Z", "2024-02-05T00:00:00Z", "2090-06-01T00:00:00Z"):
            connection.execute(BAR, ["EUR/USD", "M1", time_])
    before = rows(database, "SELECT * FROM market_data ORDER BY 3")
    assert bring_up_to_date(database)[:3] == [
        f"made market_data_{year}, moved 1 bars there" for year in (1998, 1999, 2090)
    ]
    assert rows(database, "SELECT * FROM market_data ORDER BY 3") == before
    held = 'SELECT tableoid::regclass::text FROM market_data ORDER BY "timestamp"'
    assert [name for (name,) in rows(database, held, OWNER)] == [
        "market_data_1998", "market_data_1999", "market_data_2024", "market_data_2090",
    ]  # fmt: skip
    assert "made" not in " ".join(bring_up_to_date(database))


def test_writers_of_other_years_go_on_while_bars_are_moved(
    make_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that holds the default partition makes the move wait, and nobody else."""
    monkeypatch.setattr(migrations, "TRIES_MAX", 10_000)  # it tries as long as the transaction holds it
    database, moved = make_database(), threading.Event()
    with database.connect(INGEST) as late, database.connect(INGEST) as writer, database.connect() as watch:
        writer.execute(f"SET lock_timeout = '{PATIENCE_S}s'")  # who has to wait for the transaction gets an error
        late.execute(BAR, ["EUR/USD", "M1", "1990-02-01T00:00:00Z"])  # what is there to be moved
        with late.transaction():
            late.execute(BAR, ["EUR/USD", "M1", "1990-01-01T00:00:00Z"])
            late.execute("SAVEPOINT open")
            thread = threading.Thread(target=lambda: (bring_up_to_date(database), moved.set()))
            thread.start()
            k = 0
            for _ in range(3):
                until(lambda: locks_waited_for(watch))  # the move waits
                for _ in range(20):
                    writer.execute(BAR, ["EUR/USD", "M1", T0 + timedelta(minutes=k)])
                    k += 1
            assert not moved.is_set()
        thread.join(PATIENCE_S)
    bring_up_to_date(database)
    assert moved.is_set()
    assert rows(database, "SELECT count(*) FROM ONLY market_data_default", OWNER) == [(0,)]


def test_what_tables_hold_is_told(make_database: Callable[[], Database]) -> None:
    database = make_database()
    with database.connect(INGEST) as connection:
        for day in (3, 0):
            connection.execute(BAR, ["EUR/USD", "M1", T0 + timedelta(days=day)])
    with database.connect(READ) as connection:
        bars, *others = table_states(connection, read_state(connection))
    assert (bars.table, bars.rows, bars.oldest, bars.newest) == ("market_data", 2, T0, T0 + timedelta(days=3))
    assert bars.bytes > 100_000
    assert [(state.rows, state.oldest) for state in others] == [(0, None)] * 3
    assert all(state.bytes > 0 for state in others)


def test_a_database_that_is_not_migrated_is_told(database: Databases) -> None:
    with database.empty().connect() as connection:
        state = read_state(connection)
        for work in (lambda: refresh(connection, state, quiet), lambda: list(table_states(connection, state))):
            with pytest.raises(DependencyError, match="sep-stream db migrate"):
                work()
