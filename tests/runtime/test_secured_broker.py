"""A secured broker: each role does its work and nothing else, and what is refused is told with the remedy."""

from __future__ import annotations

import json
import re
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from sep_stream.cli import cli
from sep_stream.errors import ConfigurationError, SepError
from sep_stream.history import EventLog
from sep_stream.history.requeue import Requeue
from sep_stream.history.transactions import Transactions
from sep_stream.market.events import Kind
from sep_stream.runtime import acls, log_reader, topics
from sep_stream.runtime.acls import Acl
from sep_stream.runtime.certificates import Authority
from sep_stream.runtime.embedded import EmbeddedKafka, EmbeddedRedis
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.private_files import write_private
from sep_stream.runtime.security_folder import SERVER_NAMES
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.users import admit_roles
from sep_stream.sources.publisher import Publisher
from sep_stream.worker.runner import STAGES
from tests.cli.commands import finish, start
from tests.cli.refusals import Sender
from tests.waiting import bear_with_servers, slow_bound_s
from tests.worker.harness import COLD_S_MAX, SCHEMAS, SMALL, TOPOLOGY, await_log, log_of, put_in_force, worker
from tests.worker.markets import SEED, SYMBOLS, model_of, quotes

pytestmark = pytest.mark.integration

PARTITIONS = 2
COMMANDS = ("worker", "ingest synthetic --days 1", "tail bars", "topics list")
LIMIT_S = max(topics.REQUEST_TIMEOUT_S, log_reader.REQUEST_TIMEOUT_S)
SECONDS_MAX = 10
"""Promised limit of the wait for a login that fails."""


@dataclass
class Secured:
    """A secured broker with topics, users and ACLs. commands: the command lines that its start ran."""

    kafka: EmbeddedKafka
    address: str
    data_dir: Path
    commands: list[list[str]] = field(default_factory=list)

    def settings(self, role: str, **values: Any) -> Settings:
        given = {"brokers": self.address, "data_dir": self.data_dir, "partitions": PARTITIONS} | SMALL
        return Settings.load(**given | self.kafka.security.credentials(role) | values)

    def passwords(self) -> list[str]:
        return [file.read_text() for file in self.kafka.security.passwords.iterdir()]

    def names_no_secret(self, text: str) -> bool:
        return not any(password in text for password in self.passwords())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    data_dir = tmp_path_factory.mktemp("secured")
    kafka = EmbeddedKafka(data_dir)
    commands: list[list[str]] = []
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            subprocess, "Popen", lambda line, **kw: commands.append(list(map(str, line))) or popen(line, **kw)
        )
        bear_with_servers(patch)
        address = kafka.start(lambda message: None, secure=True)
        found = Secured(kafka, address, data_dir, commands)
        topics.create(found.settings("admin"), TOPOLOGY)
        admit_roles(found.settings("admin"), kafka.security, TOPOLOGY)
    yield found
    kafka.stop()


def refusal_of(settings: Settings, topic: str) -> int:
    """The code of the error that a producer gets."""
    codes: list[int] = []
    producer = Producer(librdkafka(settings))
    producer.produce(
        settings.topic(topic), b"x", on_delivery=lambda error, _: codes.append(error.code() if error else 0)
    )
    producer.flush(60)
    return codes[0]


@pytest.mark.parametrize("role", [role.name for role in TOPOLOGY.roles if role.name != "admin"])
def test_a_role_may_do_what_is_declared_and_nothing_else(secured: Secured, role: str) -> None:
    """As the broker sees it; `describe` follows from all else."""
    settings = secured.settings(role)
    rights = TOPOLOGY.role(role).topics()
    client = topics.connected_admin(settings)
    names = [settings.topic(topic.name) for topic in TOPOLOGY.topics]
    described = client.describe_topics(TopicCollection(names), include_authorized_operations=True)
    for topic in TOPOLOGY.topics:
        future = described[settings.topic(topic.name)]
        if topic.name not in rights:
            with pytest.raises(KafkaException, match="Topic authorization failed"):
                future.result(60)
            continue
        found = {operation.name.lower() for operation in future.result(60).authorized_operations}
        assert found - {"describe"} == rights[topic.name], topic.name


