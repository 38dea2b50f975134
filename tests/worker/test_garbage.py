"""Records that are no events: each is one dead letter with its bytes, whatever its size, and stops nothing."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from confluent_kafka import Producer

from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.runtime.settings import Settings
from sep_stream.worker.stage import CUT_KEY_BYTES, REJECTED_BYTES_MAX, Refused, rejected_records
from tests.worker.harness import (
    COLD_S_MAX,
    SCHEMAS,
    SMALL,
    Records,
    decoded,
    log_of,
    publish,
    raw,
    run_until_caught_up,
    worker,
)
from tests.worker.markets import SEED, STEPS, assert_same_events_gave_the_same, quotes, steps
from tests.worker.test_refused_sends import alter

MIB = 1024 * 1024
CODEC = BulkCodec(*SCHEMAS.of("rejected"))


@dataclass(frozen=True)
class Garbage:
    key: bytes | None
    value: bytes | None
    code: str
    copies: int = 1


def garbage(choice: random.Random) -> list[Garbage]:
    """Of all kinds, in a random order."""
    event_id = SCHEMAS["market_event"].schema_id.to_bytes(4, "big")
    nearly_mib = choice.randbytes(MIB - 2_000)
    kinds = [
        Garbage(b"EUR/USD", None, "TOMBSTONE"),
        Garbage(None, None, "TOMBSTONE"),
        Garbage(b"EUR/USD", b"", "BAD_MAGIC"),
        Garbage(choice.randbytes(30), b"\x01" + choice.randbytes(80), "BAD_MAGIC"),
        Garbage(b"USD/JPY", b"\x00\x00\x00\x00\x07" + choice.randbytes(80), "UNKNOWN_SCHEMA"),
        Garbage(b"AUD/USD", b"\x00" + event_id + b"\xff" * 40, "MALFORMED"),
        Garbage(None, b"\x00" + event_id, "MALFORMED"),
        Garbage(b"EUR/USD", b"\x01" + nearly_mib, "BAD_MAGIC", 3),
        Garbage(nearly_mib, b"\x01", "BAD_MAGIC", 2),
    ]
    flood = [item for item in kinds for _ in range(item.copies if item.copies > 1 else 300)]
    choice.shuffle(flood)
    return flood


def send(settings: Settings, items: list[Garbage]) -> None:
    producer = Producer({"bootstrap.servers": settings.brokers, "message.max.bytes": 12 * MIB})
    failed: list[object] = []
    for k, item in enumerate(items):
        producer.produce(
            settings.topic("market.events"), item.value, item.key, k % settings.partitions,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )  # fmt: skip
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed


@pytest.mark.integration
def test_garbage_between_events_becomes_dead_letters_and_changes_nothing_else(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    items = garbage(random.Random(3))
    per_step = -(-len(items) // STEPS)
    for number, step in enumerate(steps(settings, SEED, STEPS)):
        send(settings, items[number * per_step : (number + 1) * per_step])
        for act in step:
            act()
    run_until_caught_up(settings)
    letters = decoded(settings, "dead.letters")
    assert Counter((r["key"], r["value"], r["code"]) for r in letters) == Counter(
        (item.key, item.value, item.code) for item in items
    )
    log = {(p, o): (key, value) for p, o, key, value, _ in raw(settings, "market.events")}
    assert all(log[r["partition"], r["offset"]] == (r["key"], r["value"]) for r in letters)
    assert {r["topic"] for r in letters} == {settings.topic("market.events")}
    assert all(r["reason"] for r in letters)
    assert_same_events_gave_the_same(settings, undisturbed)


@pytest.mark.integration
def test_a_record_too_large_for_a_dead_letter_is_cut_and_does_not_stop_the_worker(
    make_settings: Callable[..., Settings], prefix: str, undisturbed: Records
) -> None:
    settings = make_settings(prefix, **SMALL)
    alter(settings, "market.events", max_message_bytes=str(12 * MIB))
    value, key = random.Random(4).randbytes(10 * MIB), random.Random(5).randbytes(3 * MIB)
    large = [Garbage(b"EUR/USD", value, "BAD_MAGIC"), Garbage(key, None, "TOMBSTONE")]
    log = steps(settings, SEED, STEPS)
    for number, step in enumerate(log):
        if number in (1, 3):
            send(settings, [large[number // 2]])
        for act in step:
            act()
    run_until_caught_up(settings)
    by_code = {r["code"]: r for r in decoded(settings, "dead.letters")}
    assert set(by_code) == {"BAD_MAGIC", "TOMBSTONE"}
    assert value.startswith(by_code["BAD_MAGIC"]["value"])
    assert len(by_code["BAD_MAGIC"]["value"]) > 3 * MIB
    assert f"lie in {prefix}market.events/0 at offset" in by_code["BAD_MAGIC"]["reason"]
    assert (by_code["TOMBSTONE"]["key"], by_code["TOMBSTONE"]["value"]) == (key[:CUT_KEY_BYTES], None)
    assert [headers for *_, headers in raw(settings, "dead.letters")].count({"cut": str(10 * MIB).encode()}) == 1
    assert_same_events_gave_the_same(settings, undisturbed)


@pytest.mark.integration
@pytest.mark.slow
def test_a_state_that_events_made_too_large_for_a_snapshot_does_not_stop_the_worker(
    make_settings: Callable[..., Settings], prefix: str
) -> None:
    """Sources are remembered by name: five of 900 kB are more than the state's topic takes."""
    settings = make_settings(prefix, group_instance="one", **SMALL)
    names = [chr(ord("a") + k) * 900_000 for k in range(5)]
    quote = quotes(SEED).take(slice(0, 1))
    with worker(settings) as process:
        for k, name in enumerate(names):
            publish(settings, replace(quote, sequence=np.array([k + 1]), sources=(name,)))
        k, deadline_s = len(names), time.monotonic() + COLD_S_MAX
        while "state too large for a snapshot" not in log_of(settings):
            assert process.poll() is None, log_of(settings)[-3000:]
            k += 1
            publish(settings, replace(quote, sequence=np.array([k])))
            time.sleep(0.2)
            assert time.monotonic() < deadline_s, "no snapshot was left out"
    publish(settings, quotes(SEED).take(slice(1, 2_000)))
    run_until_caught_up(settings)
    assert len(raw(settings, "bars")) > 0
    assert raw(settings, "dead.letters") == []


