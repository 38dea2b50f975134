"""Our schemas in a real registry: under which ids, what is refused, and that records are read whoever gave the ids."""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from sep_stream.cli import cli
from sep_stream.errors import ConfigurationError, DependencyError, InputError
from sep_stream.history import EventLog
from sep_stream.market.avro import HEADER_BYTES, Schemas
from sep_stream.runtime.embedded import EmbeddedRegistry
from sep_stream.runtime.registry_address import RegistryAddress
from sep_stream.runtime.settings import Settings
from sep_stream.sources.publisher import Publisher
from sep_stream.stores.registration import Subject, register_all
from sep_stream.stores.schema_registry import RefusedError, SchemaRegistry
from sep_stream.stores.schemas import declared_schemas, schemas_in_force
from tests.waiting import PATIENCE_S
from tests.worker.harness import SMALL, TOPOLOGY, publish, raw, run_until_caught_up
from tests.worker.markets import SEED, quotes

SCHEMAS = declared_schemas()
WITH_SCHEMA = [topic for topic in TOPOLOGY.topics if topic.value]
"""All but those of records as they came."""
PINNED = {schema.name: schema.schema_id for schema in SCHEMAS}
TAKEN = ("market_event", "bar", "signal")
"""Their pinned ids belong to somebody else in the secured registry."""
COLOUR = {"name": "colour", "type": ["null", "string"], "default": None}


def quiet(message: str) -> None:
    """Progress is not looked at."""


def address_of(registry: EmbeddedRegistry, role: str | None = None) -> RegistryAddress:
    address = registry.address(role)
    assert address is not None
    return address


@pytest.fixture
def settings(registry: EmbeddedRegistry, prefix: str, tmp_path: Path) -> Settings:
    """With the run's registry, and topics of one test."""
    return Settings.load(data_dir=tmp_path, prefix=prefix, schema_registry=address_of(registry).url)


@pytest.fixture
def client(registry: EmbeddedRegistry) -> Iterator[SchemaRegistry]:
    with SchemaRegistry(address_of(registry)) as client:
        yield client


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRegistry]:
    """A registry with TLS and users, in which some of our ids are taken."""
    registry = EmbeddedRegistry(tmp_path_factory.mktemp("secured"))
    registry.start(quiet, secure=True)
    with SchemaRegistry(address_of(registry, "admin")) as client:
        foreign = {PINNED[name]: json.dumps({"type": "fixed", "name": name, "size": 1}) for name in TAKEN}
        assert client.keep_under(foreign)
        for schema_id, text in foreign.items():
            assert client.add(f"foreign-{schema_id}-value", text) == schema_id
    yield registry
    registry.stop()


def secured_settings(registry: EmbeddedRegistry, role: str = "admin", **values: Any) -> Settings:
    login = {
        "schema_registry": address_of(registry).url,
        "schema_registry_username": role,
        "schema_registry_password_file": registry.security.password_file(role),
        "schema_registry_ca_location": registry.security.authority,
    }
    return Settings.load(**{"data_dir": registry.security.data_dir} | login | values)


def changed(name: str, schema_id: int, change: Callable[[Any], None]) -> Schemas:
    """The schemas, with another version of one."""
    record = copy.deepcopy(dict(SCHEMAS[name].raw))
    change(record["fields"])
    return Schemas(
        {
            schema.name: replace(schema, raw=record, schema_id=schema_id) if schema.name == name else schema
            for schema in SCHEMAS
        }
    )


def spoilt(fields: list[Any]) -> None:
    """A close that is text, which Avro itself would read, and a new field without a default."""
    fields[[field["name"] for field in fields].index("close")] = {"name": "close", "type": "string"}
    fields.append({"name": "shape", "type": "long"})


def ids_of(schemas: Schemas) -> dict[str, int]:
    return {schema.name: schema.schema_id for schema in schemas}


def run(settings: Settings, *args: str) -> Result:
    flags = ("--prefix", settings.prefix, "--data-dir", str(settings.data_dir))
    environment = {"SEP_SCHEMA_REGISTRY": settings.schema_registry or ""} if settings.schema_registry else {}
    return CliRunner(env=environment).invoke(cli, [*args, *flags])


pytestmark = pytest.mark.integration


