"""What an embedded broker is secured with: certificates, a password for each role, a settings file for each role."""

from __future__ import annotations

import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from sep_stream.runtime.certificates import Authority, end_of, ends_soon
from sep_stream.runtime.private_files import FILE_MODE, FOLDER_MODE, private_folder, write_private
from sep_stream.runtime.settings import Settings

ADMIN: Final = "admin"
SERVER_NAMES: Final = ("localhost", "127.0.0.1")
PASSWORD_BYTES: Final = 32


class SecurityFolder:
    """`security` in a data folder. It is there if, and only if, that folder's broker is secured."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.path = self.data_dir / "security"
        self.authority, self._authority_key = self.path / "ca.pem", self.path / "ca.key"
        self.server = self.path / "server.pem"
        self.passwords = self.path / "passwords"

    def exists(self) -> bool:
        return self.path.is_dir()

    def prepare(self) -> bool:
        """Make what is missing and renew what ends soon; True if the broker has to start to take notice."""
        private_folder(self.path)
        authority = self._prepared_authority()
        stale = not self.server.exists() or ends_soon(self.server)
        if stale:
            write_private(self.server, authority.issue(SERVER_NAMES))
        self.make_passwords([ADMIN])
        return stale

    def make_passwords(self, roles: Iterable[str]) -> None:
        """A password for each role that has none."""
        private_folder(self.passwords)
        for role in roles:
            if not self.password_file(role).exists():
                write_private(self.password_file(role), secrets.token_urlsafe(PASSWORD_BYTES))

    def password_file(self, role: str) -> Path:
        return self.passwords / role

    def write_settings(self, role: str, address: str) -> Path:
        """A file for --config, with which a command is that role."""
        values = {"brokers": address, "data_dir": self.data_dir, **self.credentials(role)}
        path = self.path / f"{role}.toml"
        write_private(path, "".join(f"{name} = {_toml(str(value))}\n" for name, value in values.items()))
        return path

    def credentials(self, role: str) -> dict[str, Any]:
        """The settings that log a client in as that role; none where the broker is not secured."""
        if not self.exists():
            return {}
        return {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": role,
            "sasl_password_file": self.password_file(role),
            "ssl_ca_location": self.authority,
        }

    def faults(self) -> Iterator[str]:
        """What is wrong, in words: certificates that end soon, and files that are open to others."""
        for path in (self.authority, self.server):
            if ends_soon(path):
                yield f"{path}: ends {end_of(path):%Y-%m-%d}"
        for path in (self.path, *sorted(self.path.rglob("*"))):
            mode, expected = stat.S_IMODE(path.stat().st_mode), FOLDER_MODE if path.is_dir() else FILE_MODE
            if mode & ~expected:
                yield f"{path}: mode {mode:03o}, expected {expected:03o}"

    def wipe(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _prepared_authority(self) -> Authority:
        if not self._authority_key.exists():
            authority = Authority.make()
            write_private(self.authority, authority.certificate_pem)
            write_private(self._authority_key, authority.key_pem)
            self.server.unlink(missing_ok=True)  # of an authority that is gone
            return authority
        authority = Authority(self._authority_key.read_text(), self.authority.read_text())
        if ends_soon(self.authority):
            authority = authority.renewed()
            write_private(self.authority, authority.certificate_pem)
        return authority


def as_role(settings: Settings, role: str) -> Settings:
    """The settings of a command that talks to the embedded broker, logged in as the role that its work needs.

    Settings that name brokers, or how to log in, stay as they are.
    """
    if settings.brokers or settings.security_protocol != "PLAINTEXT":
        return settings
    return settings.model_copy(update=SecurityFolder(settings.data_dir).credentials(role))


def _toml(text: str) -> str:
    """A basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