def refused_of(*records: tuple[bytes | None, bytes | None]) -> list[Refused]:
    return [Refused("CODE", "why", 3, k, key, value) for k, (key, value) in enumerate(records)]


def sizes() -> Iterator[tuple[int, int]]:
    for key in (0, 10, REJECTED_BYTES_MAX // 4, REJECTED_BYTES_MAX // 4 + 1, 5 * MIB):
        for value in (0, 10, REJECTED_BYTES_MAX - 2 * 10, REJECTED_BYTES_MAX - 2 * 10 + 1, 9 * MIB):
            yield key, value


@pytest.mark.parametrize(("key", "value"), list(sizes()))
def test_a_rejected_record_fits_its_topic_and_is_whole_where_it_can_be(key: int, value: int) -> None:
    refused = refused_of((b"k" * key, b"v" * value), (b"small", b"one"))
    cut, whole = rejected_records(CODEC, "dead", "events", refused)
    assert len(cut.key) + len(cut.value) < 4 * MIB
    letter = SCHEMAS.decode(cut.value)[1]
    fits = 2 * key + value <= REJECTED_BYTES_MAX
    assert ((letter["key"], letter["value"]) == (b"k" * key, b"v" * value)) == fits
    assert (cut.headers is None, letter["reason"] == "why") == (fits, fits)
    assert SCHEMAS.decode(whole.value)[1]["value"] == b"one"
    assert whole.headers is None


def test_rejected_records_are_those_of_a_writer_one_by_one() -> None:
    records = [(b"k", b"v"), (None, b""), (b"", None), ("ü".encode(), bytes(range(256)))]
    refused = refused_of(*records)
    refused = [refused[0]._replace(instrument="EUR/USD", event_time_us=7), *refused[1:3], refused[3]._replace(code="B")]
    assert [out.value for out in rejected_records(CODEC, "dead", "events", refused)] == [
        SCHEMAS.encode(
            "rejected",
            {"code": r.code, "reason": r.reason, "instrument": r.instrument, "event_time": r.event_time_us,
             "topic": "events", "partition": 3, "offset": r.offset, "key": r.key, "value": r.value},
        )
        for r in refused
    ]  # fmt: skip
    assert [out.key for out in rejected_records(CODEC, "dead", "events", refused)] == [
        b"EUR/USD",
        b"",
        b"",
        "ü".encode(),
    ]