def test_schemas_come_under_their_pinned_ids_and_twice_is_once(settings: Settings, client: SchemaRegistry) -> None:
    first = register_all(client, settings, SCHEMAS)
    assert [subject.schema_id for subject in first] == [PINNED[subject.schema] for subject in first]
    assert {subject.name for subject in first} == {f"{settings.topic(t.name)}-value" for t in WITH_SCHEMA}
    assert {client.compatibility(subject.name) for subject in first} == {"FULL_TRANSITIVE"}
    assert register_all(client, settings, SCHEMAS) == [replace(subject, is_new=False) for subject in first]
    assert ids_of(schemas_in_force(settings, register=True)) == PINNED


def test_another_prefix_has_the_same_ids(settings: Settings, client: SchemaRegistry) -> None:
    for part in ("one.", "two."):
        other = settings.model_copy(update={"prefix": settings.prefix + part})
        assert {subject.schema_id for subject in register_all(client, other, SCHEMAS)} == set(PINNED.values())


def test_who_reads_registers_nothing(settings: Settings, client: SchemaRegistry) -> None:
    assert ids_of(schemas_in_force(settings)) == PINNED
    assert not [name for name in client.subjects() if name.startswith(settings.prefix)]


def test_an_id_of_ours_is_the_content_id_by_which_connects_converter_asks(
    settings: Settings, client: SchemaRegistry
) -> None:
    register_all(client, settings, SCHEMAS)
    native = client.address.native_url
    found = httpx.get(f"{native}/ids/contentIds/{PINNED['bar']}", timeout=60)
    assert found.json() == SCHEMAS["bar"].raw


def test_confluents_own_deserializer_reads_our_records(settings: Settings, client: SchemaRegistry) -> None:
    register_all(client, settings, SCHEMAS)
    pattern = {"pattern_id": "p", "instrument": "EUR/USD", "path": b"\0\1", "confidence": 0.5}
    read = AvroDeserializer(SchemaRegistryClient({"url": client.address.url}))
    topic = SerializationContext(settings.topic("patterns"), MessageField.VALUE)
    assert read(SCHEMAS.encode("pattern", pattern), topic) == pattern


def test_a_later_version_keeps_its_pinned_id_and_the_earlier_ones(settings: Settings, client: SchemaRegistry) -> None:
    register_all(client, settings, SCHEMAS)
    pinned = 2**30 + 1_000
    later = register_all(client, settings, changed("bar", pinned, lambda fields: fields.append(COLOUR)))
    [bars] = [subject for subject in later if subject.is_new]
    assert bars == Subject(f"{settings.prefix}bars-value", "bar", pinned, pinned, 2, "FULL_TRANSITIVE", is_new=True)
    assert [version.schema_id for version in client.versions(bars.name)] == [PINNED["bar"], pinned]


def test_an_incompatible_version_is_refused_by_its_fields_and_nothing_is_registered(
    settings: Settings, client: SchemaRegistry
) -> None:
    subject = f"{settings.prefix}bars-value"
    client.add(subject, SCHEMAS["bar"].text)
    told = (
        f"{subject}: against version 1, field 'close' is string, and there it is decimal(18,9); "
        f"{subject}: against version 1, field 'shape' is new and has no default."
    )
    with pytest.raises(InputError) as refused:
        register_all(client, settings, changed("bar", 2**30 + 1_001, spoilt))
    assert told in str(refused.value)
    assert [name for name in client.subjects() if name.startswith(settings.prefix)] == [subject]


def test_all_earlier_versions_count(settings: Settings, client: SchemaRegistry) -> None:
    """A default may come and its field go; the first version then can't be read with the third."""
    register_all(client, settings, SCHEMAS)
    subject, record = f"{settings.prefix}bars-value", copy.deepcopy(dict(SCHEMAS["bar"].raw))
    client.set_compatibility(subject, "NONE")
    record["fields"][-1] |= {"name": "other"}
    client.add(subject, json.dumps(record))
    with pytest.raises(InputError, match="against version 1, field 'close' is string"):
        register_all(client, settings, changed("bar", 2**30 + 1_002, spoilt))


def test_others_are_refused_by_the_registry_itself(settings: Settings, client: SchemaRegistry) -> None:
    register_all(client, settings, SCHEMAS)
    subject = f"{settings.prefix}bars-value"
    with pytest.raises(RefusedError, match="shape"):
        client.add(subject, changed("bar", 0, spoilt)["bar"].text)


