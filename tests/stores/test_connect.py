"""Kafka → Connect → PostgreSQL on the real servers: every record ends as one row, to the last digit, whatever happens
between."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from sep_stream.cli import cli
from sep_stream.errors import DependencyError
from sep_stream.market.avro import load_schemas
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.embedded import EmbeddedConnect, EmbeddedPostgres, EmbeddedStack
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.stores.connect import Connect, connect_url
from sep_stream.stores.database import connect as database
from sep_stream.stores.sinks import DEAD_LETTERS, check_plugins, declared_sinks, lags
from tests.waiting import until

pytestmark = pytest.mark.integration

BARS, OTHERS = (100_000, 10_000) if "SEP_TEST_FULL_SIZE" in os.environ else (4_000, 400)
OUTAGE_S = 2
SCHEMAS = load_schemas(resource("schemas") / "avro")
SYMBOLS = ("EUR/USD", "USD/JPY", "AUD/USD", "CLZ6")
T0_MS = 1_704_067_200_123
"""2024-01-01, and some milliseconds."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOPICS = {
    "market_data": ("bars", "bar"),
    "signals": ("signals", "signal"),
    "quantum_patterns": ("patterns", "pattern"),
    "trading_results": ("trading.results", "trading_result"),
}
COLUMNS = {"instrument": "pair", "path": "pattern_data", "open_time": "timestamp", "index": "bar_index"}
ALL = {"market_data": BARS, "signals": OTHERS, "quantum_patterns": OTHERS, "trading_results": OTHERS}

Row = dict[str, Any]


def quiet(message: str) -> None:
    """Progress is not looked at."""


def record(table: str, k: int) -> Row:
    """The k-th record of a table's topic: every type at its bounds now and then, nulls where they may be."""
    rng = random.Random(f"{table}{k}")

    def price() -> Decimal:
        return Decimal(rng.choice([rng.randrange(1, 10**18), rng.randrange(10**8, 10**11)])).scaleb(-9)

    def money() -> Decimal:
        return Decimal(rng.choice([-1, 1]) * rng.randrange(10 ** rng.randrange(1, 39))).scaleb(-9)

    def an_id(what: str, n: int = k) -> str:
        return str(uuid.UUID(bytes=hashlib.md5(f"{what}{n}".encode()).digest()))

    symbol, timeframe = SYMBOLS[k % len(SYMBOLS)], ("M1", "M5", "M15")[k % 3]
    spread = None if k % 5 == 0 else price()
    time_ms = T0_MS + 1_001 * k
    common = {"instrument": symbol, "timeframe": timeframe}
    if table == "market_data":
        return common | {
            "open_time": T0_MS - T0_MS % 1_000 + 60_000 * k, "index": k, "open": price(), "high": price(),
            "low": price(), "close": price(), "volume": abs(money()), "spread": spread,
        }  # fmt: skip
    if table == "signals":
        return common | {
            "signal_id": an_id("signal"), "anchor_time": time_ms, "available_at": time_ms + 60_000,
            "direction": ("BUY", "SELL", "HOLD")[k % 3], "reason": "library" if k % 3 == 2 else None,
            "confidence": rng.random(), "p_up": rng.random(), "expected_move": rng.gauss(0, 1e-3),
            "gate_passed": k % 2 == 0, "gate_failed": json.dumps(["stable", 'qu"oted'][: k % 3]),
            "confirmed": k % 7 == 0, "m5_signal_id": None if k % 2 else an_id("m5"),
            "m15_signal_id": None if k % 3 else an_id("m15"),
            "matches": json.dumps([{"row": k, "anchor_time": 1_700_000_000, "cosine": rng.random(), "outcome": -3}]),
            "model_id": "0f" * 32, "metrics_version": "sep-metrics/1", "bar_index": k, "bar_open_time": time_ms,
            "bar_open": price(), "bar_close": price(), "bar_spread": spread,
        }  # fmt: skip
    if table == "quantum_patterns":
        path = struct.pack("<12f", *(rng.gauss(0, 1) for _ in range(12)))
        return {"pattern_id": an_id("pattern"), "instrument": symbol, "path": path, "confidence": rng.random()}
    return common | {
        "trade_id": an_id("trade"), "signal_id": an_id("signal"), "pattern_id": an_id("pattern"),
        "direction": ("BUY", "SELL")[k % 2], "entry_time": time_ms, "entry_price": price(),
        "exit_time": time_ms + 3_600_000, "exit_price": price(), "units": price(), "points": rng.gauss(0, 50),
        "profit_loss": money(), "spans_silence": k % 11 == 0,
    }  # fmt: skip


