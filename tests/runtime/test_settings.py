"""Settings: which source wins, and how a wrong one is told."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.private_files import write_private
from sep_stream.runtime.settings import Settings

SECRET = "hunter2-0123456789"
SECRETS = ("database_url", "redis_url", "sasl_password", "ssl_key_password", "schema_registry_password")
SECURED: dict[str, Any] = {
    "security_protocol": "SASL_SSL",
    "sasl_username": "ingest",
    "sasl_password": SECRET,
    "ssl_certificate_location": Path("client.pem"),
    "ssl_key_location": Path("client.key"),
    "schema_registry": "https://registry:8443/apis/ccompat/v7",
    "schema_registry_username": "sep",
    "schema_registry_password": SECRET,
}
REGISTRY = {"schema_registry": "https://registry:8443"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without settings, and none in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SEP_"):
            monkeypatch.delenv(name)
    return tmp_path


def toml(text: str, name: str = "sep-stream.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def fault(**flags: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**flags)
    return str(caught.value)


def test_without_any_source_the_defaults_hold() -> None:
    settings = Settings.load()
    assert (settings.prefix, settings.partitions, settings.replication, settings.brokers) == ("sep.", 8, 1, None)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    toml('prefix = "file."')
    assert Settings.load().prefix == "file."
    monkeypatch.setenv("SEP_PREFIX", "environment.")
    assert Settings.load().prefix == "environment."
    assert Settings.load(prefix="flag.").prefix == "flag."


def test_a_flag_that_was_not_given_decides_nothing() -> None:
    toml('prefix = "file."')
    assert Settings.load(prefix=None).prefix == "file."


def test_sources_are_merged_setting_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    toml('prefix = "file."\npartitions = 4')
    monkeypatch.setenv("SEP_PARTITIONS", "5")
    settings = Settings.load(replication=3)
    assert (settings.prefix, settings.partitions, settings.replication) == ("file.", 5, 3)


def test_another_file_may_be_named() -> None:
    toml('prefix = "ignored."')
    assert Settings.load(toml('prefix = "other."', "other.toml")).prefix == "other."


def test_a_named_file_does_not_stay_for_the_next_load() -> None:
    Settings.load(toml('prefix = "other."', "other.toml"))
    assert Settings.load().prefix == "sep."


def test_a_named_file_that_is_missing_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml: no such configuration file"):
        Settings.load(Path("missing.toml"))


def test_a_file_that_is_no_toml_is_told() -> None:
    toml("prefix = ")
    assert fault().startswith("sep-stream.toml: ")


def test_an_unknown_key_of_the_file_is_named() -> None:
    toml("partitons = 4")
    assert "partitons" in fault()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", "0"),
        ("partitions", "many"),
        ("prefix", "a b"),
        ("history", "11"),
        ("eps", "0"),
        ("security_protocol", "TLS"),
        ("log_level", "loud"),
        ("fetch_records", "0"),
        ("max_jump_s", "0"),
    ],
)
def test_a_wrong_value_is_told_with_the_setting_and_what_was_given(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SEP_{name.upper()}", value)
    told = fault()
    assert f"{name}: " in told
    assert repr(value) in told


def test_all_wrong_values_are_told_at_once() -> None:
    told = fault(partitions=0, replication=0)
    assert "partitions: " in told
    assert "replication: " in told


def test_settings_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings.load().partitions = 9  # type: ignore[misc]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SEP_{name.upper()}", SECRET)
    settings = Settings.load(**{other: value for other, value in SECURED.items() if other != name})
    assert getattr(settings, name).get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_told_when_another_setting_is_wrong(name: str) -> None:
    assert SECRET not in fault(**{name: SECRET, "partitions": 0})


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_wrong_type_is_not_told(name: str) -> None:
    toml(f'{name} = ["{SECRET}"]')
    told = fault()
    assert name in told
    assert SECRET not in told


def test_the_value_of_a_misspelt_secret_is_not_told() -> None:
    toml(f'sasl_pasword = "{SECRET}"')
    told = fault()
    assert "sasl_pasword" in told
    assert SECRET not in told


def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(prefix="p.", partitions=3, data_dir=Path("d"), eps=0.004, **SECURED)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings


def test_topics_carry_the_prefix() -> None:
    assert Settings.load(prefix="p.").topic("bars") == "p.bars"


def test_models_lie_in_the_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    assert Settings.load(data_dir=tmp_path).models_root() == str(tmp_path / "models")
    assert Settings.load(models_url="/elsewhere").models_root() == "/elsewhere"


def test_windows_whose_lengths_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="samples"):
        Settings.load(forward=10, samples=4).window_params()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sasl_username": "u"}, "sasl_username: without effect on security_protocol PLAINTEXT; set that to SASL_SSL"),
        ({"ssl_ca_location": Path("ca")}, "ssl_ca_location: without effect on security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", "sasl_password": SECRET}, "sasl_password: without effect on .* SSL"),
        ({"security_protocol": "SASL_SSL"}, "sasl_username: SASL_SSL needs one"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "u"}, "sasl_password: SASL_SSL needs one, or sasl_passwor"),
        (SECURED | {"sasl_password_file": Path("p")}, "sasl_password, sasl_password_file: one of them, not both"),
        (SECURED | {"sasl_mechanism": "GSSAPI"}, "sasl_mechanism: .*got 'GSSAPI'"),
        (SECURED | {"ssl_key_location": None}, "ssl_certificate_location, ssl_key_location: one needs the other"),
        ({"security_protocol": "SSL", "ssl_key_password": SECRET}, "ssl_key_password: of no key"),
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
            | {"sasl_username": "u", "sasl_password": SECRET},
            "sasl_mechanism: PLAIN shows the password to the network",
        ),
        ({"schema_registry_username": "u"}, "schema_registry_username: of no registry; name it with schema_registry"),
        ({"schema_registry": f"https://u:{SECRET}@registry"}, "schema_registry: a URL is no place for a password"),
        ({"schema_registry": f"u:{SECRET}@registry"}, "schema_registry: a URL is no place for a password"),
        ({"schema_registry": "registry:8081"}, "expected http://HOST:PORT or https://.*got 'registry:8081'"),
        (REGISTRY | {"schema_registry_username": "u"}, "schema_registry_password: one needs the other"),
        (REGISTRY | {"schema_registry_password": SECRET}, "schema_registry_username, .*: one needs the other"),
        (
            SECURED | {"schema_registry_password_file": Path("p")},
            "schema_registry_password_file: one of them, not both",
        ),
        (SECURED | {"schema_registry": "http://registry"}, "http://registry would show them to the network.* https://"),
    ],
)
def test_security_settings_that_contradict_each_other_are_refused(values: dict[str, Any], told: str) -> None:
    message = fault(**values)
    assert re.search(told, message)
    assert SECRET not in message


def test_a_password_comes_from_a_file_for_its_owner(tmp_path: Path) -> None:
    write_private(tmp_path / "password", SECRET + "\n")
    settings = Settings.load(security_protocol="SASL_SSL", sasl_username="u", sasl_password_file=tmp_path / "password")
    assert settings.password() == SECRET
    assert SECRET not in repr(settings) + json.dumps(settings.environment())


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (SECRET, 0o644, "open to every user .mode 644.; `chmod 600` it"),
        (SECRET, 0o602, "mode 602"),
        ("", 0o600, "expected one line"),
        (f"a\n{SECRET}", 0o600, "expected one line"),
        (None, 0, "No such file"),
    ],
)
def test_a_password_file_that_will_not_do_is_told(tmp_path: Path, text: str | None, mode: int, told: str) -> None:
    file = tmp_path / "password"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    settings = Settings.load(security_protocol="SASL_SSL", sasl_username="u", sasl_password_file=file)
    with pytest.raises(ConfigurationError, match=f"{file}: .*{told}") as caught:
        settings.password()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["sasl_password", "ssl_key_password", "schema_registry_password"])
def test_a_configuration_file_with_a_password_must_not_be_open_to_everybody(name: str) -> None:
    values = {other: value for other, value in SECURED.items() if other != name}
    file = toml(f'{name} = "{SECRET}"')
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match=f"{file}: holds a secret and is open to every user"):
        Settings.load(**values)
    file.chmod(0o640)  # a group may read: so are secrets mounted into containers
    assert Settings.load(**values).security_protocol == "SASL_SSL"
