"""`replay`: a topic's records once more, elsewhere, whole and in order, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sep_stream.cli import cli
from sep_stream.convert import MarketDataConverter
from sep_stream.errors import DependencyError
from sep_stream.history import EventLog, transactions
from sep_stream.history import replay as replaying
from sep_stream.history.refused import RefusedLog, Wanted
from sep_stream.history.replay import Course, Replay
from sep_stream.history.requeue import Requeue
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime import topics
from sep_stream.runtime.log_reader import LogReader, Record
from sep_stream.runtime.settings import Settings
from sep_stream.sources.synthetic import synthetic_candles
from tests.cli.commands import begin
from tests.cli.refusals import SCHEMAS, T0_S, TOPOLOGY, Sender, quote
from tests.waiting import until
from tests.worker.harness import publish

integration = pytest.mark.integration
SYMBOLS = ("EUR/USD", "USD/JPY", "AUD/USD")
"""Two of one partition of eight, and one of another."""
KEYS = {symbol.encode() for symbol in SYMBOLS}
EURO = partition_for(b"EUR/USD", 8)
EVENTS = "market.events"

MakeTarget = Callable[..., Settings]


@pytest.fixture(scope="module")
def source(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two days of candles of three instruments, then noise and a record with headers."""
    settings = Settings.load(brokers=broker, prefix="replayed.", data_dir=tmp_path_factory.mktemp("replayed"))
    topics.create(settings, TOPOLOGY)
    publish(settings, EventBatch.concatenate(list(synthetic_candles(TOPOLOGY.instruments, SYMBOLS, 2, 1))))
    sender = Sender(settings)
    sender.put(EVENTS, b"\xff", b"noise", 7, 1)
    sender.put(EVENTS, None, None, 7, 2)
    sender.put(EVENTS, b"EUR/USD", quote("EUR/USD", 0), EURO, T0_S * 1000, trace=b"7", replay=b"of another")
    return settings


@pytest.fixture
def make_target(broker: str, prefix: str, tmp_path: Path) -> MakeTarget:
    """An empty topic of the test's prefix."""

    def make(topic: str = EVENTS, partitions: int = 8) -> Settings:
        config = dict(TOPOLOGY.topic(EVENTS).config)
        admin = AdminClient({"bootstrap.servers": broker})
        admin.create_topics([NewTopic(prefix + topic, partitions, 1, config=config)])[prefix + topic].result(60)
        until(lambda: prefix + topic in admin.list_topics(timeout=60).topics)  # made is not yet known
        return Settings.load(brokers=broker, prefix=prefix, data_dir=tmp_path)

    return make


