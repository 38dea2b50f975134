"""The embedded Kafka broker: one node, on loopback, in a data folder of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.certificates import SERVER_NAME
from sep_stream.runtime.embedded.daemon import START_S_MAX, Daemon, PartStatus, Running, tail
from sep_stream.runtime.embedded.disk import disk_fault
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.jars import KAFKA_VERSION, JavaRuntime, Progress, aot_cache_file, kafka_runtime
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.private_files import private_folder, write_private
from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.settings import Settings

YEAR_MINUTES: Final = 525_600
_QUICK_FLAGS: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""The quick compiler alone: a second sooner up, and fast enough for one machine. The collector stops the broker for
some 10 ms, about once a second under load; KAFKA_JVM_PERFORMANCE_OPTS names another one."""
_QUIET_FLAGS: Final = ("-Xlog:disable", "-Xlog:all=error:stderr")
"""The JVM says only errors: it warns at each part of an AOT cache that it leaves aside."""
_HEAP_FLAGS: Final = ("-Xms64m", "-Xmx256m")
_BROKER_FLAGS: Final = ("-XX:MaxDirectMemorySize=128m", "-Duser.timezone=UTC")


class EmbeddedKafka:
    """The broker of a data folder. It outlives the process that starts it and comes back with its data.

    port: its clients' port from the next start on; by default that of the last start, at first a free one
    """

    name: Final = "kafka"
    title: Final = "Kafka"

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self._folder = data_dir.expanduser().absolute() / "kafka"
        self._daemon = Daemon(self._folder, self.title, "choose another one with `sep-stream up --port PORT`")
        self._port = port
        self.security = SecurityFolder(data_dir)

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start the broker unless it runs, wait until it answers, and return its address.

        secure: with TLS, users and ACLs. A data folder stays as it began: ConfigurationError otherwise.
        """
        runtime = kafka_runtime(progress)
        with self._daemon.locked():
            self._refuse_change(secure)
            if secure and self._prepare_security() and self.stop():
                progress("the certificate was renewed; starting Kafka again")
            record = self._daemon.running()
            if record is not None and self._port not in (None, record.port):
                raise ConfigurationError(
                    f"Kafka runs at {record.address}; `sep-stream down` stops it, then it can have port {self._port}"
                )
            if record is None:
                progress("starting Kafka")
                record = self._launch(runtime)
            self._daemon.wait_ready(record, self._answers)
        return record.address

    def _refuse_change(self, secure: bool) -> None:
        is_formatted, is_secured = self._meta.exists(), self.security.exists()
        if secure and is_formatted and not is_secured:
            raise ConfigurationError(
                f"{self._folder}: holds the data of a broker without security, which can't be secured afterwards; "
                "choose another --data-dir, or delete it with `sep-stream down --wipe`"
            )
        if is_secured and not secure:
            raise ConfigurationError(
                f"{self._folder}: this broker is secured; start it with `sep-stream up --secure`, "
                "or choose another --data-dir"
            )

    def _prepare_security(self) -> bool:
        """Make or renew keys and passwords; True if a broker that runs has another certificate."""
        password = self.security.password_file(ADMIN)
        if self._meta.exists() and not password.exists():
            raise ConfigurationError(
                f"{password}: the admin's password is gone, and no one else may use the broker's data; bring it back, "
                "or begin anew with `sep-stream down --wipe`"
            )
        private_folder(self._folder)
        return self.security.prepare()

    def stop(self) -> bool:
        """Stop the broker, by force if it does not go; False if none ran."""
        stopped = self._daemon.stop()
        if stopped:
            self._share_aot_cache()
        return stopped

    def _share_aot_cache(self) -> None:
        """Keep what the broker wrote when it ended for the next ones; it is worth no error."""
        with contextlib.suppress(OSError):
            draft = aot_cache_file().with_suffix(f".{os.getpid()}")
            shutil.move(self._own_aot_cache, draft)
            draft.replace(aot_cache_file())

    def wipe(self) -> None:
        """Delete the broker's folder, certificates and passwords; it must not run."""
        if self._daemon.running() is not None:
            raise DependencyError(f"{self._folder}: the broker runs; stop it first")
        shutil.rmtree(self._folder, ignore_errors=True)
        self.security.wipe()

    def status(self) -> PartStatus:
        return self._daemon.status(self.name, self.security.exists(), self._answers, KAFKA_VERSION)

    def address(self) -> str:
        """Where the broker listens. DependencyError if it does not run."""
        record = self._daemon.running()
        if record is None:
            fault = self._daemon.fault()
            raise DependencyError(
                f"no broker: the embedded one of {self._folder.parent} does not run; "
                + (fault or "start it with `sep-stream up`, or name yours with --brokers")
            )
        return record.address

    def fault(self, brokers: str | None) -> str | None:
        """Why this broker can't work, with the remedy, where its disk is the reason. None also where clients use
        another broker. brokers: the clients' setting"""
        record = self._daemon.last()
        if brokers is not None and (record is None or brokers != record.address):
            return None
        return self._daemon.fault()

    @property
    def _meta(self) -> Path:
        return self._folder / "data" / "meta.properties"

    @property
    def _own_aot_cache(self) -> Path:
        return self._folder / "kafka.aot"

    def _launch(self, runtime: JavaRuntime) -> Running:
        port, controller_port = self._daemon.ports(2, self._port)
        config = self._folder / "server.properties"
        settings = _properties(self._folder / "data", port, controller_port)
        if self.security.exists():
            settings |= _secure_properties(self.security, port, controller_port)
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if not self._meta.exists():
            self._format(runtime, config)
        logging = self._folder / "log4j2.properties"
        logging.write_text(LOG4J)
        aot_flag = (
            f"-XX:AOTCache={runtime.aot_cache}"
            if runtime.aot_cache.exists()
            else f"-XX:AOTCacheOutput={self._own_aot_cache}"
        )
        command = [
            runtime.java, *_chosen("KAFKA_JVM_PERFORMANCE_OPTS", _QUICK_FLAGS),
            *_chosen("KAFKA_HEAP_OPTS", _HEAP_FLAGS), *_QUIET_FLAGS, *_BROKER_FLAGS, aot_flag,
            f"-Dlog4j2.configurationFile={logging}", "-cp", runtime.class_path, "kafka.Kafka", config,
        ]  # fmt: skip
        return self._daemon.launch(command, port, KAFKA_VERSION)

    def _format(self, runtime: JavaRuntime, config: Path) -> None:
        """Make the data folder; a secured one with its first user, who makes the others."""
        users = []
        if self.security.exists():
            password = self.security.password_file(ADMIN).read_text()
            users = [f"--add-scram=SCRAM-SHA-512=[name={ADMIN},password={password}]"]
        self._java(
            runtime, "kafka.tools.StorageTool", "format", f"--cluster-id={_cluster_id()}", f"--config={config}", *users
        )

    def _java(self, runtime: JavaRuntime, *command: str) -> None:
        """Run a tool of Kafka's. Its arguments go through a file: a command line is for everybody to see."""
        flags = [
            *_QUICK_FLAGS,
            *_QUIET_FLAGS,
            "-XX:-UsePerfData",
            f"-XX:AOTCache={runtime.aot_cache}",
            "-cp",
            runtime.class_path,
        ]
        arguments = self._folder / "arguments"
        write_private(arguments, "\n".join(map(_quoted, [*flags, *command])))
        try:
            done = subprocess.run(
                [runtime.java, f"@{arguments}"], capture_output=True, text=True, timeout=START_S_MAX, check=False
            )
        finally:
            arguments.unlink()
        if done.returncode:
            fault = disk_fault(self._folder)
            if fault is not None:
                raise DependencyError(f"Kafka's {command[0]} failed: {fault}")
            raise DependencyError(f"Kafka's {command[0]} failed:\n{tail(done.stdout + done.stderr)}")

    def _answers(self, address: str) -> bool:
        client = Settings.model_construct(brokers=address, **self.security.credentials(ADMIN))
        try:
            return bool(AdminClient(librdkafka(client)).list_topics(timeout=2.0).brokers)
        except KafkaException:
            return False