@pytest.mark.parametrize(("role", "topic"), [("ingest", "bars"), ("read", "market.events"), ("metrics", "signals")])
def test_a_role_that_may_not_write_is_refused(secured: Secured, role: str, topic: str) -> None:
    assert refusal_of(secured.settings(role), topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_who_may_not_read_is_refused_with_user_topic_and_remedy(secured: Secured) -> None:
    told = f"{secured.address} does not let user 'ingest' use topic 'sep.signals'; .*topics acl apply"
    with pytest.raises(SepError, match=told):
        LogReader(secured.settings("ingest")).partitions("sep.signals")
    with pytest.raises(SepError, match=r"does not let user 'score' use consumer group 'sep\.convert'"):
        LogReader(secured.settings("score")).committed("sep.convert", "sep.metrics", [0])
    with pytest.raises(SepError, match=r"does not let user 'convert' read topic 'sep\.bars'"):
        list(LogReader(secured.settings("convert")).read("sep.bars", 0, 0, 1))
    with pytest.raises(SepError, match=r"does not let user 'convert' read topic 'sep\.bars'"):
        list(LogReader(secured.settings("convert")).columns("sep.bars", 0, 0, 1))


def test_a_worker_that_lacks_a_right_does_not_begin(secured: Secured) -> None:
    """Of its topics and its group: it is told before it joins."""
    topics.check(secured.settings("worker"), TOPOLOGY, STAGES)
    with pytest.raises(SepError, match=r"does not let user 'read' write topic 'sep\.dead\.letters'"):
        topics.check(secured.settings("read"), TOPOLOGY, ["metrics"])
    admin = secured.settings("admin")
    acls.prune(admin, [Acl("User:metrics", "group", "literal", "sep.metrics", "read")])
    with pytest.raises(SepError, match=r"does not let user 'metrics' read consumer group 'sep\.metrics'; .*acl apply"):
        topics.check(secured.settings("metrics"), TOPOLOGY, ["metrics"])
    acls.apply(admin, TOPOLOGY)
    topics.check(secured.settings("metrics"), TOPOLOGY, ["metrics"])


def test_only_the_admin_changes_who_may_what(secured: Secured) -> None:
    with pytest.raises(SepError, match="does not let user 'worker' describe ACLs"):
        acls.show(secured.settings("worker"), TOPOLOGY)
    with pytest.raises(SepError, match=r"does not let user 'read' describe topic 'other\.market\.events'"):
        topics.create(secured.settings("read", prefix="other."), TOPOLOGY)


def test_the_pipeline_runs_with_a_user_for_each_stage(secured: Secured, tmp_path: Path) -> None:
    """Publishing, activating, each stage in a process of its own, reading."""
    secured_by = secured.settings
    models = {"models_url": str(tmp_path / "models")}
    events = quotes(SEED).take(slice(0, 1500))
    cut_s = int(events.event_time[1000]) // 1_000_000
    put_in_force(secured_by("model", **models), model_of(events, cut_s), SYMBOLS, cut_s)
    kafka = librdkafka(secured_by("ingest"))
    with Publisher(kafka, SCHEMAS, TOPOLOGY.instruments, "sep.market.events", PARTITIONS) as publisher:
        publisher.publish(events)
    reader = LogReader(secured_by("read"))

    def count(topic: str) -> int:
        return sum(reader.watermarks(f"sep.{topic}", partition)[1] for partition in range(PARTITIONS))

    folders = {stage: tmp_path / stage for stage in STAGES}
    with ExitStack() as stack:
        running = {
            stage: stack.enter_context(worker(secured_by(stage, data_dir=folder, **models), "--stages", stage))
            for stage, folder in folders.items()
        }
        deadline_s = time.monotonic() + COLD_S_MAX
        while not (0 < count("windows") == count("metrics") == count("signals")):
            for stage, process in running.items():
                assert process.poll() is None, log_of(secured_by(stage, data_dir=folders[stage]))
            assert time.monotonic() < deadline_s, {name: count(name) for name in ("windows", "metrics", "signals")}
            time.sleep(0.1)
    assert count("dead.letters") == 0
    kinds = [kind for batch in EventLog(secured_by("read"), TOPOLOGY).batches(SYMBOLS) for kind in batch.kind.tolist()]
    assert kinds.count(Kind.QUOTE) == len(events)
    assert secured.names_no_secret("".join((folder / "worker.log").read_text() for folder in folders.values()))


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("group", "sep.convert", "read consumer group 'sep.convert'"),
        ("topic", "sep.market.events", "read topic 'sep.market.events'"),
    ],
)
def test_a_right_that_is_taken_from_a_running_worker_ends_it_with_the_remedy(
    secured: Secured, tmp_path: Path, kind: str, name: str, told: str
) -> None:
    """Nobody would hear of a member that the group refuses, or of a topic that it may not read any more."""
    admin = secured.settings("admin")
    taken = [
        acl
        for acl in acls.declared(admin, TOPOLOGY)
        if (acl.principal, acl.resource, acl.name) == ("User:convert", kind, name)
    ]
    settings = secured.settings("convert", data_dir=tmp_path)
    with worker(settings, "--stages", "convert") as process:
        await_log(settings, process, '"partitions assigned"')
        acls.prune(admin, taken)
        try:
            assert process.wait(COLD_S_MAX) == 1
        finally:
            acls.apply(admin, TOPOLOGY)
    assert re.search(rf"does not let user 'convert' {told}; .*topics acl", log_of(settings)), log_of(settings)


