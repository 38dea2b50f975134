"""`dlq` and `status`: refused events are listed, shown, counted, and published again at most once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from sep_stream.cli import cli
from sep_stream.errors import DependencyError
from sep_stream.history import transactions
from sep_stream.history.refused import Place, RefusedLog, Wanted
from sep_stream.history.requeue import Requeue
from sep_stream.market.events import REASON_TEXT, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.log_reader import LogReader
from sep_stream.runtime.settings import Settings
from tests.cli.commands import NOWHERE, begin
from tests.cli.refusals import SCHEMAS, T0_S, TOPOLOGY, Sender, quote
from tests.worker.harness import log_of, run_until_caught_up

integration = pytest.mark.integration
MakeSettings = Callable[..., Settings]


def dlq(settings: Settings, *args: object, code: int = 0, **extra: Any) -> Result:
    flags = ("--brokers", settings.brokers, "--prefix", settings.prefix, "--data-dir", settings.data_dir)
    result = CliRunner().invoke(cli, ["dlq", *map(str, args), *map(str, flags)], **extra)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def listed(settings: Settings, *args: object) -> dict[str, Any]:
    return json.loads(dlq(settings, "list", "--json", *args).stdout)


def refs(found: dict[str, Any]) -> list[str]:
    return [letter["ref"] for letter in found["letters"]]


def requeued(settings: Settings, *args: object) -> dict[str, Any]:
    return json.loads(dlq(settings, "requeue", "--yes", "--json", *args).stdout)


def events(settings: Settings, key: bytes) -> list[bytes | None]:
    """Values of the records in the key's own partition of market.events."""
    reader, name = LogReader(settings), settings.topic("market.events")
    partition = partition_for(key, settings.partitions)
    batches = reader.read(name, partition, *reader.watermarks(name, partition))
    return [value for batch in batches for k, value in zip(batch.keys, batch.values, strict=True) if k == key]


@integration
def test_a_wrong_partition_event_is_dead_is_requeued_and_becomes_a_bar(
    make_settings: MakeSettings, prefix: str
) -> None:
    settings = make_settings(prefix)
    sender, wrong = Sender(settings), 1 - partition_for(b"EUR/USD", settings.partitions)
    sender.event(b"EUR/USD", quote("EUR/USD", 0, "1.2", "1.3"), wrong, producer=b"mine")
    sender.event(b"EUR/USD", quote("GBP/USD", 0))
    run_until_caught_up(settings, "--stages", "convert")
    ended = next(line for line in map(json.loads, log_of(settings).splitlines()) if line["event"] == "worker ends")
    assert ended["dead"] == {"EUR/USD": {"wrong_partition": 1}, "GBP/USD": {"key_mismatch": 1}}

    found = listed(settings, "--reason", "wrong_partition")
    [letter] = found["letters"]
    assert letter["origin"] == f"{prefix}market.events/{wrong}/0"
    assert found["summary"] == [
        {"topic": "dead.letters", "code": "WRONG_PARTITION", "instrument": "EUR/USD", "count": 1}
    ]
    shown = dlq(settings, "show", letter["ref"]).stdout
    for text in (REASON_TEXT[Reason.WRONG_PARTITION], "requeue it: it goes", "producer=mine", "bid=1.2", "EUR/USD"):
        assert text in shown

    told = requeued(settings, "--reason", "WRONG_PARTITION", "--all-matching")
    assert (told["published"], told["forecast"]) == (1, {"OK": 1})
    sender.event(b"EUR/USD", quote("EUR/USD", 1), minute=1)
    run_until_caught_up(settings, "--stages", "convert")
    reader, bars = LogReader(settings), settings.topic("bars")
    partition = partition_for(b"EUR/USD", settings.partitions)
    [batch] = reader.read(bars, partition, *reader.watermarks(bars, partition))
    [bar] = [SCHEMAS.decode(value)[1] for value in batch.values if value is not None]
    assert (bar["instrument"], float(bar["close"])) == ("EUR/USD", 1.25)
    assert {letter["code"]: letter["requeued"] for letter in listed(settings)["letters"]} == {
        "WRONG_PARTITION": True,
        "KEY_MISMATCH": False,
    }


