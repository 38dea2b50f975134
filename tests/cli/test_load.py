"""`db load` and `ingest --to-db`: files into the database, as `bars` tells them, through kills and repeats."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import cli
from sep_stream.history.offline import bar_schema
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.stores.database import INGEST, READ
from sep_stream.stores.market_data_reader import read_bars
from tests.cli.commands import start
from tests.databases import BAR, Database
from tests.waiting import until

pytestmark = pytest.mark.integration

T0 = 1_707_091_200
"""2024-02-05 00:00 UTC."""


def candles(path: Path, count: int, *extra: str) -> Path:
    rows = [f"{T0 + 60 * k},1.{k % 9973:05d},1.5,1.0,1.{k % 7919:05d},{k % 100}.25" for k in range(count)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *rows, *extra]) + "\n")
    return path


def run(database: Database | str, *args: object) -> Result:
    url = database if isinstance(database, str) else database.url(INGEST)
    return CliRunner().invoke(cli, [*map(str, args), "--instrument", "EUR/USD"], env={"SEP_DATABASE_URL": url})


def stored(database: Database) -> pa.Table:
    """All bars in the order of their closing."""
    with database.connect(READ) as connection:
        batches = [batch for name in TIMEFRAMES for batch in read_bars(connection, "EUR/USD", name)]
    return ordered(pa.Table.from_batches(batches, bar_schema()))


def ordered(bars: pa.Table) -> pa.Table:
    return bars.sort_by([("timeframe", "ascending"), ("open_time", "ascending")])


def bars(path: Path, tmp_path: Path) -> pa.Table:
    """What `sep-stream bars` makes of a file."""
    out = tmp_path / "expected.parquet"
    assert CliRunner().invoke(cli, ["bars", str(path), "--instrument", "EUR/USD", "--out", str(out)]).exit_code == 0
    return ordered(pq.read_table(out).cast(bar_schema()))  # Parquet has no seconds


def test_a_file_is_stored_as_the_bars_it_makes(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    database, path = make_database(), candles(tmp_path / "c.csv", 3_000)
    result = run(database, "db", "load", path)
    assert result.exit_code == 0, result.output
    # The last candle closes its minute, and so the bars of five and fifteen that end with it.
    assert "3,800 bars stored" in result.stdout
    assert "3,800 of them new or other" in result.stdout
    assert stored(database).equals(bars(path, tmp_path))

    again = run(database, "ingest", path, "--to-db")
    assert again.exit_code == 0
    assert "loaded before, 3,800 bars; nothing is changed" in again.stdout
    renamed = path.rename(tmp_path / "renamed.csv")
    assert "loaded before" in run(database, "db", "load", renamed).stdout


def test_a_load_is_done_anew_where_that_is_asked_for(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    database, path = make_database(), candles(tmp_path / "c.csv", 300)
    run(database, "db", "load", path)
    with database.connect() as connection:
        connection.execute("DELETE FROM market_data WHERE timeframe = 'M5'")
    result = run(database, "db", "load", path, "--again", "--json")
    summary = json.loads(result.stdout)
    assert summary | {"bars_per_s": 0} == {
        "source": f"{path} as EUR/USD",
        "bars": 380,
        "stored": 380,
        "changed": 60,
        "repeated": False,
        "bars_per_s": 0,
        "unused": {},
    }
    assert stored(database).equals(bars(path, tmp_path))


def test_parts_of_a_file_by_time_make_the_whole(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    database, path = make_database(), candles(tmp_path / "c.csv", 300)
    noon = "2024-02-05T02:00:00Z"
    assert "152 bars stored" in run(database, "db", "load", path, "--until", noon).stdout
    assert run(database, "db", "load", path, "--from", noon).exit_code == 0
    assert stored(database).equals(bars(path, tmp_path))


def test_rows_that_are_not_used_are_counted_by_reason(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    database = make_database()
    path = candles(tmp_path / "c.csv", 10, f"{T0 + 600},1.2,1.1,1.3,1.2,1", f"{T0 + 660},0,1.1,0,1,1")
    result = run(database, "ingest", path, "--to-db", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["unused"] == {"bad_candle": 1, "not_positive": 1}
    assert f"{path}: line 12: not used (bad_candle)" in result.stderr


def test_a_load_that_is_killed_goes_on_where_it_was(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    """Killed while it waits for a bar that another is writing, some chunks stored and others not."""
    database, path = make_database(), candles(tmp_path / "c.csv", 70_000)
    count = "SELECT count(*) FROM market_data_loads"
    with database.connect(INGEST) as other, database.connect(READ) as reader:
        with other.transaction(force_rollback=True):
            other.execute(BAR, ["EUR/USD", "M1", datetime.fromtimestamp(T0, UTC) + timedelta(minutes=60_000)])
            process = start("db", "load", path, "--instrument", "EUR/USD", cwd=tmp_path,
                            SEP_DATABASE_URL=database.url(INGEST))  # fmt: skip
            until(lambda: value(reader, count) >= 3)
            assert process.poll() is None
            process.kill()
            process.communicate()
        before = value(reader, count)
    assert 3 <= before < 5
    result = run(database, "db", "load", path, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["bars"] == 70_000 + 14_000 + 4_666
    assert 0 < summary["stored"] < summary["bars"]
    assert stored(database).equals(bars(path, tmp_path))
    assert run(database, "db", "load", path).stdout.endswith("(--again loads them anew)\n")


def value(connection: Any, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def test_a_wrong_file_is_told_by_its_place(tmp_path: Path, make_database: Callable[[], Database]) -> None:
    database, path = make_database(), candles(tmp_path / "c.csv", 10, "then,1,1,1,1,1")
    result = run(database, "db", "load", path)
    assert result.exit_code == 1
    assert f"{path}: line 12" in str(result.exception)
    assert stored(database).num_rows == 0


@pytest.mark.parametrize("command", [("db", "load"), ("ingest", "--to-db")], ids=" ".join)
def test_without_a_database_the_remedy_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = candles(tmp_path / "c.csv", 10)
    result = run("postgresql://sep_ingest:secret@127.0.0.1:1/sep", *command[:1], *command[1:], path)
    assert result.exit_code == 1
    assert "sep-stream up --with postgres" in str(result.exception)
    assert "secret" not in str(result.exception)


def test_a_database_without_tables_is_told(tmp_path: Path, database: Any) -> None:
    result = run(database.empty().url(), "db", "load", candles(tmp_path / "c.csv", 10))
    assert result.exit_code == 1
    assert "sep-stream db migrate" in str(result.exception)


def test_a_span_that_holds_nothing_is_wrong_usage(tmp_path: Path) -> None:
    span = ("--from", "2024-02-06T00:00:00Z", "--until", "2024-02-05T00:00:00Z")
    result = run("postgresql://", "db", "load", candles(tmp_path / "c.csv", 1), *span)
    assert result.exit_code == 2
    assert "does not lie before --until" in result.output