def test_one_process_of_several_stages_is_a_user_of_its_own(secured: Secured) -> None:
    """Its log in, its rights and its groups are good: it starts and stops in order."""
    settings = {f"SEP_{name.upper()}": str(value) for name, value in (SMALL | {"partitions": PARTITIONS}).items()}
    process = start("worker", "--stages", "convert,metrics", "--until-caught-up", cwd=secured.data_dir.parent,
                    SEP_DATA_DIR=str(secured.data_dir), **settings)  # fmt: skip
    code, stdout, stderr = finish(process)
    assert code == 0, stderr
    assert secured.names_no_secret(stdout + stderr)


def faults(secured: Secured, folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """What may be wrong with a login: settings, and what is told."""
    (folder / "ca.pem").write_text(Authority.make().certificate_pem)
    login = "refuses user '{}': .*invalid credentials.*check sasl_username, sasl_mechanism and sasl_password"
    return {
        "password": ({"sasl_password_file": None, "sasl_password": "hunter2-x"}, login.format("read")),
        "user": ({"sasl_username": "nobody"}, login.format("nobody")),
        "mechanism": ({"sasl_mechanism": "PLAIN"}, "refuses user 'read': .*Unsupported SASL mechanism"),
        "authority": ({"ssl_ca_location": folder / "ca.pem"}, "is not trusted: .*ssl_ca_location has to name"),
        "plaintext": (
            dict.fromkeys(secured.kafka.security.credentials("read")) | {"sasl_mechanism": "SCRAM-SHA-512"},
            "speaks TLS, security_protocol is PLAINTEXT; set it to SASL_SSL",
        ),
        "no tls": (
            {"security_protocol": "SASL_PLAINTEXT", "ssl_ca_location": None},
            "speaks TLS, security_protocol is SASL_PLAINTEXT",
        ),
    }


@pytest.mark.parametrize("fault", ["password", "user", "mechanism", "authority", "plaintext", "no tls"])
@pytest.mark.parametrize(
    "ask", [topics.check, lambda s, _: LogReader(s).partitions("sep.bars")], ids=["admin", "reader"]
)
def test_a_login_that_fails_is_told_with_address_reason_and_remedy(
    secured: Secured, tmp_path: Path, fault: str, ask: Callable[[Settings, Any], object]
) -> None:
    values, told = faults(secured, tmp_path)[fault]
    settings = secured.settings("read", **values)
    assert LIMIT_S < SECONDS_MAX
    begun_s = time.monotonic()
    with pytest.raises(SepError, match=f"the broker at {secured.address} .*{told}") as caught:
        ask(settings, TOPOLOGY)
    assert time.monotonic() - begun_s < slow_bound_s(SECONDS_MAX)
    assert "hunter2-x" not in str(caught.value)
    assert secured.names_no_secret(str(caught.value))


def test_every_command_tells_one_message_and_fails(secured: Secured, tmp_path: Path) -> None:
    """All at once: a different fault for each, and rights that are missing for all."""
    logins = faults(secured, tmp_path)
    cases = [
        *zip(COMMANDS, ("password", "authority", "user", "plaintext"), strict=True),
        *((c, None) for c in COMMANDS),
    ]
    rights = {
        "worker": "user 'ingest' describe topic|user 'ingest' read topic",
        "ingest synthetic --days 1": "user 'read' write topic 'sep.market.events'",
        "tail bars": "user 'ingest' use topic 'sep.bars'",
        "topics list": "user 'ingest' describe topic",
    }
    running = []
    for command, fault in cases:
        role = "read" if fault or command.startswith("ingest") else "ingest"
        values, told = logins[fault] if fault else ({}, f"does not let {rights[command]}")
        environment = secured.settings(role, **values).environment()
        running.append((command, told, start(*command.split(), cwd=tmp_path, **environment)))
    for command, told, process in running:
        code, stdout, stderr = finish(process)
        assert (code, stdout) == (1, ""), command
        assert len(stderr.splitlines()) == 1, stderr
        with pytest.raises(AssertionError, match=f"sep-stream: the broker at {secured.address} .*{told}"):
            raise AssertionError(stderr)
        assert secured.names_no_secret(stderr)


def test_commands_log_in_by_themselves(secured: Secured) -> None:
    flags = ["--data-dir", str(secured.data_dir)]
    told = [
        CliRunner().invoke(cli, [*command, *flags], env={"SEP_PARTITIONS": str(PARTITIONS)}, catch_exceptions=False)
        for command in (["topics", "list"], ["status", "--json"], ["topics", "acl", "show", "--json"],
                        ["doctor", "--json"], ["ingest", "synthetic", "--days", "1", "--json"])
    ]  # fmt: skip
    assert [result.exit_code for result in told] == [0] * len(told), [result.output for result in told]
    assert secured.names_no_secret("".join(result.output for result in told))
    findings = {finding["check"]: finding for finding in map(json.loads, told[3].output.splitlines())}
    assert findings["security"]["ok"]
    assert findings["acls"]["detail"] == f"{len(acls.declared(secured.settings('admin'), TOPOLOGY))} as declared"


def test_the_cache_is_made_and_checked_as_its_roles(secured: Secured) -> None:
    redis = EmbeddedRedis(secured.data_dir)
    try:
        redis.start(lambda message: None, secure=True)
    except ConfigurationError as error:
        pytest.skip(str(error))
    try:
        environment = {"SEP_PARTITIONS": str(PARTITIONS), "SEP_DATA_DIR": str(secured.data_dir)}
        for words in ("rebuild", "verify", "verify --json"):
            told = CliRunner().invoke(cli, ["cache", *words.split()], env=environment)
            assert told.exit_code == 0, (told.output, told.exception)
        environment |= secured.settings("ingest").environment()
        told = CliRunner().invoke(cli, ["cache", "verify"], env=environment)
        assert "does not let user 'ingest' use topic 'sep.prices.latest'" in str(told.exception)
    finally:
        redis.stop()


def test_who_requeues_may_and_who_reads_may_not(secured: Secured) -> None:
    letter = Sender(secured.settings("admin")).misplaced("GBP/USD", 0)
    line = ["dlq", "requeue", letter, "--yes"]

    def run(*words: str, **environment: str) -> Result:
        environment |= {"SEP_PARTITIONS": str(PARTITIONS), "SEP_DATA_DIR": str(secured.data_dir)}
        return CliRunner().invoke(cli, [*line, *words], env=environment)

    told = run(**secured.settings("read").environment())
    assert told.exit_code == 1
    assert "does not let user 'read' write topic 'sep.market.events'" in str(told.exception)
    with pytest.raises(SepError, match=r"begins no transactions as 'sep\.requeue': .*uthorization"):
        Requeue(secured.settings("model"), TOPOLOGY, SCHEMAS).publish([], print)
    told = run()
    assert (told.exit_code, "1 events published again" in told.output) == (0, True), told.output


def test_a_replay_begins_transactions_of_its_own_name_alone(secured: Secured) -> None:
    Transactions(secured.settings("replay"), "replay")
    for role, name in (("replay", "requeue"), ("read", "replay")):
        with pytest.raises(SepError, match=rf"begins no transactions as 'sep\.{name}': .*uthorization"):
            Transactions(secured.settings(role), name)


def test_acls_are_made_once(secured: Secured) -> None:
    before = acls.apply(secured.settings("admin"), TOPOLOGY)
    assert (before.missing, before.extra) == ((), ())
    assert list(before.in_force) == acls.declared(secured.settings("admin"), TOPOLOGY)


def test_drift_is_told_mended_and_pruned_only_when_asked(secured: Secured) -> None:
    admin = secured.settings("admin")
    lost = Acl("User:ingest", "topic", "literal", "sep.market.events", "write")
    stray, others = (
        Acl("User:ingest", "topic", "prefixed", "sep.", "read"),
        Acl("User:x", "group", "literal", "*", "read"),
    )
    acls.prune(admin, [lost])
    client = topics.connected_admin(admin)
    for future in client.create_acls([acls._binding(stray), acls._binding(others)]).values():
        future.result(60)
    acls._await(client, admin, lambda found: found >= {stray, others})

    def run(*words: str, answer: str = "") -> str:
        args = ["topics", "acl", *words, "--data-dir", str(secured.data_dir)]
        return CliRunner().invoke(cli, args, input=answer, catch_exceptions=False).output

    assert "1 missing, 1 not declared" in run("show")
    assert json.loads(run("show", "--json"))["missing"][0]["operation"] == "write"
    told = run("apply")
    assert f"made {lost}\n1 ACLs made" in told
    assert f"not declared: {stray}\n1 are not declared; --prune deletes them" in told
    assert "nothing is deleted" in run("apply", "--prune", answer="n\n")
    assert acls.show(admin, TOPOLOGY).extra == (stray,)
    assert "1 ACLs deleted" in run("apply", "--prune", answer="y\n")
    state = acls.show(admin, TOPOLOGY)
    assert (state.missing, state.extra) == ((), ())
    assert others in acls._found(client, admin)  # of a user that is none of ours


def test_a_broker_without_an_authorizer_takes_no_acls(broker: str) -> None:
    with pytest.raises(SepError, match=f"{broker} has no authorizer, .*up --secure"):
        acls.apply(Settings.load(brokers=broker), TOPOLOGY)


def test_no_secret_is_on_a_command_line_or_in_a_file_that_others_can_read(secured: Secured) -> None:
    process = psutil.Process(secured.kafka.status().pid)
    lines = [*(" ".join(command) for command in secured.commands), " ".join(process.cmdline())]
    assert len(lines) == 3  # format, start, and how the broker shows itself
    assert all(secured.names_no_secret(line) for line in lines)
    kafka = secured.data_dir / "kafka"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (kafka, secured.kafka.security.path)} == {0o700}
    for path in kafka.rglob("*"):
        if path.is_file() and path.suffix != ".aot":
            assert secured.names_no_secret(path.read_bytes().decode("latin-1")), path


def test_the_controller_takes_only_the_brokers_certificate(secured: Secured) -> None:
    port = json.loads((secured.data_dir / "kafka" / "ports.json").read_text())[1]
    anonymous = {
        "bootstrap.servers": f"127.0.0.1:{port}", "security.protocol": "SSL", "log_level": 0,
        "ssl.ca.location": str(secured.kafka.security.authority),
    }  # fmt: skip
    with pytest.raises(KafkaException):
        AdminClient(anonymous).list_topics(timeout=2)


def test_a_running_brokers_certificate_is_renewed_and_taken_up(secured: Secured) -> None:
    folder, pid = secured.kafka.security, secured.kafka.status().pid
    authority = Authority((folder.path / "ca.key").read_text(), folder.authority.read_text())
    write_private(folder.server, authority.issue(SERVER_NAMES, datetime.now(UTC) + timedelta(days=10)))
    passwords = secured.passwords()
    assert secured.kafka.start(lambda message: None, secure=True) == secured.address
    assert secured.kafka.status().pid != pid
    host, _, port = secured.address.partition(":")
    assert ssl.get_server_certificate((host, int(port))) in folder.server.read_text()
    assert secured.passwords() == passwords
    assert topics.broker_ids(secured.settings("read")) == [1]