def replay(source: Settings, *args: object, code: int = 0) -> Result:
    flags = ("--brokers", source.brokers, "--prefix", source.prefix, "--data-dir", source.data_dir)
    result = CliRunner().invoke(cli, ["replay", *map(str, args), *map(str, flags)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def replayed(source: Settings, *args: object) -> dict[str, Any]:
    return json.loads(replay(source, *args, "--json").stdout)


def records(settings: Settings, topic: str = EVENTS) -> list[Record]:
    reader, name = LogReader(settings), settings.topic(topic)
    return [
        record
        for partition in reader.partitions(name)
        for batch in reader.read(name, partition, *reader.watermarks(name, partition))
        for record in batch.records()
    ]


def content(found: list[Record]) -> list[tuple[object, ...]]:
    """What must be the same: partition, key, bytes and timestamp, in order."""
    return [(r.partition, r.key, r.value, r.timestamp_ms) for r in found]


def by_instrument(found: list[Record]) -> dict[str, int]:
    return dict(Counter(r.key.decode() for r in found if r.key in KEYS))


def headers(record: Record) -> dict[str, bytes | None]:
    return {name: value for name, value in record.headers if name != "replay"}


@integration
def test_a_replay_equals_its_source_in_order_bytes_and_timestamps(source: Settings, make_target: MakeTarget) -> None:
    target = make_target()
    told = replayed(source, "--to-prefix", target.prefix)
    before, after = records(source), records(target)
    assert content(after) == content(before)
    assert (told["source"], told["target"]) == ("replayed.market.events", f"{target.prefix}market.events")
    assert told["records"] == len(before)
    assert told["instruments"] == {**by_instrument(before), "?": 2}
    places = [f"replayed.market.events/{r.partition}/{r.offset}".encode() for r in before]
    assert [headers(r)["replayed-from"] for r in after] == places
    [traced] = [r for r in after if "trace" in headers(r)]
    assert headers(traced)["trace"] == b"7"
    assert [value for name, value in traced.headers if name == "replay"] != [b"of another"]


@integration
def test_only_what_is_asked_for_is_replayed_wherever_it_lies(source: Settings, make_target: MakeTarget) -> None:
    target = make_target("other")
    all_records = records(source)
    times_ms = [r.timestamp_ms for r in all_records if r.key == b"USD/JPY"]
    start_ms, stop_ms = times_ms[100], times_ms[900]

    def iso(ms: int) -> str:
        return np.datetime_as_string(np.datetime64(ms, "ms"), "s") + "Z"

    within = ("--from", iso(start_ms), "--until", iso(stop_ms))
    to = ("--to-prefix", target.prefix, "--to-topic", "other")
    told = replayed(source, *to, "--instrument", "USDJPY", "--instrument", "AUD/USD", *within)
    wanted = [r for r in all_records if r.key in (b"USD/JPY", b"AUD/USD") and start_ms <= r.timestamp_ms < stop_ms]
    assert told["instruments"] == by_instrument(wanted)
    assert content(records(target, "other")) == content(wanted)


@integration
def test_offsets_are_meant_for_each_partition(source: Settings, make_target: MakeTarget) -> None:
    target = make_target()
    replay(source, "--to-prefix", target.prefix, "--from", 10, "--until", 25)
    assert content(records(target)) == content([r for r in records(source) if 10 <= r.offset < 25])


def dies(committed: bool) -> None:
    """Have this process killed at its fourth commit of a transaction, before or after it."""
    commits = 0

    class Dies(transactions.Producer):  # type: ignore[misc, name-defined]
        def commit_transaction(self, *timeout: float) -> None:
            nonlocal commits
            self.flush(60)
            commits += 1
            if commits < 4 or committed:
                super().commit_transaction(*timeout)
            if commits == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    replaying.TRANSACTION_RECORDS_MAX = 1_000  # type: ignore[misc]
    transactions.Producer = Dies  # type: ignore[attr-defined]


def die_replaying(source: Settings, target: Settings, committed: bool) -> None:
    words = ("replay", "--to-prefix", target.prefix)
    code, _, err = begin(*words, cwd=Path.cwd(), before=partial(dies, committed), **source.environment())()
    assert code == -signal.SIGKILL, err


@integration
@pytest.mark.parametrize("committed", [False, True], ids=["before_a_commit", "after_a_commit"])
def test_a_killed_replay_goes_on_without_loss_or_repeat(
    source: Settings, make_target: MakeTarget, committed: bool
) -> None:
    target = make_target()
    die_replaying(source, target, committed=committed)
    told = replayed(source, "--to-prefix", target.prefix)
    expected = content(records(source))
    assert told["records"] == len(expected) - (4_000 if committed else 3_000)
    assert told["resumed_after"]
    assert content(records(target)) == expected
    again = replay(source, "--to-prefix", target.prefix)
    assert "0 records of replayed.market.events published" in again.stdout
    assert "after those of an earlier run" in again.stdout
    assert content(records(target)) == expected


@integration
@pytest.mark.parametrize("partitions", [pytest.param(count, marks=pytest.mark.slow) for count in (1, 3, 20)])
def test_a_killed_replay_to_another_partition_count_goes_on_with_each_key_in_its_place(
    source: Settings, make_target: MakeTarget, partitions: int
) -> None:
    target = make_target(partitions=partitions)
    die_replaying(source, target, committed=True)
    before = records(source)
    assert replayed(source, "--to-prefix", target.prefix)["records"] == len(before) - 4_000
    after = records(target)
    for key in {r.key for r in before}:
        of_key = [(r.value, r.timestamp_ms) for r in after if r.key == key]
        assert of_key == [(r.value, r.timestamp_ms) for r in before if r.key == key]
    assert len(after) == len(before)
    assert all(r.partition == partition_for(r.key or b"", partitions) for r in after)
    assert replayed(source, "--to-prefix", target.prefix)["records"] == 0
    Sender(target).event(b"EUR/USD", quote("EUR/USD", 9), minute=9)
    foreign = str(replay(source, "--to-prefix", target.prefix, code=1).exception)
    assert "is not of this replay" in foreign
    assert replayed(source, "--to-prefix", target.prefix, "--append")["records"] == 0


@integration
def test_the_same_command_adds_what_has_come_since(make_target: MakeTarget) -> None:
    here = make_target()
    make_target("to")
    sender = Sender(here)

    def course() -> Replay:
        return Replay(here, TOPOLOGY, Course(EVENTS, here.prefix, "to"))

    for k in range(3):
        sender.event(b"EUR/USD", quote("EUR/USD", k), minute=k)
    assert course().run().counts.total() == 3
    sender.event(b"EUR/USD", quote("EUR/USD", 3), minute=3)
    done = course().run()
    assert (done.counts, done.resumed) == ({"EUR/USD": 1}, {EURO: 2})
    assert content(records(here, "to")) == content(records(here))


@integration
def test_of_two_replays_at_once_one_ends_and_nothing_is_doubled(
    source: Settings, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target()
    course = Course(EVENTS, target.prefix, EVENTS)
    monkeypatch.setattr(replaying, "TRANSACTION_RECORDS_MAX", 2_000)
    commits: list[int] = []

    class Overtaken(Producer):
        """Before its second commit, another replay runs from beginning to end."""

        def commit_transaction(self, *timeout: float) -> None:
            commits.append(1)
            if len(commits) == 2:
                monkeypatch.setattr(transactions, "Producer", Producer)
                Replay(source, TOPOLOGY, course).run()
            super().commit_transaction(*timeout)

    monkeypatch.setattr(transactions, "Producer", Overtaken)
    told = "another replay began meanwhile.*; 2,000 records were published before: the same command goes on there"
    with pytest.raises(DependencyError, match=told):
        Replay(source, TOPOLOGY, course).run()
    assert content(records(target)) == content(records(source))


@integration
def test_a_paced_replay_takes_its_time_and_gives_the_same(source: Settings, make_target: MakeTarget) -> None:
    target = make_target()
    wanted = [r for r in records(source) if r.offset < 25]
    speed = 25 * 60  # the 25 minutes of each partition's first candles in a second
    begun_s = time.monotonic()
    replay(source, "--to-prefix", target.prefix, "--until", 25, "--speed", speed)
    assert time.monotonic() - begun_s > 24 * 60 / speed
    assert content(records(target)) == content(wanted)
    again = make_target("fast")
    replay(source, "--to-prefix", again.prefix, "--to-topic", "fast", "--until", 25)
    assert content(records(again, "fast")) == content(wanted)


@integration
def test_progress_is_told_on_stderr(source: Settings, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sep_stream.cli.replay.TOLD_EVERY_S", 0.0)
    told = replay(source, "--to-prefix", make_target().prefix)
    assert "% of the log read, about" in told.stderr
    assert "records published, " in told.stderr
    assert "published to" in told.stdout
    assert "USD/JPY" in told.stdout


@integration
def test_records_that_this_replay_did_not_write_are_left_alone_unless_asked(
    source: Settings, make_target: MakeTarget
) -> None:
    target = make_target()
    args = ("--to-prefix", target.prefix, "--until", 20)
    euro = (*args, "--instrument", "EUR/USD")
    replay(source, *euro)
    for others in (args, (*args, "--instrument", "USD/JPY")):
        told = str(replay(source, *others, code=1).exception)
        assert f"{target.prefix}market.events/{EURO}: the last record there, offset " in told
        assert "is not of this replay" in told
        assert "--append" in told
    foreign = quote("EUR/USD", 0)
    Sender(target).event(b"EUR/USD", foreign)
    assert replayed(source, *euro, "--append")["records"] == 0
    aud = (*args, "--instrument", "AUD/USD")  # another partition, where nothing is yet
    assert replayed(source, *aud)["records"] == 20
    later = ("--to-prefix", target.prefix, "--from", 20, "--until", 30, "--instrument", "EUR/USD")
    replay(source, *later, "--append")
    found = [r for r in records(target) if r.key == b"EUR/USD" and r.value != foreign]
    assert content(found) == content([r for r in records(source) if r.key == b"EUR/USD" and r.offset < 30])


@integration
def test_what_cannot_be_replayed_is_told(source: Settings, make_target: MakeTarget, prefix: str) -> None:
    make_target("few", partitions=2)
    cases: dict[tuple[object, ...], str] = {
        ("--to-prefix", "replayed."): "replayed.market.events can't be replayed into itself",
        ("--to-topic", EVENTS): "can't be replayed into itself",
        ("--to-prefix", "replayed.market.", "--to-topic", "events"): "can't be replayed into itself",
        ("--to-prefix", prefix): f"`sep-stream topics create --prefix {prefix}` makes it",
        ("--to-prefix", prefix, "--to-topic", "none"): "make it with 8 partitions and the settings of replayed.market",
        ("--to-prefix", prefix, "--to-topic", "few", "--with-requeued"): "has 2 partitions, 'replayed.market.events' h",
        ("--to-topic", "bars"): "bars holds bar records by instrument, market.events holds market_event records",
        ("--to-prefix", prefix, "--topic", "convert.state"): "mean nothing elsewhere",
        ("--to-prefix", prefix, "--topic", "requeued"): "mean nothing elsewhere",
        ("--to-prefix", prefix, "--topic", "trades"): "topic 'trades' is not declared; known are market.events",
        ("--to-prefix", prefix, "--topic", "models", "--instrument", "EUR/USD"): "leave out --instrument",
        ("--to-prefix", prefix, "--topic", "bars", "--with-requeued"): "only market.events has requeued events",
        ("--to-prefix", prefix, "--instrument", "XXX"): "unknown instrument 'XXX'; known are EUR/USD",
    }
    for args, told in cases.items():
        assert told in str(replay(source, *args, code=1).exception), args
    make_target()
    empty: dict[tuple[object, ...], str] = {
        ("--from", "2100-01-01T00:00:00Z"): "holds no records in what is asked for",
        ("--from", 10**6): "holds no records in what is asked for",
        ("--until", "1960-01-01T00:00:00Z"): "holds no records in what is asked for",
        ("--instrument", "CLZ6"): "holds no records of CLZ6 in what is asked for",
    }
    for args, told in empty.items():
        assert told in str(replay(source, "--to-prefix", prefix, *args, code=1).exception), args
    assert records(source.model_copy(update={"prefix": prefix})) == []


@integration
def test_a_log_whose_beginning_is_deleted_is_told_unless_what_is_left_is_meant(
    broker: str, make_target: MakeTarget
) -> None:
    settings = make_target()
    make_target("left")
    sender = Sender(settings)
    for k in range(10):
        sender.event(b"EUR/USD", quote("EUR/USD", k), minute=k)
    admin = AdminClient({"bootstrap.servers": broker})
    for done in admin.delete_records([TopicPartition(settings.topic(EVENTS), EURO, 4)]).values():
        done.result(60)
    to = ("--to-topic", "left", "--instrument", "EUR/USD")
    told = "/0: records from {} on are asked for, but the log's beginning is deleted: what is left begins at offset 4"
    for start, named in (("2", "offset 2"), ("2024-02-05T00:04:00Z", "2024-02-05T00:04:00Z")):
        assert told.format(named) in str(replay(settings, *to, "--from", start, code=1).exception)
    assert replayed(settings, *to, "--from", "2024-02-05T00:05:00Z")["records"] == 5
    assert replayed(settings, *to, "--from", "4", "--append")["records"] == 6
    assert replayed(settings, *to, "--append")["records"] == 6


@integration
def test_requeued_events_stand_in_their_places_and_have_their_effect(make_target: MakeTarget) -> None:
    settings = make_target()
    for topic in ("to", "plain", "dead.letters", "late"):
        make_target(topic)
    make_target("requeued", partitions=1)
    sender, wrong = Sender(settings), (EURO + 1) % 8
    sender.event(b"EUR/USD", quote("EUR/USD", 0, "1.1", "1.2"), minute=0)
    sender.misplaced("EUR/USD", 1)
    sender.event(b"EUR/USD", quote("EUR/USD", 2), minute=2)
    late = sender.event(b"EUR/USD", quote("EUR/USD", 0.5, "1.3", "1.4"), minute=0.5)
    for minute in (3, 4):
        sender.event(b"EUR/USD", quote("EUR/USD", minute), minute=minute)
    sender.letter(Reason.LATE, late, b"EUR/USD", quote("EUR/USD", 0.5, "1.3", "1.4"), "EUR/USD", 0.5)
    queue = Requeue(settings, TOPOLOGY, SCHEMAS)
    letters = RefusedLog(settings).search(Wanted(), 10).letters
    assert queue.publish(queue.plan(letters).letters, str) == 2

    def bars_of(topic: str) -> tuple[list[int], set[Reason]]:
        """Minutes of the closed M1 bars, and what was refused."""
        converter = MarketDataConverter(TOPOLOGY.instruments, settings.convert_parameters())
        minutes, reasons = [], set()
        for batch in EventLog(settings, TOPOLOGY, topic=topic).batches():
            output = converter.feed(batch)
            reasons |= {Reason(reason) for reason in output.reason.tolist()} - {Reason.OK}
            bars = output.bars
            minutes += ((bars["open_time_s"][bars["timeframe"] == 0] - T0_S) // 60).tolist()
        return minutes, reasons

    replay(settings, "--to-topic", "to", "--with-requeued")
    assert [r.timestamp_ms // 1000 - T0_S for r in records(settings, "to")] == [0, 30, 60, 120, 180, 240]
    assert bars_of("to") == ([0, 1, 2, 3], set())
    replay(settings, "--to-topic", "plain")
    assert bars_of("plain") == ([0, 2, 3], {Reason.LATE, Reason.WRONG_PARTITION})
    assert {r.partition for r in records(settings, "plain")} == {EURO, wrong}
    again = replayed(settings, "--to-topic", "to", "--with-requeued")
    assert (again["records"], again["resumed_after"]) == (0, {str(EURO): 4})


@integration
def test_a_killed_replay_with_requeued_events_goes_on_in_its_order(
    make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_target()
    for topic in ("to", "whole"):
        make_target(topic)
    sender = Sender(settings)
    again = {"source": b"x/0/0", "requeued-from": b"late/0/0"}
    for k in range(0, 20, 2):
        sender.event(b"EUR/USD", quote("EUR/USD", k), minute=k)
    for k in range(1, 20, 4):
        sender.event(b"EUR/USD", quote("EUR/USD", k), minute=k, **again)
    replay(settings, "--to-topic", "whole", "--with-requeued")
    whole = content(records(settings, "whole"))
    assert [time_ms for _, _, _, time_ms in whole] == sorted(time_ms for _, _, _, time_ms in whole)
    monkeypatch.setattr(replaying, "TRANSACTION_RECORDS_MAX", 4)
    commit = transactions.Transactions.commit
    commits: list[int] = []

    def dies(self: transactions.Transactions, outgoing: Any) -> None:
        commits.append(1)
        if len(commits) == 2:
            raise DependencyError("gone")
        commit(self, outgoing)

    monkeypatch.setattr(transactions.Transactions, "commit", dies)
    args = ("--to-topic", "to", "--with-requeued", "--until", "2024-02-05T00:20:00Z")
    assert "gone; 4 records were" in str(replay(settings, *args, code=1).exception)
    assert content(records(settings, "to")) == whole[:4]
    sender.event(b"EUR/USD", quote("EUR/USD", 30), minute=30)  # what is newer than --until changes nothing
    assert replayed(settings, *args)["records"] == len(whole) - 4
    assert content(records(settings, "to")) == whole
    sender.event(b"EUR/USD", quote("EUR/USD", 3), minute=3)
    assert "events that have come since make it another one" in str(replay(settings, *args, code=1).exception)
    assert content(records(settings, "to")) == whole


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "say where to: --to-prefix, --to-topic, or both"),
        (("--from", "2024-02-05T00:00:00Z", "--until", "2024-02-05T00:00:00Z"), "does not lie before --until"),
        (("--from", "7", "--until", "7"), "--from 7 does not lie before --until 7"),
        (("--from", "2024-02-05"), "has no zone"),
        (("--from", "-3"), "got '-3'"),
        (("--speed", "0"), "expected a number above 0, or max, got '0'"),
        (("--speed", "nan"), "got 'nan'"),
        (("--speed", "inf"), "got 'inf'"),
        (("--speed", "quick"), "got 'quick'"),
        (("--to-prefix", "a b"), "got 'a b'"),
        (("--with-requeued", "--from", "7"), "give --from and --until as times"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_told(args: tuple[str, ...], told: str) -> None:
    to = ("--to-prefix", "x.") if args else ()
    result = CliRunner().invoke(cli, ["replay", *to, *args])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())