def test_a_registry_that_keeps_no_ids_of_ours_gives_its_own(registry: EmbeddedRegistry, settings: Settings) -> None:
    """Asked in Confluent's protocol alone, Apicurio takes the mode IMPORT and then gives an id of its own."""
    plain = RegistryAddress(address_of(registry).url.replace("/v7", "/v8"))
    with SchemaRegistry(plain) as client:
        subjects = register_all(
            client, settings, changed("bar", 2**30 + 1_003, lambda fields: fields.insert(0, COLOUR))
        )
    [bars] = [subject for subject in subjects if subject.schema == "bar"]
    assert bars.schema_id != bars.pinned_id
    assert bars.version == 1
    assert httpx.get(f"{plain.url}/mode/{bars.name}", timeout=60).json() == {"mode": "READWRITE"}


def test_the_commands_tell_what_would_be_refused(settings: Settings, client: SchemaRegistry) -> None:
    subject = f"{settings.prefix}bars-value"
    client.add(subject, changed("bar", 0, spoilt)["bar"].text)
    checked = run(settings, "schemas", "check", "--json")
    assert checked.exit_code == 1
    [entry] = [entry for entry in json.loads(checked.stdout) if entry["faults"]]
    assert entry["name"] == subject
    told = "field 'close' is decimal(18,9), and there it is string"
    assert entry["faults"][0] == f"against version 1, {told}"
    assert told in str(run(settings, "schemas", "register").exception)
    assert f"FAIL  registry       {subject}: against version 1, {told}" in run(settings, "doctor").stdout


def test_the_commands_register_and_list(settings: Settings) -> None:
    missing = run(settings, "doctor").stdout
    assert f"FAIL  registry       {settings.prefix}market.events-value: not registered" in missing
    assert "`sep-stream schemas register`" in missing
    registered = run(settings, "schemas", "register")
    assert registered.stdout.count("registered\n") == len(WITH_SCHEMA), registered.output
    listed = json.loads(run(settings, "schemas", "list", "--json").stdout)
    assert {(entry["version"], entry["compatibility"]) for entry in listed} == {(1, "FULL_TRANSITIVE")}
    assert f"ok    registry       {len(WITH_SCHEMA)} subjects at " in run(settings, "doctor").stdout


def test_without_a_registry_the_commands_tell_how_to_come_by_one(tmp_path: Path) -> None:
    error = run(Settings.load(data_dir=tmp_path), "schemas", "list").exception
    assert isinstance(error, DependencyError)
    assert "`sep-stream up --with registry`" in str(error)
    assert "SEP_SCHEMA_REGISTRY" in str(error)


def test_where_ids_are_taken_the_registrys_are_used(secured: EmbeddedRegistry, prefix: str) -> None:
    settings = secured_settings(secured, prefix=prefix)
    schemas = schemas_in_force(settings, register=True)
    assert {name for name, schema_id in ids_of(schemas).items() if schema_id != PINNED[name]} == set(TAKEN)
    assert all(schemas[name].also == (PINNED[name],) for name in TAKEN)
    assert ids_of(schemas_in_force(secured_settings(secured, "read", prefix=prefix))) == ids_of(schemas)


def test_a_log_written_before_the_registry_came_is_read_by_everything_after(
    secured: EmbeddedRegistry, make_settings: Callable[..., Settings], prefix: str
) -> None:
    before = make_settings(prefix, **SMALL)
    events = quotes(SEED)
    half = len(events) // 2
    publish(before, events.take(np.arange(half)))
    run_until_caught_up(before, "--stages", "convert")

    values = {"brokers": before.brokers, "prefix": prefix, "data_dir": before.data_dir} | SMALL
    after = secured_settings(secured, **values)
    schemas = schemas_in_force(after, register=True)
    topic = after.topic("market.events")
    with Publisher({"bootstrap.servers": after.brokers}, schemas, TOPOLOGY.instruments, topic, after.partitions) as to:
        to.publish(events.take(np.arange(half, len(events))))
    run_until_caught_up(after, "--stages", "convert")

    bars = [value for _, _, _, value, _ in raw(after, "bars")]
    heads = {value[:HEADER_BYTES] for value in bars}
    assert heads == {b"\0" + s["bar"].schema_id.to_bytes(4, "big") for s in (SCHEMAS, schemas)}
    assert raw(after, "dead.letters") == []
    assert sum(len(batch) for batch in EventLog(after, TOPOLOGY).batches()) == len(events)
    shown = CliRunner(env=after.environment()).invoke(
        cli, ["tail", "bars", "--from", "beginning", "--json", "--until-end"]
    )
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(lines) == len(bars), shown.output
    assert all("index" in line for line in lines)