def row(table: str, k: int) -> Row:
    """The row that the k-th record should become."""
    found = {COLUMNS.get(name, name): value for name, value in record(table, k).items()}
    if table == "quantum_patterns":
        found["confidence_score"] = found.pop("confidence")
    for name, value in found.items():
        if name in ("gate_failed", "matches"):
            found[name] = json.loads(value)
        elif name.endswith("_id") and name != "model_id" and value is not None:
            found[name] = uuid.UUID(value)
        elif name.endswith(("_time", "_at")) or name == "timestamp":
            found[name] = EPOCH + timedelta(milliseconds=value)
    return found


KEYS = {
    "market_data": ("pair", "timeframe", "timestamp"), "signals": ("signal_id",), "quantum_patterns": ("pattern_id",),
    "trading_results": ("trade_id",),
}  # fmt: skip


@dataclass
class Stores:
    """A broker, a registry, a database and Connect between them."""

    data_dir: Path
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        told = self.run("up", "--with", "registry,postgres,connect")
        assert told.exit_code == 0, told.output
        self.settings = Settings.load(data_dir=self.data_dir)
        self.producer = Producer(librdkafka(self.settings, **{"linger.ms": 50, "compression.type": "lz4"}))

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "--data-dir", str(self.data_dir)])

    @property
    def connect(self) -> EmbeddedConnect:
        return EmbeddedConnect(self.data_dir)

    @property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.data_dir)

    def send(self, table: str, first: int, stop: int) -> None:
        """Those records, keyed and placed as live ones."""
        for k in range(first, stop):
            told = record(table, k)
            self.put(table, SCHEMAS.encode(TOPICS[table][1], told), told["instrument"].encode())
        self.flush()

    def put(self, table: str, value: bytes | None, key: bytes = b"EUR/USD") -> None:
        partition = partition_for(key, self.settings.partitions)
        while True:
            try:
                self.producer.produce(self.settings.topic(TOPICS[table][0]), value, key, partition, timestamp=T0_MS)
            except BufferError:
                self.producer.poll(0.2)
            else:
                return

    def flush(self) -> None:
        assert self.producer.flush(60) == 0

    def ask(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with database(self.settings) as connection:
            return connection.execute(statement, values or None).fetchall()  # type: ignore[arg-type]

    def counts(self) -> dict[str, int]:
        return {table: self.ask(f"SELECT count(*) FROM {table}")[0][0] for table in TOPICS}

    def rows(self, table: str) -> dict[tuple[Any, ...], Row]:
        """Everything that a table holds, by its key."""
        with database(self.settings) as connection:
            cursor = connection.execute(f"SELECT * FROM {table}")  # type: ignore[arg-type]
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, values, strict=True)) for values in cursor]
        found = {tuple(row[name] for name in KEYS[table]): row for row in rows}
        assert len(found) == len(rows)
        return found

    def dead(self) -> int:
        low, high = LogReader(self.settings).watermarks(self.settings.topic(DEAD_LETTERS), 0)
        return high - low

    def hold_connect(self) -> None:
        """Let it do nothing more."""
        psutil.Process(self.connect.status().pid).suspend()

    def kill_connect(self) -> None:
        process = psutil.Process(self.connect.status().pid)
        process.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    data_dir = tmp_path_factory.mktemp("stores")
    try:
        yield Stores(data_dir)
    finally:
        stack = EmbeddedStack(data_dir)
        stack.stop()
        stack.wipe()