@integration
def test_a_letter_is_requeued_once_with_its_bytes_and_where_they_came_from(
    make_settings: MakeSettings, prefix: str
) -> None:
    settings = make_settings(prefix)
    ref = Sender(settings).misplaced("EUR/USD", 3)
    assert requeued(settings, ref)["published"] == 1
    again = dlq(settings, "requeue", ref)
    assert "0 events published again" in again.stdout
    assert f"{ref}: was requeued before; not published a second time" in again.stderr
    assert requeued(settings, "--all-matching")["requeued_before"] == [ref]
    assert events(settings, b"EUR/USD") == [quote("EUR/USD", 3)]
    follower = LogReader(settings).follow(settings.topic("market.events"), {partition_for(b"EUR/USD", 8): 0})
    message = next(message for _ in range(600) for message in follower.poll(0.2))
    follower.close()
    letter = RefusedLog(settings).letter(Place.parse(ref))
    assert message.headers() == [("source", str(letter.origin).encode()), ("requeued-from", ref.encode())]
    assert message.timestamp()[1] == (T0_S + 180) * 1000


@integration
def test_repeats_of_a_letter_are_one_event(make_settings: MakeSettings, prefix: str) -> None:
    settings = make_settings(prefix)
    sender = Sender(settings)
    first = sender.misplaced("EUR/USD", 3)
    letter = RefusedLog(settings).letter(Place.parse(first))
    second = sender.letter(Reason.WRONG_PARTITION, letter.origin, letter.key, letter.value, "EUR/USD", 3)
    assert first != second
    assert requeued(settings, first, second)["published"] == 1
    assert requeued(settings, second)["published"] == 0
    assert events(settings, b"EUR/USD") == [quote("EUR/USD", 3)]


@integration
def test_letters_are_chosen_by_their_reason_instrument_and_event_time(make_settings: MakeSettings, prefix: str) -> None:
    settings = make_settings(prefix)
    sender, name = Sender(settings), settings.topic("market.events")
    euro, yen = partition_for(b"EUR/USD", 8), partition_for(b"CLZ6", 8)
    crossed = [
        sender.letter(Reason.CROSSED, Place(name, euro, k), b"EUR/USD", quote("EUR/USD", k), "EUR/USD", k)
        for k in range(3)
    ]
    oil = sender.letter(Reason.NOT_POSITIVE, Place(name, yen, 0), b"CLZ6", quote("CLZ6", 1), "CLZ6", 1)
    noise = sender.letter(Reason.BAD_MAGIC, Place(name, euro, 3), b"EUR/USD", b"noise")
    late = sender.letter(Reason.LATE, Place(name, euro, 4), b"EUR/USD", quote("EUR/USD", 0), "EUR/USD", 0)
    every = {*crossed, oil, noise, late}
    assert set(refs(listed(settings))) == every
    assert refs(listed(settings, "--topic", "late")) == [late]
    assert set(refs(listed(settings, "--topic", "dead.letters"))) == every - {late}
    assert refs(listed(settings, "--reason", "crossed")) == crossed
    assert set(refs(listed(settings, "--reason", "crossed", "--reason", "BAD_MAGIC"))) == {*crossed, noise}
    assert refs(listed(settings, "--instrument", "CL_Z26")) == [oil]
    assert refs(listed(settings, "--instrument", "?")) == [noise]
    until = ("--until", "2024-02-05T00:02:00Z")
    within = listed(settings, "--from", "2024-02-05T00:01:00Z", *until)
    assert set(refs(within)) == {crossed[1], oil}
    assert within["undated"] == 1
    left_out = dlq(settings, "list", *until)
    assert "1 letters have no known event time and are left out" in left_out.stderr
    assert refs(listed(settings, "--reason", "CROSSED", "--count", 2)) == crossed[1:]
    few = listed(settings, "--count", 0)
    assert few["letters"] == []
    assert few["summary"] == [
        {"topic": "dead.letters", "code": "CROSSED", "instrument": "EUR/USD", "count": 3},
        {"topic": "dead.letters", "code": "BAD_MAGIC", "instrument": None, "count": 1},
        {"topic": "dead.letters", "code": "NOT_POSITIVE", "instrument": "CLZ6", "count": 1},
        {"topic": "late", "code": "LATE", "instrument": "EUR/USD", "count": 1},
    ]
    text = dlq(settings, "list", "--count", 1).stdout
    assert f"{late}  LATE  EUR/USD  2024-02-05T00:00:00Z  from {name}/{euro}/4" in text
    assert "6 letters match, 1 of them shown" in text


