"""`ingest` on the real broker: what it says it published is there, and what went wrong names its place."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import cli
from sep_stream.history import EventLog
from sep_stream.market.events import EventBatch
from sep_stream.runtime import topics
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources import csv_table
from sep_stream.sources.files import read_events
from sep_stream.sources.synthetic import synthetic_candles, synthetic_quotes
from tests.cli.commands import children_cpu_s
from tests.waiting import slow_bound_s

TOPOLOGY = Topology.load()
T0 = 1_707_091_200  # 2024-02-05T00:00:00Z
LIMIT_S = topics.REQUEST_TIMEOUT_S
NOON = "2024-02-05T12:00:00Z"


def run(settings: Settings, *args: object) -> Result:
    flags = ("--brokers", settings.brokers, "--prefix", settings.prefix)
    return CliRunner().invoke(cli, ["ingest", *map(str, args), *map(str, flags)])


def published(settings: Settings) -> EventBatch:
    return EventBatch.concatenate([batch.take(slice(None)) for batch in EventLog(settings, TOPOLOGY).batches()])


def quotes(path: Path, count: int, *extra: str, first: int = 0) -> Path:
    rows = [f"{T0 + k},1.{k:05d},1.{k + 3:05d}" for k in range(first, first + count)]
    path.write_text("\n".join(["time,bid,ask", *rows, *extra]) + "\n")
    return path


@pytest.mark.integration
def test_a_file_is_published_whole(tmp_path: Path, make_settings: Callable[..., Settings], prefix: str) -> None:
    settings, path = make_settings(prefix), quotes(tmp_path / "q.csv", 1000)
    result = run(settings, path, "--instrument", "EUR_USD", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary | {"events_per_s": 0} == {
        "source": f"{path} as EUR/USD",
        "events": 1000,
        "events_per_s": 0,
        "first": "2024-02-05T00:00:00Z",
        "last": "2024-02-05T00:16:39Z",
    }
    [read] = read_events(path, TOPOLOGY.instruments, "EUR/USD")
    found = published(settings)
    for name in ("event_time", "bid", "ask", "volume", "sequence", "kind"):
        assert getattr(found, name).tolist() == getattr(read, name).tolist()
    assert found.sources == ("file:q.csv",)


@pytest.mark.integration
def test_files_are_published_one_after_the_other(
    tmp_path: Path, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    first, second = quotes(tmp_path / "a.csv", 10), quotes(tmp_path / "b.csv", 10, first=10)
    result = run(settings, first, second, "--instrument", "EUR/USD")
    assert "20 events published" in result.stdout
    assert published(settings).sources == ("file:a.csv", "file:b.csv")
    result = run(settings, second, first, "--instrument", "EUR/USD")
    assert "give files in time order" in str(result.exception)
    assert "nothing is published" in str(result.exception)


@pytest.mark.integration
def test_parts_of_a_file_by_time_make_the_whole(
    tmp_path: Path, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings, path = make_settings(prefix), quotes(tmp_path / "q.csv", 100)
    cut = "2024-02-05T00:00:40Z"
    assert "40 events published" in run(settings, path, "--instrument", "EUR/USD", "--until", cut).stdout
    assert "60 events published" in run(settings, path, "--instrument", "EUR/USD", "--from", cut).stdout
    assert published(settings).sequence.tolist() == list(range(2, 102))  # the lines of the file
    late = run(settings, path, "--instrument", "EUR/USD", "--from", "2024-02-06T00:00:00Z")
    assert late.stdout.endswith("no events to publish\n")


@pytest.mark.integration
def test_a_file_half_published_says_up_to_where(
    tmp_path: Path, make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "TABLE_ROWS_MAX", 100)
    settings, path = make_settings(prefix), quotes(tmp_path / "q.csv", 250, f"{T0 + 300},1.x,1.1")
    result = run(settings, path, "--instrument", "EUR/USD")
    assert result.exit_code == 1
    assert str(result.exception) == (
        f"{path}: line 252: field 'bid': expected a decimal number, got '1.x'\n"
        f"{path} is published up to line 201 (2024-02-05T00:03:19Z): 200 events in all"
    )
    assert published(settings).offset.tolist() == list(range(200))


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["candles", "quotes"])
def test_a_synthetic_market_is_published_as_it_is_made(
    make_settings: Callable[..., Settings], prefix: str, kind: str
) -> None:
    settings = make_settings(prefix)
    flags = ("--days", 1, "--seed", 5, "--instruments", "EUR/USD,AUDUSD", "--kind", kind)
    result = run(settings, "synthetic", *flags)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("SYNTHETIC market, seed 5: ")
    make: Any = {"candles": synthetic_candles, "quotes": synthetic_quotes}[kind]
    [made] = make(TOPOLOGY.instruments, ["EUR/USD", "AUD/USD"], 1, 5)
    assert sorted(published(settings).event_time.tolist()) == made.event_time.tolist()


@pytest.mark.integration
def test_topics_that_are_not_there_are_told(tmp_path: Path, broker: str, prefix: str) -> None:
    settings = Settings.load(brokers=broker, prefix=prefix)
    result = run(settings, quotes(tmp_path / "q.csv", 1), "--instrument", "EUR/USD")
    assert "`sep-stream topics create` makes them" in str(result.exception)


def test_no_broker_is_told_within_ten_seconds_with_the_remedy(tmp_path: Path) -> None:
    path = quotes(tmp_path / "q.csv", 1)
    command = [sys.executable, "-m", "sep_stream", "ingest", str(path), "--instrument", "EUR/USD"]
    begun_s, used_s = time.monotonic(), children_cpu_s()
    done = subprocess.run(
        [*command, "--brokers", "127.0.0.1:1"], capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path
    )
    seconds = time.monotonic() - begun_s
    assert done.returncode == 1
    assert done.stdout == ""
    assert "127.0.0.1:1" in done.stderr
    assert "sep-stream up" in done.stderr
    assert len(done.stderr.splitlines()) == 1  # no traceback, and not a word of librdkafka's own
    assert LIMIT_S < 10
    assert seconds < slow_bound_s(10, children_cpu_s() - used_s)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "Missing argument 'FILES...'"),
        (["none.csv", "--instrument", "EUR/USD"], "none.csv"),
        (["q.csv"], "Missing option '--instrument'"),
        (["q.csv", "--instrument", "EUR/USD", "--format", "xml"], "xml"),
        (["q.csv", "--instrument", "EUR/USD", "--until", "2024-02-05"], "has no zone"),
        (["q.csv", "--instrument", "EUR/USD", "--from", NOON, "--until", NOON], "does not lie before"),
        (["synthetic", "--kind", "ticks"], "ticks"),
        (["synthetic", "--days", "0"], "--days"),
    ],
)
def test_wrong_flags_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    quotes(tmp_path / "q.csv", 1)
    result = run(Settings.load(brokers="127.0.0.1:1"), *args)
    assert result.exit_code == 2
    assert told in result.output