def assert_all_there(stores: Stores, expected: Mapping[str, int]) -> None:
    for table, count in expected.items():
        wanted = {tuple(one[name] for name in KEYS[table]): one for one in (row(table, k) for k in range(count))}
        found = stores.rows(table)
        assert found.keys() == wanted.keys(), table
        for key, one in wanted.items():
            assert found[key] == one, (table, key)


def test_every_record_is_one_row_although_connect_is_killed_and_the_database_stops(stores: Stores) -> None:
    for table in TOPICS:
        stores.send(table, 0, ALL[table] // 2)
    until(lambda: sum(stores.counts().values()) > 0, stores.counts)
    stores.hold_connect()
    assert sum(lags(stores.settings).values()) > 0, "it was killed too late to tell anything"
    stores.kill_connect()
    stores.connect.start(quiet)
    before = sum(stores.counts().values())
    until(lambda: sum(stores.counts().values()) > before, stores.counts)
    stores.postgres.stop()
    for table in TOPICS:
        stores.send(table, ALL[table] // 2, ALL[table])
    assert sum(lags(stores.settings).values()) > 0, "it was stopped too late to tell anything"
    time.sleep(OUTAGE_S)
    stores.postgres.start(quiet)
    until(lambda: stores.counts() == ALL, lambda: (stores.counts(), stores.run("connect", "status").output), 600)
    assert_all_there(stores, ALL)
    assert stores.dead() == 0


def settled(stores: Stores) -> None:
    """Until everything that was sent is written and committed."""
    until(
        lambda: sum(lags(stores.settings).values()) == 0 and bool(lags(stores.settings)), lambda: lags(stores.settings)
    )


def test_a_topic_read_again_brings_back_what_is_lost_and_changes_nothing_else(stores: Stores) -> None:
    settled(stores)
    before = stores.rows("signals")
    with database(stores.settings, "sep_migrate") as connection:
        connection.execute("DELETE FROM signals WHERE confidence < 0.1")
        connection.execute("UPDATE signals SET p_up = 7 WHERE confidence > 0.9")
    assert stores.rows("signals") != before
    told = stores.run("connect", "rewind", "sep.signals")
    assert told.exit_code == 0, told
    until(lambda: stores.rows("signals") == before, stores.counts)


def test_a_result_may_come_before_its_pattern(stores: Stores) -> None:
    k = OTHERS
    stores.send("trading_results", k, k + 1)
    until(lambda: stores.counts()["trading_results"] == k + 1, stores.counts)
    pattern_id = row("trading_results", k)["pattern_id"]
    asked = "SELECT pair, pattern_data, confidence_score FROM quantum_patterns WHERE pattern_id = %(id)s"
    assert stores.ask(asked, id=pattern_id) == [(None, None, None)]
    stores.send("quantum_patterns", k, k + 1)
    wanted = row("quantum_patterns", k)
    filled = [(wanted["pair"], wanted["pattern_data"], wanted["confidence_score"])]
    until(lambda: stores.ask(asked, id=pattern_id) == filled, lambda: stores.ask(asked, id=pattern_id))


def test_what_cannot_be_read_is_a_dead_letter_with_its_reason_and_the_sink_goes_on(stores: Stores) -> None:
    good = SCHEMAS.encode("bar", record("market_data", BARS))
    bad = [b"no avro at all", good[:-3], b"\0" + (77).to_bytes(4, "big") + good[5:]]
    for value in bad:
        stores.put("market_data", value)
    stores.put("market_data", None)  # nothing to write, and no fault
    stores.put("market_data", good)
    stores.flush()
    until(lambda: stores.counts()["market_data"] == BARS + 1, stores.counts)
    until(lambda: stores.dead() == len(bad), stores.dead)
    batches = LogReader(stores.settings).read(stores.settings.topic(DEAD_LETTERS), 0, 0, len(bad))
    letters = [letter for batch in batches for letter in batch.records()]
    assert [letter.value for letter in letters] == bad
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["__connect.errors.topic"] == b"sep.bars"
        assert headers["__connect.errors.exception.message"]
    assert stores.run("connect", "status").exit_code == 0


def test_connectors_show_no_password(stores: Stores) -> None:
    told = ""
    with Connect(connect_url(stores.settings)) as client:
        for name in client.names():
            told += json.dumps(client.config(name))
    passwords = [stores.postgres.login(role).password for role in ("sep_ingest", "sep_trading")]
    log = (stores.connect.secrets.parent / "connect.log").read_text()
    lines = [*psutil.Process(stores.connect.status().pid).cmdline(), told, log]
    assert not [line for line in lines for password in passwords if password in line]
    assert "${dir:" in told


def test_sinks_are_set_up_once_paused_resumed_and_deleted(stores: Stores) -> None:
    settled(stores)
    assert "into" not in stores.run("connect", "apply").output
    assert stores.run("connect", "pause", "sep.signals").exit_code == 0
    with Connect(connect_url(stores.settings)) as client:
        client.wait("sep.signals", lambda state: state is not None and state.tasks[0].state == "PAUSED")
        paused = json.loads(stores.run("connect", "status", "--json").output)["connectors"]
        assert paused["sep.signals"]["tasks"][0]["state"] == "PAUSED"
        assert paused["sep.market_data"]["lag"] == 0
        assert stores.run("connect", "resume", "--all").exit_code == 0
        assert stores.run("connect", "delete", "sep.signals").exit_code == 0
        assert "sep.signals" not in client.names()
        assert "sep.signals is not set up" in stores.run("connect", "status").output
        told = stores.run("connect", "apply").output
        assert "sep.signals: sep.signals into signals" in told
        assert told.count("running (running)") == len(TOPICS)


def test_wrong_names_and_plugins_that_lack_are_told(stores: Stores) -> None:
    told = stores.run("connect", "pause", "sep.nothing")
    assert "sep.nothing: no such connector" in str(told.exception)
    assert stores.run("connect", "pause").exit_code == 2
    with Connect(connect_url(stores.settings)) as client:
        sinks = declared_sinks(stores.settings)
        check_plugins(client.plugins(), client.url, sinks)
        with pytest.raises(DependencyError, match=r"lacks the plugin io\.apicurio.*AvroConverter"):
            check_plugins(client.plugins() - {sinks[0].config["value.converter"]}, client.url, sinks)
        with pytest.raises(DependencyError, match=r"refuses PUT /connectors/x/config: 400: .*connector type"):
            client.put("x", {"tasks.max": "1"})


def test_a_sink_that_cannot_start_is_told_by_its_reason_and_started_again(stores: Stores) -> None:
    """By whoever asks, or by the watch."""
    stores.postgres.stop()
    with Connect(connect_url(stores.settings)) as client:
        client.put("sep.signals", {**(client.config("sep.signals") or {}), "connection.pool.max_size": "3"})
        state = client.wait("sep.signals", lambda state: state is not None and state.failure is not None)
        assert state is not None
        assert "refused" in (state.failure or ""), state
        stores.postgres.start(quiet)
        state = client.wait("sep.signals", lambda state: state is not None and state.is_running)
        assert state is not None
        assert state.is_running
    told = stores.run("connect", "apply")  # as it was declared
    assert told.exit_code == 0, told.output


@pytest.mark.slow
def test_half_a_minute_without_the_database(stores: Stores) -> None:
    stores.postgres.stop()
    first = 2 * BARS
    stores.send("market_data", first, first + 1_000)
    time.sleep(30)
    stores.postgres.start(quiet)
    wanted = [row("market_data", k) for k in range(first, first + 1_000)]
    keys = [tuple(one[name] for name in KEYS["market_data"]) for one in wanted]

    def found() -> list[object]:  # those of one partition can come long after those of another
        rows = stores.rows("market_data")
        return [rows.get(key) for key in keys]

    until(lambda: None not in found(), stores.counts)
    assert found() == wanted
