"""The embedded schema registry: Apicurio, on loopback, with a database file in a data folder of its own."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import Any, Final

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.archives import Archive, unpacked
from sep_stream.runtime.embedded.daemon import Daemon, PartStatus, Running
from sep_stream.runtime.embedded.ports import HOST
from sep_stream.runtime.jars import Progress, embedded_extra
from sep_stream.runtime.private_files import private_folder, read_secret, write_private
from sep_stream.runtime.registry_address import CONFLUENT_PATH, RegistryAddress
from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.topology import Topology

REGISTRY_VERSION: Final = "3.3.3"
APICURIO: Final = Archive(
    "io.apicurio", "apicurio-registry-app", REGISTRY_VERSION, "all", "the schema registry's program", 159
)
READER: Final = "read"
"""Who reads where the settings name no role of ours."""
ANSWER_S_MAX: Final = 5.0
_FLAGS: Final = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable", "-Xlog:all=error:stderr",
    "-Xms64m", "-Xmx256m", "-XX:MaxDirectMemorySize=64m", "-Duser.timezone=UTC",
)  # fmt: skip
"""For a quick start and little memory, as the broker's."""
_THEIR_VARIABLES: Final = ("QUARKUS_", "APICURIO_")
"""Variables of the environment that would override what we set, the loopback address for one."""


class EmbeddedRegistry:
    """The schema registry of a data folder. It outlives the process that starts it and comes back with its schemas."""

    name: Final = "registry"
    title: Final = "Apicurio Registry"

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.expanduser().absolute() / "registry"
        self._daemon = Daemon(self._folder, self.title)
        self.security = SecurityFolder(data_dir)

    def start(self, progress: Progress, secure: bool = False) -> str:
        """Start the registry unless it runs, wait until it answers, and return its address (host:port).

        secure: over TLS alone, and every role of the topology logs in: the admin to write, the others to read.
        ConfigurationError where the data folder is secured and this is not asked for.
        """
        if self.security.exists() and not secure:
            raise ConfigurationError(
                f"{self.security.data_dir}: this data folder is secured; start it with `sep-stream up --secure`, "
                "or choose another --data-dir"
            )
        java, _ = embedded_extra()
        program = unpacked(APICURIO, progress)
        with self._daemon.locked():
            if secure:
                self._prepare_security()
            record = self._daemon.running()
            if record is not None and secure and self._began_before_its_security(record):
                progress(f"certificates or passwords are new; starting {self.title} again")
                self._daemon.stop()
                record = None
            if record is None:
                progress(f"starting {self.title}")
                record = self._launch(java, program)
            self._daemon.wait_ready(record, self._answers)
        return record.address

    def _prepare_security(self) -> None:
        private_folder(self._folder)
        self.security.prepare()
        self.security.make_passwords(self._roles())

    def _roles(self) -> list[str]:
        return [role.name for role in Topology.load().roles]

    def _began_before_its_security(self, record: Running) -> bool:
        files = [self.security.server, *map(self.security.password_file, self._roles())]
        return max(file.stat().st_mtime for file in files) > record.created_s

    def stop(self) -> bool:
        """Stop the registry, by force if it does not go; False if none ran."""
        return self._daemon.stop()

    def wipe(self) -> None:
        """Delete the registry's folder; it must not run."""
        if self._daemon.running() is not None:
            raise DependencyError(f"{self._folder}: the registry runs; stop it first")
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> PartStatus:
        return self._daemon.status(self.name, self.security.exists(), self._answers, REGISTRY_VERSION)

    def address(self, role: str | None = None) -> RegistryAddress | None:
        """Where the registry answers that role, or who only reads if it is none of ours; None if it does not run."""
        record = self._daemon.running()
        return None if record is None else self._address(record.address, role)

    def _address(self, host_port: str, role: str | None) -> RegistryAddress:
        if not self.security.exists():
            return RegistryAddress(f"http://{host_port}{CONFLUENT_PATH}", is_ours=True)
        role = role if role in self._roles() else READER
        password = read_secret(self.security.password_file(role))
        url = f"https://{host_port}{CONFLUENT_PATH}"
        return RegistryAddress(url, role, password, self.security.authority, is_ours=True)

    def _launch(self, java: Path, program: Path) -> Running:
        port, management_port = self._daemon.ports(2)
        settings = _properties(self._folder / "data" / "registry", port, management_port)
        if self.security.exists():
            settings |= _secure_properties(self.security, port, self._roles())
        config = self._folder / "registry.properties"
        write_private(config, "".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [java, *_FLAGS, f"-Dquarkus.config.locations={config}", "-jar", program / "quarkus-run.jar"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_THEIR_VARIABLES)}
        return self._daemon.launch(command, port, REGISTRY_VERSION, environment=environment)

    def _answers(self, host_port: str) -> bool:
        """Whether it says what it holds: that needs its database, and a login."""
        import httpx

        address = self._address(host_port, ADMIN)
        login = None if address.username is None else (address.username, address.password or "")
        trust = True if address.authority is None else ssl.create_default_context(cafile=str(address.authority))
        try:
            answer = httpx.get(
                f"{address.url}/subjects", auth=login, verify=trust, timeout=ANSWER_S_MAX, trust_env=False
            )
        except httpx.HTTPError:
            return False
        return answer.is_success


def _properties(database: Path, port: int, management_port: int) -> dict[str, Any]:
    """WRITE_DELAY: what was answered is on disk, whatever ends the process."""
    return {
        "quarkus.http.host": HOST,
        "quarkus.http.port": port,
        "quarkus.management.host": HOST,
        "quarkus.management.port": management_port,
        "quarkus.http.access-log.enabled": "false",
        "apicurio.storage.kind": "sql",
        "apicurio.storage.sql.kind": "h2",
        "apicurio.datasource.url": f"jdbc:h2:file:{database};WRITE_DELAY=0",
        "apicurio.datasource.jdbc.initial-size": 1,
        "apicurio.datasource.jdbc.min-size": 1,
        "apicurio.datasource.jdbc.max-size": 8,
        "apicurio.import.work-dir": database.parent,
    }


def _secure_properties(security: SecurityFolder, port: int, roles: list[str]) -> dict[str, Any]:
    """What a secured registry has beside `_properties`. A password is in URL-safe base64, which needs no quotes."""
    settings: dict[str, Any] = {
        "quarkus.http.insecure-requests": "disabled",
        "quarkus.http.ssl-port": port,
        "quarkus.http.ssl.certificate.files": security.server,
        "quarkus.http.ssl.certificate.key-files": security.server,
        "quarkus.http.auth.basic": "true",
        "quarkus.security.users.embedded.plain-text": "true",
        "apicurio.auth.role-based-authorization": "true",
        "apicurio.auth.anonymous-read-access.enabled": "true",  # Connect's converter can't log in
    }
    for role in roles:
        settings[f'quarkus.security.users.embedded.users."{role}"'] = security.password_file(role).read_text()
        settings[f'quarkus.security.users.embedded.roles."{role}"'] = "sr-admin" if role == ADMIN else "sr-readonly"
    return settings
