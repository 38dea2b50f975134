"""The declared sinks, and what is told where a server is missing; no server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.market.avro import load_schemas
from sep_stream.runtime.embedded import EmbeddedConnect
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.stores.connect import Connect, ConnectorState, TaskState, _reason, connect_url
from sep_stream.stores.connect_watch import PAUSE_S_FIRST, PAUSE_S_MAX, ConnectWatch
from sep_stream.stores.sinks import declared_sinks, group_of, sink_names, tables, topic_of

TOPOLOGY = Topology.load()
OWN = {
    "connect_url": "http://connect:8083", "schema_registry": "http://registry:8080/apis/ccompat/v7",
    "database_url": "postgresql://writer:hunter2-x@db:5433/market?sslmode=verify-full&sslrootcert=/ca.pem",
}  # fmt: skip


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings.load(data_dir=tmp_path, **values)


def test_every_sink_reads_a_declared_topic_in_a_group_that_its_role_may_use(tmp_path: Path) -> None:
    role = TOPOLOGY.role("connect")
    for table in tables():
        given = settings(tmp_path, prefix="")
        assert "read" in role.topics()[topic_of(given, table)]
        assert "read" in role.groups()[group_of(given, table)]
    assert sink_names(settings(tmp_path, prefix="x.")) == [f"x.{table}" for table in tables()]


def test_a_sinks_fields_are_its_tables_columns() -> None:
    schemas = load_schemas(resource("schemas") / "avro")
    migrations = "".join(path.read_text() for path in sorted(resource("migrations").glob("*.sql")))
    for table in tables():
        config = json.loads((resource("connectors") / f"{table}.json").read_text())["config"]
        renames = dict(pair.split(":") for pair in config["transforms.columns.renames"].split(","))
        schema = schemas[TOPOLOGY.topic(config["topics"].removeprefix("{{prefix}}")).value]
        fields = {renames.get(field["name"], field["name"]) for field in schema.raw["fields"]}
        body = migrations.partition(f"CREATE TABLE {table} (")[2].partition("\n)")[0]
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        columns = {line.split()[0].strip('"') for line in lines if not line.startswith("PRIMARY KEY")}
        assert fields == columns, table
        assert set(config["primary.key.fields"].split(",")) <= columns


def test_a_connect_of_ones_own_is_told_addresses_and_how_passwords_are_looked_up(tmp_path: Path) -> None:
    given = settings(tmp_path, **OWN, connect_password="${env:DB_PASSWORD_{user}}")
    by_table = {sink.table: sink.config for sink in declared_sinks(given)}
    bars = by_table["market_data"]
    assert bars["connection.url"].startswith("jdbc:postgresql://db:5433/market?")
    assert "sslmode=verify-full" in bars["connection.url"]
    assert bars["connection.password"] == "${env:DB_PASSWORD_sep_ingest}"
    assert by_table["signals"]["connection.username"] == "sep_trading"
    assert bars["value.converter.apicurio.registry.url"] == "http://registry:8080/apis/registry/v3"
    assert "hunter2-x" not in json.dumps(by_table)
    inside = {
        "connect_database": "jdbc:postgresql://postgres:5432/sep",
        "connect_registry": "http://r:1/apis/registry/v3",
    }
    bars = declared_sinks(settings(tmp_path, **OWN, **inside, connect_password="x"))[0].config
    assert bars["connection.url"].startswith("jdbc:postgresql://postgres:5432/sep?")
    assert bars["value.converter.apicurio.registry.url"] == "http://r:1/apis/registry/v3"


def test_a_connect_of_ones_own_cannot_read_our_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"connect_password: Kafka Connect at http://connect:8083 can't read"):
        declared_sinks(settings(tmp_path, **OWN))


def test_a_password_for_the_embedded_connect_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    given = settings(tmp_path, **{**OWN, "connect_url": None})
    config = declared_sinks(given)[0].config
    file = EmbeddedConnect(tmp_path).secrets / "database.writer"
    assert config["connection.password"] == f"${{dir:{file.parent}:{file.name}}}"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("hunter2-x", 0o600)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("schema_registry", "the sinks read Avro through a registry: no schema registry.*up --with registry"),
        ("database_url", "no database: .*up --with postgres"),
    ],
)
def test_what_the_sinks_need_is_told_with_the_remedy(tmp_path: Path, missing: str, told: str) -> None:
    with pytest.raises(DependencyError, match=told):
        declared_sinks(settings(tmp_path, **{**OWN, missing: None}, connect_password="x"))


def test_a_registry_that_the_converter_cannot_read_is_told(tmp_path: Path) -> None:
    given = settings(tmp_path, **{**OWN, "schema_registry": "http://registry:8081"}, connect_password="x")
    with pytest.raises(ConfigurationError, match=r"schema_registry: .*Apicurio"):
        declared_sinks(given)


def test_without_connect_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"no Kafka Connect: .*up --with registry,postgres,connect"):
        connect_url(settings(tmp_path))
    with (
        Connect("http://127.0.0.1:1") as client,
        pytest.raises(DependencyError, match="does not answer"),
    ):
        client.names()


def test_connect_does_not_start_without_broker_and_registry(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"needs kafka and registry, .*up --with registry,connect"):
        EmbeddedConnect(tmp_path).start(lambda message: None)


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        ("", ""),
        ("a.B: outer\n\tat x\nCaused by: c.D: inner: more\n\tat y\n\t... 3 more", "inner: more"),
        ("a.B: only", "only"),
        ("a.B\n\tat x", "a.B"),
    ],
)
def test_a_failures_reason_is_what_its_innermost_cause_says(trace: str, reason: str) -> None:
    assert _reason(trace) == reason


class Scripted(Connect):
    """Connect's REST API, as a script of states."""

    def __init__(self, states: Iterator[ConnectorState | None]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.states, self.restarted = states, 0

    def state(self, name: str) -> ConnectorState | None:
        return next(self.states)

    def restart(self, name: str) -> None:
        self.restarted += 1


FAILED = ConnectorState("s", "RUNNING", (TaskState(0, "FAILED", "away"),))
RUNS = ConnectorState("s", "RUNNING", (TaskState(0, "RUNNING"),))


def test_a_failed_sink_is_started_again_after_ever_longer_pauses() -> None:
    now_s = 0.0
    client = Scripted(iter(lambda: FAILED, None))
    watch = ConnectWatch(client, lambda: ["s"], lambda: True, lambda: now_s)
    starts = []
    while now_s < 400:
        if watch.look():
            starts.append(now_s)
        now_s += 1
    pauses = [after - before for before, after in pairwise(starts)]
    assert pauses[:4] == [PAUSE_S_FIRST * 2**n for n in range(4)]
    assert set(pauses[-3:]) == {PAUSE_S_MAX}


def test_a_sink_is_not_started_while_the_registry_is_away_nor_when_it_is_well() -> None:
    assert ConnectWatch(Scripted(iter([FAILED])), lambda: ["s"], lambda: False).look() == []
    assert ConnectWatch(Scripted(iter([RUNS])), lambda: ["s"], lambda: True).look() == []
    assert ConnectWatch(Connect("http://127.0.0.1:1"), lambda: ["s"], lambda: True).look() == []