def _chosen(variable: str, flags: Sequence[str]) -> Sequence[str]:
    """The JVM's flags from the variable that Kafka's own scripts look at; `flags` where it is not set."""
    return shlex.split(os.environ.get(variable, "")) or flags


def _cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes in URL-safe base64, 22 characters."""
    return urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def _quoted(argument: str) -> str:
    """As the Java launcher reads it from a file of arguments."""
    return '"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _properties(data: Path, port: int, controller_port: int) -> dict[str, Any]:
    """One node that is broker and controller. Timeouts are short: nobody else votes."""
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        "offsets.retention.minutes": YEAR_MINUTES,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


def _secure_properties(security: SecurityFolder, port: int, controller_port: int) -> dict[str, Any]:
    """What a secured node has in place of, and beside, `_properties`.

    Clients come by TLS and SCRAM. The controller's listener takes only certificates of our own authority: users are
    kept in the log that it has yet to read. The authority signs one, the broker's: to the controller it is the admin.
    """
    return {
        "listeners": f"SASL_SSL://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"SASL_SSL://{HOST}:{port}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:SSL",
        "security.inter.broker.protocol": "SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "config.providers": "dir",
        "config.providers.dir.class": "org.apache.kafka.common.config.provider.DirectoryConfigProvider",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="${{dir:{security.passwords}:{ADMIN}}}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": security.server,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": security.authority,
        "ssl.enabled.protocols": "TLSv1.3,TLSv1.2",
        "listener.name.controller.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": f"RULE:^CN={SERVER_NAME}$/{ADMIN}/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN}",
        "allow.everyone.if.no.acl.found": "false",
    }


LOG4J: Final = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{yyyy-MM-dd HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
"""How a server of Kafka's writes its log: warnings and worse, to where it prints."""
