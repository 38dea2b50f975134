"""The declared topics, and what is told of a declaration that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.runtime import topology
from sep_stream.runtime.topology import Topology

TOPICS = {
    "market.events": "market_event",
    "bars": "bar",
    "windows": "window",
    "metrics": "metrics",
    "signals": "signal",
    "prices.latest": "latest_price",
    "signals.latest": "signal",
    "patterns": "pattern",
    "trading.results": "trading_result",
    "models": "model_manifest",
    "convert.state": "snapshot",
    "settle.state": "snapshot",
    "late": "rejected",
    "dead.letters": "rejected",
    "connect.dead.letters": "",
    "requeued": "requeued",
    "gaps": "gap",
}
EVENT_TIME = ("market.events", "bars", "metrics", "signals", "patterns", "trading.results")
COMPACTED = ("prices.latest", "signals.latest", "models", "convert.state", "settle.state")
FOR_EVER = (*EVENT_TIME, "late", "dead.letters", "connect.dead.letters", "requeued", "gaps")

CLEANUP = '[cleanup.keep]\n"cleanup.policy" = "delete"\n'
GOOD = {
    "name": "bars",
    "value": "bar",
    "key": "instrument",
    "partitioned_by": "instrument",
    "cleanup": "keep",
    "doc": "d",
}


def config(name: str) -> dict[str, str]:
    return dict(Topology.load().topic(name).config)


def test_the_topics_are_those_of_the_design() -> None:
    assert {topic.name: topic.value for topic in Topology.load().topics} == TOPICS


def test_what_is_keyed_by_instrument_is_partitioned_alike() -> None:
    single = [topic.name for topic in Topology.load().topics if topic.partitioned_by == "single"]
    assert single == ["models", "connect.dead.letters", "requeued"]


@pytest.mark.parametrize("name", EVENT_TIME)
def test_times_of_events_are_kept_and_found(name: str) -> None:
    """The broker's defaults would delete old events at once and roll a segment for each of them."""
    assert config(name)["message.timestamp.type"] == "CreateTime"
    assert config(name)["segment.ms"] == str(2**63 - 1)
    assert config(name)["message.timestamp.before.max.ms"] == str(2**63 - 1)


@pytest.mark.parametrize("name", FOR_EVER)
def test_nothing_is_deleted_from_a_topic_that_is_kept(name: str) -> None:
    assert config(name)["cleanup.policy"] == "delete"
    assert config(name)["retention.ms"] == "-1"


def test_events_of_the_far_future_are_refused_at_the_border() -> None:
    assert config("market.events")["message.timestamp.after.max.ms"] == str(86_400_000)


@pytest.mark.parametrize("name", sorted({*EVENT_TIME} - {"market.events"}))
def test_what_follows_from_an_event_is_taken_whatever_its_time(name: str) -> None:
    """A bar's end is later than its event, and the broker's own default is an hour."""
    assert config(name)["message.timestamp.after.max.ms"] == str(2**63 - 1)
    assert Topology.load().topic(name).former == {"message.timestamp.after.max.ms": ("86400000",)}


@pytest.mark.parametrize("name", COMPACTED)
def test_a_compacted_topic_has_the_time_of_appending(name: str) -> None:
    assert config(name)["cleanup.policy"] == "compact"
    assert config(name)["message.timestamp.type"] == "LogAppendTime"


def test_windows_are_kept_for_seven_days_from_their_appending() -> None:
    assert config("windows")["retention.ms"] == str(7 * 86_400_000)
    assert config("windows")["message.timestamp.type"] == "LogAppendTime"


def test_a_topic_that_is_not_declared_is_told_with_those_known() -> None:
    with pytest.raises(ConfigurationError, match=r"topic 'barz' is not declared; known are market\.events, bars"):
        Topology.load().topic("barz")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the topology is read from, with good declarations."""
    monkeypatch.setattr(topology, "resource", lambda name: tmp_path)
    (tmp_path / "topics.toml").write_text(declared())
    (tmp_path / "instruments.toml").write_text("")
    (tmp_path / "roles.toml").write_text("role = []")
    return tmp_path


def declared(**changes: str | None) -> str:
    entry = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return CLEANUP + "[[topic]]\n" + "".join(f'{name} = "{value}"\n' for name, value in entry.items())


def fault(folder: Path, text: str) -> str:
    (folder / "topics.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Topology.load()
    return str(caught.value)


def test_a_topics_own_settings_come_after_those_of_its_cleanup(folder: Path) -> None:
    (folder / "topics.toml").write_text(declared() + 'config = { "cleanup.policy" = "compact", "x" = 1 }\n')
    [topic] = Topology.load().topics
    assert topic.config == {"cleanup.policy": "compact", "x": "1"}


def test_former_values_are_those_of_the_topics_cleanup(folder: Path) -> None:
    (folder / "topics.toml").write_text('[former.keep]\n"x" = [1, 2]\n[former.other]\n"y" = [3]\n' + declared())
    [topic] = Topology.load().topics
    assert topic.former == {"x": ("1", "2")}


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_entry_is_named_with_file_and_topic(folder: Path, missing: str) -> None:
    told = fault(folder, declared(**{missing: None}))
    assert told.startswith(f"{folder / 'topics.toml'}: topic ")
    assert f"'{missing}' is missing" in told


def test_a_cleanup_that_is_not_declared_is_named(folder: Path) -> None:
    told = fault(folder, declared(cleanup="never"))
    assert "topic 'bars': 'never' is missing or not declared" in told


def test_another_way_to_partition_is_refused(folder: Path) -> None:
    assert "topic 'bars': partitioned_by is one of instrument, single" in fault(folder, declared(partitioned_by="time"))


@pytest.mark.parametrize("text", ["[[topic]", CLEANUP, "topic = 3\n" + CLEANUP, '[[topic]]\nname = "bars"\n'])
def test_a_file_that_is_no_declaration_is_named(folder: Path, text: str) -> None:
    assert fault(folder, text).startswith(f"{folder / 'topics.toml'}: ")


def test_a_topic_is_declared_once(folder: Path) -> None:
    told = fault(folder, declared() + declared().removeprefix(CLEANUP))
    assert "'bars'" in told


def test_a_wrong_instrument_is_told_with_its_file(folder: Path) -> None:
    (folder / "instruments.toml").write_text('[[instrument]]\nsymbol = "EUR/USD"\n')
    with pytest.raises(ConfigurationError, match=f"{folder}/instruments.toml: instrument 'EUR/USD' lacks"):
        Topology.load()
