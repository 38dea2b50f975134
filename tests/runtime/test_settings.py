"""Settings: which source wins, and how a wrong one is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.settings import Settings

SECRET = "hunter2-0123456789"
SECRETS = ("database_url", "redis_url", "sasl_password")


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
    settings = Settings.load()
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
    settings = Settings.load(prefix="p.", partitions=3, sasl_password=SECRET, data_dir=Path("d"), eps=0.004)
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
