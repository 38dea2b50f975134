"""The embedded Kafka Connect: one worker, on loopback, with the database sink and the Avro converter."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.connect_plugins import connect_jars, converter_jars, jdbc_sink
from sep_stream.runtime.embedded.daemon import Daemon, PartStatus, Running
from sep_stream.runtime.embedded.kafka import LOG4J, EmbeddedKafka
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.embedded.registry import EmbeddedRegistry
from sep_stream.runtime.jars import KAFKA_VERSION, Progress, class_path, embedded_extra
from sep_stream.runtime.private_files import private_folder, write_private
from sep_stream.runtime.security_folder import SecurityFolder

ROLE: Final = "connect"
"""As which it logs in at the broker."""
INTERNAL_TOPICS: Final = ("connect.configs", "connect.offsets", "connect.status")
"""Its own, of no deployment's prefix: connectors, where sources are, how all fare. It makes them."""
ANSWER_S_MAX: Final = 2.0
_FLAGS: Final = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable", "-Xlog:all=error:stderr",
    "-Xms64m", "-Xmx384m", "-XX:MaxDirectMemorySize=64m", "-Duser.timezone=UTC",
)  # fmt: skip
"""UTC: the sink takes the JVM's zone for that of times without one."""


class EmbeddedConnect:
    """The Connect worker of a data folder. It outlives the process that starts it and comes back with its connectors:
    they are kept on the broker."""

    name: Final = "connect"
    title: Final = "Kafka Connect"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().absolute()
        self._folder = self._data_dir / "connect"
        self._daemon = Daemon(self._folder, self.title)
        self._watch = Daemon(self._folder / "watch", "the watch over the sinks")
        """It starts what fails anew, as long as the worker is to run."""
        self.security = SecurityFolder(data_dir)

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start the worker unless it runs, wait until it answers, and return the address of its REST API.

        secure: it logs in at the broker, over TLS. DependencyError where the data folder's broker or registry does
        not run.
        """
        java, _ = embedded_extra()
        broker = self._needed(secure)
        with self._daemon.locked():
            record = self._daemon.running()
            if record is None:
                progress(f"starting {self.title}")
                record = self._launch(java, broker, progress)
            self._daemon.wait_ready(record, self._answers)
            if self._watch.running() is None:
                self._watch.folder.mkdir(exist_ok=True)
                command = [sys.executable, "-m", "sep_stream", "connect", "watch", "--all"]
                of_ours = {"SEP_CONNECT_URL": f"http://{record.address}", "SEP_DATA_DIR": str(self._data_dir)}
                self._watch.launch(command, record.port, KAFKA_VERSION, environment={**os.environ, **of_ours})
        return record.address

    def stop(self) -> bool:
        """Stop the worker, by force if it does not go; False if none ran. What the sinks were at is done again."""
        self._watch.stop()
        return self._daemon.stop()

    def wipe(self) -> None:
        """Delete the worker's folder; it must not run."""
        if self._daemon.running() is not None:
            raise DependencyError(f"{self._folder}: {self.title} runs; stop it first")
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> PartStatus:
        return self._daemon.status(self.name, self.security.exists(), self._answers, KAFKA_VERSION)

    def url(self) -> str | None:
        """Of its REST API; None if it does not run."""
        record = self._daemon.running()
        return None if record is None else f"http://{record.address}"

    @property
    def secrets(self) -> Path:
        """Where passwords lie that connectors name and only the worker reads: a file each."""
        return self._folder / "secrets"

    def _needed(self, secure: bool) -> str:
        """The broker's address. A worker without a registry could start, but not one sink."""
        if self.security.exists() and not secure:
            raise ConfigurationError(
                f"{self._data_dir}: this data folder is secured; start it with `sep-stream up --secure`, "
                "or choose another --data-dir"
            )
        missing = [
            part.name
            for part in (EmbeddedKafka(self._data_dir), EmbeddedRegistry(self._data_dir))
            if not part.status().running
        ]
        if missing:
            raise DependencyError(
                f"{self.title} needs {' and '.join(missing)}, which does not run in {self._data_dir}; "
                "start it with `sep-stream up --with registry,connect`"
            )
        return EmbeddedKafka(self._data_dir).address()

    def _launch(self, java: Path, broker: str, progress: Progress) -> Running:
        jars = class_path(connect_jars(progress))
        private_folder(self._folder)
        private_folder(self.secrets)
        self._link(self._plugins / "avro-converter", converter_jars(progress))
        [port] = self._daemon.ports(1)
        settings = _properties(broker, port, [jdbc_sink(progress), self._plugins], self.secrets)
        trust: list[object] = []
        if self.security.exists():
            settings |= self._secure_properties()
            trust = self._trust()
        config = self._folder / "worker.properties"
        write_private(config, "".join(f"{name}={value}\n" for name, value in settings.items()))
        logging = self._folder / "log4j2.properties"
        logging.write_text(LOG4J)
        command = [
            java, *_FLAGS, *trust, f"-Dlog4j2.configurationFile={logging}", "-cp", jars,
            "org.apache.kafka.connect.cli.ConnectDistributed", config,
        ]  # fmt: skip
        return self._daemon.launch(command, port, KAFKA_VERSION)

    def _secure_properties(self) -> dict[str, str]:
        """How the worker, and the consumers, producers and admin clients of its sinks, log in at the broker."""
        write_private(self.secrets / f"broker.{ROLE}", self.security.password_file(ROLE).read_text())
        login = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required "
                f'username="{ROLE}" password="${{dir:{self.secrets}:broker.{ROLE}}}";'
            ),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.security.authority),
        }
        clients = ("", "consumer.", "producer.", "admin.")
        return {client + name: value for client in clients for name, value in login.items()}

    def _trust(self) -> list[object]:
        """The JVM's flags with which the converter trusts the registry's certificate: it has no setting for that."""
        from cryptography.hazmat.primitives.serialization import NoEncryption
        from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
        from cryptography.x509 import load_pem_x509_certificate

        store = self._folder / "trust.p12"
        authority = PKCS12Certificate(load_pem_x509_certificate(self.security.authority.read_bytes()), b"sep-stream")
        store.write_bytes(serialize_java_truststore([authority], NoEncryption()))
        return [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStoreType=PKCS12"]

    @property
    def _plugins(self) -> Path:
        return self._folder / "plugins"

    def _link(self, folder: Path, jars: list[Path]) -> None:
        """A plugin's folder is all that its class loader sees: these jars alone."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for jar in jars:
            (folder / jar.name).symlink_to(jar)

    def _answers(self, address: str) -> bool:
        """Whether it has joined its cluster: it answers this, and takes connectors, only then."""
        import httpx

        try:
            answer = httpx.get(f"http://{address}/connectors", timeout=ANSWER_S_MAX, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.is_success


def _properties(broker: str, port: int, plugins: list[Path], secrets: Path) -> dict[str, Any]:
    """One worker. Timeouts are short: after a kill it waits for nobody but itself."""
    configs, offsets, status = INTERNAL_TOPICS
    return {
        "bootstrap.servers": broker,
        "group.id": "connect",
        "config.storage.topic": configs,
        "offset.storage.topic": offsets,
        "status.storage.topic": status,
        "config.storage.replication.factor": 1,
        "offset.storage.replication.factor": 1,
        "offset.storage.partitions": 1,
        "status.storage.replication.factor": 1,
        "status.storage.partitions": 1,
        "session.timeout.ms": 6_000,
        "heartbeat.interval.ms": 2_000,
        "scheduled.rebalance.max.delay.ms": 0,
        "offset.flush.interval.ms": 5_000,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "config.providers": "dir",
        "config.providers.dir.class": "org.apache.kafka.common.config.provider.DirectoryConfigProvider",
        "config.providers.dir.param.allowed.paths": secrets,
        "listeners": f"http://{HOST}:{port}",
        "rest.advertised.host.name": HOST,
        "plugin.path": ",".join(map(str, plugins)),
        "plugin.discovery": "service_load",
    }
