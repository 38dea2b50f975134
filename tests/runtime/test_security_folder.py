"""What a broker is secured with: made once, kept, renewed in time, for its owner alone."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime import certificates
from sep_stream.runtime.certificates import Authority, end_of
from sep_stream.runtime.embedded import EmbeddedKafka, kafka
from sep_stream.runtime.private_files import write_private
from sep_stream.runtime.security_folder import SERVER_NAMES, SecurityFolder, as_role
from sep_stream.runtime.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> SecurityFolder:
    folder = SecurityFolder(tmp_path / "data")
    assert folder.prepare()
    folder.make_passwords(["read"])
    folder.write_settings("read", "127.0.0.1:9")
    return folder


def contents(folder: SecurityFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_all_is_for_its_owner_alone(folder: SecurityFolder) -> None:
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (folder.path, *folder.path.rglob("*"))}
    assert modes == {True: 0o700, False: 0o600}
    assert list(folder.faults()) == []


def test_what_is_there_is_kept(folder: SecurityFolder) -> None:
    before = contents(folder)
    assert not folder.prepare()
    folder.make_passwords(["read"])
    assert contents(folder) == before


def test_passwords_differ(folder: SecurityFolder) -> None:
    passwords = [folder.password_file(role).read_text() for role in ("admin", "read")]
    assert len(set(passwords)) == 2
    assert min(map(len, passwords)) > 40


def test_a_server_certificate_is_renewed_30_days_before_its_end(folder: SecurityFolder) -> None:
    authority = Authority((folder.path / "ca.key").read_text(), folder.authority.read_text())
    write_private(folder.server, authority.issue(SERVER_NAMES, datetime.now(UTC) + timedelta(days=29)))
    assert [fault for fault in folder.faults() if f"{folder.server}: ends " in fault]
    assert folder.prepare()
    assert end_of(folder.server) - datetime.now(UTC) > timedelta(days=300)
    assert list(folder.faults()) == []


def test_an_authority_is_renewed_with_its_key(folder: SecurityFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    key, old = (folder.path / "ca.key").read_text(), folder.authority.read_text()
    monkeypatch.setattr(certificates, "RENEW_BEFORE_END", timedelta(days=3650))
    folder.prepare()
    assert folder.authority.read_text() != old
    assert (folder.path / "ca.key").read_text() == key


def test_an_open_file_is_a_fault(folder: SecurityFolder) -> None:
    folder.password_file("read").chmod(0o640)
    assert list(folder.faults()) == [f"{folder.password_file('read')}: mode 640, expected 600"]


def test_a_roles_settings_file_logs_in_as_that_role(folder: SecurityFolder) -> None:
    settings = Settings.load(folder.path / "read.toml")
    assert (settings.brokers, settings.sasl_username) == ("127.0.0.1:9", "read")
    assert settings.password() == folder.password_file("read").read_text()


def test_settings_that_name_nothing_become_those_of_the_role(folder: SecurityFolder) -> None:
    settings = as_role(Settings.load(data_dir=folder.data_dir), "read")
    assert (settings.security_protocol, settings.sasl_username) == ("SASL_SSL", "read")


def test_settings_that_name_brokers_or_a_login_stay_as_they_are(folder: SecurityFolder, tmp_path: Path) -> None:
    for values in ({"brokers": "b:1"}, {"security_protocol": "SSL"}, {"data_dir": tmp_path / "plain"}):
        settings = Settings.load(**{"data_dir": folder.data_dir} | values)
        assert as_role(settings, "read") == settings


def test_a_data_folder_stays_plain_or_secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "kafka_runtime", lambda progress: None)
    plain = tmp_path / "plain"
    (plain / "kafka" / "data").mkdir(parents=True)
    (plain / "kafka" / "data" / "meta.properties").write_text("")
    with pytest.raises(ConfigurationError, match=f"{plain}/kafka: .*without security.*--data-dir.*down --wipe"):
        EmbeddedKafka(plain).start(lambda message: None, secure=True)
    assert not SecurityFolder(plain).exists()
    SecurityFolder(tmp_path / "secured").prepare()
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/secured/kafka: this broker is secured; .*up --secure"):
        EmbeddedKafka(tmp_path / "secured").start(lambda message: None)


def test_a_lost_admin_password_is_told_and_not_made_anew(
    folder: SecurityFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "kafka_runtime", lambda progress: None)
    meta = folder.data_dir / "kafka" / "data" / "meta.properties"
    meta.parent.mkdir(parents=True)
    meta.write_text("")
    password = folder.password_file("admin")
    password.unlink()
    with pytest.raises(ConfigurationError, match=f"{password}: the admin's password is gone, .*down --wipe"):
        EmbeddedKafka(folder.data_dir).start(lambda message: None, secure=True)
    assert not password.exists()


def test_wiping_takes_certificates_and_passwords_too(folder: SecurityFolder) -> None:
    EmbeddedKafka(folder.data_dir).wipe()
    assert not folder.exists()
