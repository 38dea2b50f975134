"""Schemas that grow: newer producers read by older programs, and older logs by newer ones, on a real registry."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from sep_stream.cli import cli
from sep_stream.errors import DependencyError
from sep_stream.history import EventLog
from sep_stream.market.avro import Schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.runtime.embedded import EmbeddedRegistry
from sep_stream.runtime.registry_address import RegistryAddress
from sep_stream.runtime.settings import Settings
from sep_stream.stores import schemas as stores_schemas
from sep_stream.stores.registered_writers import IDS_MAX, UNKNOWN_S, RegisteredWriters
from sep_stream.stores.schema_registry import SchemaRegistry
from sep_stream.stores.schemas import declared_schemas, schemas_in_force
from tests.worker.harness import SMALL, TOPOLOGY, raw, run_until_caught_up

pytestmark = pytest.mark.integration

SCHEMAS = declared_schemas()
VENUE = {"name": "venue", "type": ["null", "string"], "default": None}
BEGIN = datetime(2024, 1, 2, tzinfo=UTC)
N = 200


def grown(*fields: Any) -> dict[str, Any]:
    """The schema of events with more fields."""
    record = copy.deepcopy(dict(SCHEMAS["market_event"].raw))
    record["fields"] += fields
    return record


def with_events_of(raw_schema: dict[str, Any]) -> Schemas:
    """The declared schemas of a program whose events have grown, and that forgot to pin another id."""
    event = replace(SCHEMAS["market_event"], raw=raw_schema, parsed=fastavro.parse_schema(copy.deepcopy(raw_schema)))
    return Schemas({schema.name: event if schema.name == "market_event" else schema for schema in SCHEMAS})


def quote(minute: int, **more: Any) -> dict[str, Any]:
    price = Decimal("1.1") + Decimal(minute % 7) / 10_000
    nothing = {field["name"]: None for field in SCHEMAS["market_event"].raw["fields"]}
    return nothing | {
        "instrument": "EUR/USD", "kind": "QUOTE", "event_time": BEGIN + timedelta(minutes=minute), "bid": price,
        "ask": price + Decimal("0.0001"), "source": "test", "sequence": minute,
    } | more  # fmt: skip


def send(settings: Settings, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": settings.brokers, "partitioner": "murmur2_random"})
    for value in values:
        producer.produce(settings.topic("market.events"), value, b"EUR/USD")
    assert producer.flush(60) == 0


def url_of(registry: EmbeddedRegistry) -> str:
    address = registry.address(None)
    assert address is not None
    return address.url


@pytest.fixture
def settings(make_settings: Callable[..., Settings], registry: EmbeddedRegistry, prefix: str) -> Settings:
    """With topics of one test, and the run's registry."""
    return make_settings(prefix, schema_registry=url_of(registry), **SMALL)


def test_a_worker_and_a_newer_program_read_what_older_and_newer_producers_wrote(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = schemas_in_force(settings, register=True)
    send(settings, [ours.encode("market_event", quote(minute)) for minute in range(N)])
    # Confluent's own client registers the newer version as its producer starts.
    client = SchemaRegistryClient({"url": settings.schema_registry})
    serialize = AvroSerializer(client, json.dumps(grown(VENUE)))
    topic = SerializationContext(settings.topic("market.events"), MessageField.VALUE)
    theirs = [serialize(quote(minute, venue="X"), topic) for minute in range(N, 2 * N)]
    send(settings, theirs)

    run_until_caught_up(settings, "--stages", "convert")
    assert raw(settings, "dead.letters") == []
    bars = [ours.decode(value)[1] for _, _, _, value, _ in raw(settings, "bars")]
    assert len([bar for bar in bars if bar["timeframe"] == "M1"]) == 2 * N - 1
    assert ours.decode(theirs[0])[1] == quote(N)
    shown(settings)

    # The program of the newer schema begins with the log of before.
    monkeypatch.setattr(stores_schemas, "declared_schemas", lambda: with_events_of(grown(VENUE)))
    newer = schemas_in_force(settings)
    batches = list(EventLog(settings, TOPOLOGY, newer).batches())
    assert sum(len(batch) for batch in batches) == 2 * N
    assert not any(batch.reason.any() for batch in batches)
    values = [ours.encode("market_event", quote(0)), theirs[0]]
    assert [newer.decode(value)[1]["venue"] for value in values] == [None, "X"]
    assert BulkCodec(*newer.of("market_event")).decode(values).columns["venue"].to_list() == [None, b"X"]


def shown(settings: Settings) -> None:
    """Every version is shown, with whether it can be read, and so is one that can't."""
    flags = ("--prefix", settings.prefix, "--data-dir", str(settings.data_dir))
    subject = f"{settings.topic('market.events')}-value"

    def run(*args: str) -> Any:
        return CliRunner(env={"SEP_SCHEMA_REGISTRY": settings.schema_registry}).invoke(cli, [*args, *flags])

    assert run("schemas", "check").exit_code == 0
    assert f"{subject}: also version 2, which can be read" in run("doctor").stdout
    bad = grown({"name": "bid_size", "type": "long"})
    bad["fields"][0] = {"name": "instrument", "type": "long"}
    with SchemaRegistry(RegistryAddress(settings.schema_registry or "")) as client:
        client.set_compatibility(subject, "NONE")
        client.add(subject, json.dumps(bad))
        client.set_compatibility(subject, "FULL_TRANSITIVE")
    lines = run("schemas", "list").stdout.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith(subject))
    assert [line.partition("  version ")[2][:1] for line in lines[at + 1 : at + 4]] == ["1", "2", "3"]
    assert lines[at + 1].endswith("can be read, this program's")
    assert lines[at + 2].endswith("can be read")
    told = "can't be read: field 'instrument' is string, and there it is long"
    assert lines[at + 3].endswith(told)
    assert run("schemas", "check").exit_code == 1
    assert told in run("doctor").stdout


def test_ids_of_nobody_are_asked_for_once_and_a_flood_of_them_costs_few_requests(
    registry: EmbeddedRegistry, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = SchemaRegistry._ask
    monkeypatch.setattr(SchemaRegistry, "_ask", lambda self, *a, **k: (asked.append(a[1]), ask(self, *a, **k))[1])
    address, subject, now_s = RegistryAddress(url_of(registry)), f"{prefix}market.events-value", [0.0]
    with SchemaRegistry(address) as client:
        known = client.add(subject, json.dumps(grown(VENUE, VENUE | {"name": prefix.rstrip(".").replace("-", "_")})))
    look = RegisteredWriters(address, [subject], lambda: now_s[0])
    strange = range(2**31 + 7, 2**31 + 2_007)

    asked.clear()
    assert look([strange[0]]) == {}
    assert look([strange[0]]) == {}
    assert len(asked) == 1
    assert look([*strange, known]).keys() == {known}
    assert len(asked) <= 1 + IDS_MAX + 2  # a list, and its one version
    asked.clear()
    now_s[0] = UNKNOWN_S
    look([strange[0]])
    assert len(asked) == 1


def test_a_registry_that_does_not_answer_makes_no_dead_letters() -> None:
    look = RegisteredWriters(RegistryAddress("http://127.0.0.1:1"), [])
    with pytest.raises(DependencyError, match=r"does not answer.*records name the schema id 77"):
        look([77])


def test_an_id_of_no_schema_is_none(registry: EmbeddedRegistry, tmp_path: Path) -> None:
    with SchemaRegistry(RegistryAddress(url_of(registry))) as client:
        assert client.schema(2**31 + 5) is None
        assert client.schema(2**32 - 1) is None