@integration
def test_status_counts_what_was_refused_up_to_a_bound(
    make_settings: MakeSettings, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(prefix)
    sender, name = Sender(settings), settings.topic("market.events")

    def status(*flags: str) -> Any:
        args = ("--brokers", settings.brokers, "--prefix", prefix, "--data-dir", settings.data_dir, *flags)
        return CliRunner().invoke(cli, ["status", *map(str, args)]).stdout

    assert "refused" not in status()
    for k in range(3):
        sender.letter(Reason.CROSSED, Place(name, 0, k), b"EUR/USD", b"", "EUR/USD", k)
    sender.letter(Reason.BAD_MAGIC, Place(name, 0, 3), b"EUR/USD", b"noise")
    sender.letter(Reason.LATE, Place(name, 0, 4), b"EUR/USD", b"", "EUR/USD", 0)
    sender.put("late", b"", b"no letter", 0)
    assert json.loads(status("--json"))["refused"] == {
        "counts": [
            {"topic": "dead.letters", "code": "CROSSED", "instrument": "EUR/USD", "count": 3},
            {"topic": "dead.letters", "code": "BAD_MAGIC", "instrument": None, "count": 1},
            {"topic": "late", "code": "LATE", "instrument": "EUR/USD", "count": 1},
        ],
        "uncounted": 0,
        "unreadable": 1,
    }
    text = status()
    assert "             1  dead.letters  BAD_MAGIC           ?" in text
    assert "             1  records there are no letters" in text
    monkeypatch.setattr("sep_stream.cli.stack.COUNTED_RECORDS_MAX", 2 * settings.partitions)
    bounded = json.loads(status("--json"))["refused"]
    assert sum(row["count"] for row in bounded["counts"]) + bounded["unreadable"] == 4
    assert bounded["uncounted"] == 2
    assert "2  older ones are not counted here" in status()


@integration
def test_a_letter_is_shown_with_what_its_bytes_are(make_settings: MakeSettings, prefix: str) -> None:
    settings = make_settings(prefix)
    sender = Sender(settings)
    origin = sender.event(b"\xffEUR", b"\x01noise", 1, trace=b"7")
    ref = sender.letter(Reason.BAD_MAGIC, origin, b"\xffEUR", b"\x01noise")
    shown = json.loads(dlq(settings, "show", ref, "--json").stdout)
    assert shown["value"] == b"\x01noise".hex()
    assert shown["key"] == "\\xffEUR"
    assert shown["fields"] is None
    assert "magic byte" in shown["undecodable"]
    assert "correct the producer" in shown["remedy"]
    assert shown["original"]["headers"] == [{"name": "trace", "value": "7"}]
    gone = sender.letter(Reason.TOMBSTONE, Place(origin.topic, 1, 99), None, None)
    text = dlq(settings, "show", gone).stdout
    assert f"{origin.topic}/1/99 (no longer there)" in text
    assert "the record has no value" in text


@integration
def test_what_requeueing_cannot_do_is_told_before_anything_is_published(
    make_settings: MakeSettings, prefix: str
) -> None:
    settings = make_settings(prefix)
    sender, name, home = Sender(settings), settings.topic("market.events"), partition_for(b"EUR/USD", 2)
    sender.event(b"EUR/USD", quote("EUR/USD", 60, sequence=5), minute=60)

    def letter(code: Reason, offset: int, value: bytes, instrument: str | None = "EUR/USD") -> str:
        return sender.letter(code, Place(name, 1 - home, offset), b"EUR/USD", value, instrument)

    letter(Reason.WRONG_PARTITION, 0, quote("EUR/USD", 61))
    letter(Reason.WRONG_PARTITION, 1, quote("EUR/USD", 59))
    letter(Reason.WRONG_PARTITION, 2, quote("EUR/USD", 60, sequence=5))
    letter(Reason.WRONG_PARTITION, 3, quote("EUR/USD", 61, kind="MODEL", model_id="ab" * 32))
    letter(Reason.CROSSED, 4, quote("EUR/USD", 61, "1.3", "1.2"))
    letter(Reason.KEY_MISMATCH, 5, quote("GBP/USD", 61))
    noise = letter(Reason.BAD_MAGIC, 6, b"noise", None)
    told = dlq(settings, "requeue", "--all-matching", "--dry-run")
    assert told.stdout == "6 events would be published; nothing was\n"
    for text in (
        "6 events to publish",
        "2 are used",
        "1 are late",
        "1 are duplicates",
        "1 are refused again (CROSSED)",
        "1 are refused again (KEY_MISMATCH)",
        "1 put a model in force",
        f"{noise}: can't be requeued: the value does not begin with the Confluent magic byte",
    ):
        assert text in told.stderr
    assert len(events(settings, b"EUR/USD")) == 1
    declined = dlq(settings, "requeue", "--all-matching", input="n\n")
    assert "Publish 6 events again?" in declined.stderr
    assert declined.stdout.endswith("0 events published again\n")
    assert len(events(settings, b"EUR/USD")) == 1
    dlq(settings, "requeue", "--all-matching", input="y\n")
    assert len(events(settings, b"EUR/USD")) == 7
    reader = LogReader(settings)
    [batch] = reader.read(name, home, *reader.watermarks(name, home))
    assert np.all(np.diff(batch.timestamps_ms[1:]) >= 0)  # in the order of their event times


@integration
def test_only_events_are_requeued(make_settings: MakeSettings, prefix: str) -> None:
    settings = make_settings(prefix)
    sender = Sender(settings)
    good = sender.misplaced("EUR/USD", 0)
    window = sender.letter(Reason.PARAMETERS, Place(settings.topic("windows"), 0, 0), b"EUR/USD", b"x", "EUR/USD")
    result = dlq(settings, "requeue", good, window, "--yes", code=1)
    assert f"lay in {prefix}windows: only events of market.events are requeued" in result.stderr
    assert "nothing is published" in str(result.exception)
    assert events(settings, b"EUR/USD") == []
    assert requeued(settings, "--all-matching")["published"] == 1


def dies(committed: bool) -> None:
    """Have this process killed at its first commit of a transaction, before or after it."""

    class Dies(transactions.Producer):  # type: ignore[misc, name-defined]
        def commit_transaction(self, *timeout: float) -> None:
            self.flush(60)
            if committed:
                super().commit_transaction(*timeout)
            os.kill(os.getpid(), signal.SIGKILL)

    transactions.Producer = Dies  # type: ignore[attr-defined]


def die_requeueing(settings: Settings, ref: str, committed: bool) -> None:
    requeue = ("dlq", "requeue", ref, "--yes")
    died = begin(*requeue, cwd=Path.cwd(), before=partial(dies, committed), **settings.environment())
    code, _, err = died()
    assert code == -signal.SIGKILL, err


@integration
@pytest.mark.parametrize("committed", [False, True], ids=["before_the_commit", "after_the_commit"])
def test_a_requeue_killed_between_sending_and_remembering_publishes_once(
    make_settings: MakeSettings, prefix: str, committed: bool
) -> None:
    settings = make_settings(prefix)
    ref = Sender(settings).misplaced("EUR/USD", 0)
    die_requeueing(settings, ref, committed)
    assert requeued(settings, ref)["published"] == (0 if committed else 1)
    assert requeued(settings, ref)["published"] == 0
    assert events(settings, b"EUR/USD") == [quote("EUR/USD", 0)]


@integration
def test_of_two_requeues_at_once_only_one_publishes(
    make_settings: MakeSettings, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(prefix)
    Sender(settings).misplaced("EUR/USD", 0)
    queue = Requeue(settings, TOPOLOGY, SCHEMAS)
    letters = queue.plan(RefusedLog(settings).search(Wanted(), 10).letters).letters
    others: list[int] = []

    class Overtaken(Producer):
        """Before its first commit, another requeue runs from beginning to end."""

        def commit_transaction(self, *timeout: float) -> None:
            monkeypatch.setattr(transactions, "Producer", Producer)
            others.append(Requeue(settings, TOPOLOGY, SCHEMAS).publish(letters, str))
            super().commit_transaction(*timeout)

    monkeypatch.setattr(transactions, "Producer", Overtaken)
    with pytest.raises(DependencyError, match="another requeue began meanwhile"):
        queue.publish(letters, str)
    assert others == [1]
    assert events(settings, b"EUR/USD") == [quote("EUR/USD", 0)]


@integration
def test_events_over_a_day_in_the_future_are_told_and_nothing_is_published(
    make_settings: MakeSettings, prefix: str
) -> None:
    settings = make_settings(prefix)
    sender = Sender(settings)
    good = sender.misplaced("EUR/USD", 0)
    value = quote("EUR/USD", 60 * 24 * 365 * 100)
    ahead = sender.letter(Reason.JUMP, Place(settings.topic("market.events"), 0, 9), b"EUR/USD", value, "EUR/USD")
    result = dlq(settings, "requeue", good, ahead, "--yes", code=1)
    assert f"{ahead}: the broker refuses events that are over a day in the future" in str(result.exception)
    assert events(settings, b"EUR/USD") == []
    assert requeued(settings, good)["published"] == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("show", "dead.letters/3"), "expected dead.letters/PARTITION/OFFSET"),
        (("show", "bars/0/0"), "got 'bars/0/0'"),
        (("show", "late/0/-1"), "got 'late/0/-1'"),
        (("show",), "REF"),
        (("list", "--reason", "UGLY"), "UGLY"),
        (("list", "--reason", "DUPLICATE"), "DUPLICATE"),
        (("list", "--topic", "bars"), "bars"),
        (("list", "--count", "-1"), "--count"),
        (("list", "--from", "2024-02-05"), "has no zone"),
        (("list", "--from", "2024-02-06T00:00:00Z", "--until", "2024-02-05T00:00:00Z"), "does not lie before"),
        (("requeue",), "give REF"),
        (("requeue", "--reason", "CROSSED"), "--all-matching"),
        (("requeue", "late/0/0", "--all-matching"), "not both"),
        (("requeue", "late/0/0", "--reason", "LATE"), "not both"),
        (("requeue", "late/0"), "late/PARTITION/OFFSET"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_told(args: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(cli, ["dlq", *args])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


@integration
@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("dead.letters/9/0", "has partitions 0 to 1"),
        ("late/0/5", "there is no such record; the partition holds the offsets 0 to 0"),
        ("late/1/0", "there is no such record; the partition holds none"),
    ],
)
def test_a_letter_that_is_not_there_is_told(make_settings: MakeSettings, prefix: str, ref: str, told: str) -> None:
    settings = make_settings(prefix)
    Sender(settings).letter(Reason.LATE, Place("", 0, 0), b"", None)
    for command in ("show", "requeue"):
        assert told in str(dlq(settings, command, ref, code=1).exception)


@integration
def test_an_unknown_instrument_and_a_record_that_is_no_letter_are_told(
    make_settings: MakeSettings, prefix: str
) -> None:
    settings = make_settings(prefix)
    assert "unknown instrument 'XXX'" in str(dlq(settings, "list", "--instrument", "XXX", code=1).exception)
    Sender(settings).put("late", None, b"noise", 0)
    assert "not an Avro Rejected (BAD_MAGIC)" in str(dlq(settings, "show", "late/0/0", code=1).exception)
    assert "1 records are no letters" in dlq(settings, "list").stderr


@integration
def test_a_prefix_without_the_topics_names_the_remedy(broker: str, prefix: str, tmp_path: Path) -> None:
    settings = Settings.load(brokers=broker, prefix=prefix, data_dir=tmp_path)
    for args in (("list",), ("requeue", "--all-matching")):
        assert "sep-stream topics create" in str(dlq(settings, *args, code=1).exception)


def test_a_broker_that_is_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Both at once: each waits for an answer that does not come."""
    running = [begin("dlq", *args, "--brokers", NOWHERE, cwd=tmp_path) for args in (["list"], ["requeue", "late/0/0"])]
    for end in running:
        code, stdout, stderr = end()
        assert (code, stdout) == (1, "")
        assert NOWHERE in stderr
        assert "sep-stream up" in stderr
        assert len(stderr.splitlines()) == 1