@pytest.mark.slow
def test_what_it_has_answered_outlives_a_kill(secured: EmbeddedRegistry, prefix: str) -> None:
    subject, text = f"{prefix}killed-value", json.dumps({"type": "enum", "name": "E", "symbols": [prefix[:-1]]})
    with SchemaRegistry(address_of(secured, "admin")) as before:
        schema_id = before.add(subject, text)
        process = psutil.Process(secured.status().pid)
        process.kill()
        process.wait(PATIENCE_S)
    secured.start(quiet, secure=True)
    with SchemaRegistry(address_of(secured, "admin")) as after:
        found = after.find(subject, text)
    assert found is not None
    assert found.schema_id == schema_id


def test_who_may_not_register_is_told_who_may(secured: EmbeddedRegistry, prefix: str) -> None:
    with pytest.raises(DependencyError, match=r"does not let the user 'read' do that.*`sep-stream schemas register`"):
        schemas_in_force(secured_settings(secured, "read", prefix=prefix), register=True)


@pytest.mark.parametrize("command", ["worker --stages convert", "ingest synthetic --days 1", "tail bars"])
def test_a_registry_that_is_down_stops_a_command_at_its_start(
    make_settings: Callable[..., Settings], prefix: str, command: str
) -> None:
    settings = make_settings(prefix, schema_registry="http://127.0.0.1:1/apis/ccompat/v7")
    result = CliRunner(env=settings.environment()).invoke(cli, command.split())
    assert isinstance(result.exception, DependencyError)
    assert "http://127.0.0.1:1/apis/ccompat/v7: the schema registry does not answer" in str(result.exception)


def refusal(address: RegistryAddress, seconds_max: float = 5.0) -> str:
    with pytest.raises(DependencyError) as refused, SchemaRegistry(address, seconds_max) as client:
        client.subjects()
    return str(refused.value)


def test_a_login_that_is_not_known_is_told_without_its_password(secured: EmbeddedRegistry) -> None:
    address = address_of(secured, "read")
    assert "refuses the user 'read': give it schema_registry_username" in refusal(replace(address, password="guess-7"))
    assert "guess-7" not in refusal(replace(address, password="guess-7"))
    assert "guess-7" not in repr(replace(address, password="guess-7"))


def test_who_does_not_log_in_reads_and_registers_nothing(secured: EmbeddedRegistry, prefix: str) -> None:
    """Connect's converter can't log in."""
    nobody = replace(address_of(secured, "read"), username=None)
    settings = secured_settings(secured, prefix=prefix)
    with SchemaRegistry(nobody) as client:
        client.subjects()
        with pytest.raises(DependencyError, match="log in"):
            register_all(client, settings, SCHEMAS)


def test_http_and_https_taken_for_each_other_are_told(registry: EmbeddedRegistry, secured: EmbeddedRegistry) -> None:
    to_https = replace(address_of(secured, "read"), url=address_of(secured).url.replace("https:", "http:"))
    assert "hangs up on plain HTTP" in refusal(to_https)
    assert "is its URL https://…?" in refusal(to_https)
    to_http = RegistryAddress(address_of(registry).url.replace("http:", "https:"))
    assert "speaks no TLS" in refusal(to_http)


def test_a_certificate_of_nobody_is_told(secured: EmbeddedRegistry, tmp_path: Path) -> None:
    stranger = replace(address_of(secured, "read"), authority=None)
    assert "shows a certificate that is not trusted" in refusal(stranger)
    assert "schema_registry_ca_location" in refusal(stranger)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/ca.pem: expected a certificate in PEM"):
        SchemaRegistry(replace(stranger, authority=tmp_path / "ca.pem"))


def test_one_that_is_down_or_mute_is_told_in_time() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        address = RegistryAddress(f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert "does not answer in time" in refusal(address, 5.0)
    assert "or start the embedded one with `sep-stream up --with registry`" in refusal(address)


class Page(BaseHTTPRequestHandler):
    """Answers everything with what its path holds."""

    def do_GET(self) -> None:
        self.send_response(503 if "ill" in self.path else 200)
        self.end_headers()
        self.wfile.write(
            {"/page": b"<html>", "/other": b'{"a": 1}', "/ill": b"{}"}[self.path.removesuffix("/subjects")]
        )

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


def test_what_is_no_registry_is_told() -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for path in ("page", "other"):
            told = refusal(RegistryAddress(f"{url}/{path}"))
            assert "does not answer as a schema registry" in told
            assert "/apis/ccompat/v7" in told
        assert "answers 503" in refusal(RegistryAddress(f"{url}/ill"))
        server.shutdown()
