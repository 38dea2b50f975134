"""A record that a stage can't use is one dead letter and ends nothing, whatever its schema lets through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Message

from sep_stream.convert import ConvertParameters
from sep_stream.convert.rules import is_model_id
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events, events_from_records
from sep_stream.market.timeframes import MINUTE_US
from sep_stream.metrics import WindowParams
from sep_stream.runtime.log_reader import RecordBatch
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.settling import SettleParameters, Stake
from sep_stream.stores.cache.values import typed
from sep_stream.worker import cache_stage
from sep_stream.worker.batches import Batch
from sep_stream.worker.cache_stage import CacheStage
from sep_stream.worker.convert_stage import ConvertStage
from sep_stream.worker.metrics_stage import MetricsStage
from sep_stream.worker.models import Manifests
from sep_stream.worker.outbox import Outgoing
from sep_stream.worker.score_stage import ScoreStage, ScoreTopics
from sep_stream.worker.settle_stage import SettleStage
from sep_stream.worker.stage import Counters, Stage
from tests.stores.cache.described import price_record, signal_record
from tests.worker.harness import SCHEMAS, TOPOLOGY
from tests.worker.memory_log import MemoryLog, at_once, in_one_thread, played
from tests.worker.poison import Record, odd_keys, odd_values, poisoned
from tests.worker.test_cache_order import Log, Redis
from tests.worker.test_stage_recovery import CONVERT_TOPICS, SETTLE_TOPICS

PARAMS = WindowParams(history=12, forward=1, samples=1, hold=1)
EUR, JPY, GBP = b"EUR/USD", b"USD/JPY", b"GBP/USD"
START_US = 1_700_000_100 * 1_000_000
MINUTES = 240
"""Enough for the newest windows of M15."""
INSTRUMENTS = TOPOLOGY.instruments
SCORE_TOPICS = ScoreTopics("metrics", "models", "signals", "latest", "patterns", "dead")
Row = tuple[bytes | None, bytes | None]
"""Key and value."""


@pytest.fixture(autouse=True, scope="module")
def a_snapshot_after_each_batch() -> Iterator[None]:
    with in_one_thread(0.0):
        yield


@cache
def model() -> Model:
    """Its library has enough rows for signals with a direction."""
    n, rng = 400, np.random.default_rng(3)
    time_s = np.arange(n, dtype=np.int64) * 900
    paths = rng.random((n, PARAMS.path_values), np.float32)
    libraries = tuple(
        PathLibrary.build(symbol, tf, paths, time_s, time_s + 1, time_s + 2, rng.integers(1, 9, n).astype(np.int32))
        for symbol in ("EUR/USD", "USD/JPY")
        for tf in ("M1", "M5", "M15")
    )
    return Model(ModelParameters(window=PARAMS), n * 900, libraries)


class Models:
    async def get(self, model_id: str) -> Model:
        assert is_model_id(model_id), "asked for a model that no event can put in force"
        return model()


def batch(topic: str, rows: Sequence[Row], offsets: Sequence[int]) -> Batch:
    messages = [
        Message(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=(1, 1_700_000_000_000),
                headers=[("source", b"events/0/%d" % offset)])
        for (key, value), offset in zip(rows, offsets, strict=True)
    ]  # fmt: skip
    return Batch(topic, 0, RecordBatch(messages), offsets[-1] + 1, 1, 0)


def outputs(stage: Stage, topic: str, rows: Sequence[Row], odd: int | None = None) -> list[Outgoing]:
    """odd: place of a record that the others' offsets know nothing of"""
    offsets, at = [], 0
    for k in range(len(rows)):
        offsets.append(10 * at - 5 if k == odd else 10 * at)
        at += k != odd
    return list(played(stage.process([batch(topic, rows, offsets)])).outputs)


def letters(made: Sequence[Outgoing], dead: str = "dead") -> list[Record]:
    return [SCHEMAS.decode(o.value)[1] for o in made if o.topic == dead]


def of_others(made: Sequence[Outgoing], odd_offset: int) -> list[Outgoing]:
    """What does not come from the record at this offset."""
    return [o for o in made if o.headers is not None and not o.headers[0][1].endswith(b"/%d" % odd_offset)]


def convert() -> ConvertStage:
    log = MemoryLog(offsets={0: []}, high={0: 0})
    parameters = ConvertParameters(PARAMS.history, PARAMS.forward)
    return ConvertStage(CONVERT_TOPICS, SCHEMAS, INSTRUMENTS, parameters, 1, log, lambda _: True, Counters())


def metrics() -> MetricsStage:
    return MetricsStage("windows", "metrics", "dead", SCHEMAS, INSTRUMENTS, PARAMS, "cpu", Counters())


def score() -> ScoreStage:
    return ScoreStage(SCORE_TOPICS, SCHEMAS, INSTRUMENTS, PARAMS, Models(), "cpu", Counters())


def settle() -> SettleStage:
    log = MemoryLog(offsets={0: []}, high={0: 0})
    parameters = SettleParameters(trade="all", max_open=5, horizon_bars=(2, 2, 2))
    return SettleStage(SETTLE_TOPICS, SCHEMAS, INSTRUMENTS, parameters, Stake(), log, lambda _: True, Counters())


def events(records: Sequence[Record]) -> list[Row]:
    values = encode_events(
        BulkCodec(*SCHEMAS.of("market_event")), INSTRUMENTS, events_from_records(INSTRUMENTS, records)
    ).values()
    return [(r["instrument"].encode(), value) for r, value in zip(records, values, strict=True)]


def event(symbol: str, minute: int, kind: str = "QUOTE", **fields: Any) -> Record:
    return {"instrument": symbol, "kind": kind, "event_time": START_US + minute * MINUTE_US, "source": "s", **fields}


def quote(symbol: str, minute: int) -> Record:
    price = Decimal("1.1") + Decimal(minute * 7 % 13) / 1000
    return event(symbol, minute, bid=price, ask=price + Decimal("0.001"), volume=Decimal(2), sequence=minute)


@cache
def made_windows() -> tuple[Row, ...]:
    given = [event(symbol, 0, "MODEL", model_id=model().model_id) for symbol in ("EUR/USD", "USD/JPY")]
    given += [quote(symbol, k) for k in range(MINUTES) for symbol in ("EUR/USD", "USD/JPY")]
    return tuple((o.key, o.value) for o in outputs(convert(), "events", events(given)) if o.topic == "windows")


@cache
def made_metrics() -> tuple[Row, ...]:
    return tuple((o.key, o.value) for o in outputs(metrics(), "windows", made_windows()))


@cache
def made_signals() -> tuple[Row, ...]:
    made = outputs(score(), "metrics", made_metrics())
    assert {o.topic for o in made} == {"signals", "latest", "patterns"}
    return tuple((o.key, o.value) for o in made if o.topic == "signals")


def last_two(rows: Sequence[Row], name: str) -> tuple[Row, Row]:
    """The newest M1 records of two instruments, with windows of M5 and M15 where there are any."""
    m1 = [row for row in rows if SCHEMAS.decode(row[1] or b"")[1]["timeframe"] == "M1"]
    jpy, eur = (next(row for row in reversed(m1) if row[0] == key) for key in (JPY, EUR))
    record = SCHEMAS.decode(eur[1] or b"")[1]
    assert name == "signal" or (record["m5"] and record["m15"])
    return jpy, eur


def odd_rows(name: str, good: Row) -> Iterator[tuple[str, Row]]:
    key, value = good
    assert key is not None
    assert value is not None
    for told, changed in poisoned(name, SCHEMAS.decode(value)[1]):
        yield told, (key, changed)
    for odd in odd_keys(key):
        yield f"key {odd!r:.40}", (odd, value)
    for k, broken in enumerate(odd_values(value)):
        yield f"value {k}", (key, broken)


def check_letter(told: str, letter: Record, odd: Row) -> None:
    assert (letter["key"], letter["value"], letter["offset"]) == (*odd, 5), told
    assert letter["reason"], told


STATELESS = {
    "metrics": (metrics, "windows", "window", made_windows),
    "score": (score, "metrics", "metrics", made_metrics),
}


@pytest.mark.parametrize("name", STATELESS)
def test_an_odd_record_is_used_or_one_dead_letter_and_changes_nothing_for_others(name: str) -> None:
    make, topic, schema, rows = STATELESS[name]
    stage, codes = make(), {}
    jpy, eur = last_two(rows(), schema)
    undisturbed = outputs(make(), topic, [jpy, eur])
    for told, odd in odd_rows(schema, eur):
        made = outputs(stage, topic, [jpy, odd, eur], odd=1)
        assert of_others(made, 5) == undisturbed, told
        refused = letters(made)
        codes[told] = refused[0]["code"] if refused else None
        assert len(refused) == (not any(o.headers and o.headers[0][1].endswith(b"/5") for o in made)) or (
            name == "score" and told == "model_id=null"
        ), told
        for letter in refused:
            check_letter(told, letter, odd)
    expected = {
        "instrument=XXX/YYY": "UNKNOWN_INSTRUMENT", "timeframe=UNKNOWN": "UNKNOWN_SYMBOL", "timeframe=M5": "BAD_TIME",
        "model_id=zz": "BAD_MODEL_ID", "m5.model_id=zz": "BAD_MODEL_ID", "bar_index=9223372036854775807": "BAD_INDEX",
        "history=0": "PARAMETERS", "bar_open=0": "NOT_POSITIVE", "bar_close=999999999.999999999": "PRICE_RANGE",
        "bar_spread=-1E-9": "CROSSED", "key None": "KEY_MISMATCH", "value 0": "TOMBSTONE",
    }  # fmt: skip
    assert {told: codes[told] for told in expected} == expected
    ahead = [code for told, code in codes.items() if told.startswith(("m5.available_at=", "m15.available_at="))]
    assert ahead.count("WINDOW_AHEAD") >= 4
    assert codes["m5=null"] is None


def test_an_odd_signal_makes_or_breaks_no_trade() -> None:
    rows = [row for row in made_signals() if SCHEMAS.decode(row[1] or b"")[1]["timeframe"] == "M1"][:40]
    undisturbed = outputs(settle(), "signals", rows)
    assert len(undisturbed) > 10
    at = next(k for k, row in enumerate(rows) if k >= 20 and row[0] == EUR)
    refused: dict[str, str] = {}
    for told, odd in odd_rows("signal", rows[at]):
        given = [*rows[: at + 1], odd, *rows[at + 1 :]]
        made = outputs(settle(), "signals", given, odd=at + 1)
        assert [o for o in made if o.topic == "results"] == undisturbed, told
        dead = letters(made)
        assert len(dead) == len(made) - len(undisturbed) <= 1, told
        assert all((letter["key"], letter["value"]) == odd for letter in dead), told
        if dead:
            refused[told] = dead[0]["code"]
    expected = {
        "instrument=XXX/YYY": "UNKNOWN_INSTRUMENT", "direction=UNKNOWN": "UNKNOWN_SYMBOL",
        "model_id=zz": "BAD_MODEL_ID",
        "bar_index=9223372036854775807": "BAD_INDEX", "bar_index=-1": "BAD_INDEX", "metrics_version=": "PARAMETERS",
        "bar_open=999999999.999999999": "PRICE_RANGE", "bar_spread=999999999.999999999": "PRICE_RANGE",
        "key None": "KEY_MISMATCH",
    }  # fmt: skip
    assert {told: refused.get(told) for told in expected} == expected


def test_an_odd_signal_that_comes_first_and_is_taken_can_be_settled() -> None:
    """With nothing known of its instrument, and a market that goes on after it."""
    rows = [row for row in made_signals() if SCHEMAS.decode(row[1] or b"")[1]["timeframe"] == "M1" and row[0] == EUR]
    for told, odd in odd_rows("signal", rows[0]):
        made = outputs(settle(), "signals", [odd, *rows[1:20]])
        assert len(letters(made)) <= 1, told


EVENTS = {
    "quote": quote("EUR/USD", 3),
    "bar": event("EUR/USD", 3, "BAR", duration_s=60, **dict.fromkeys(("open", "high", "low", "close"), 1), volume=5),
    "trade": event("EUR/USD", 3, "TRADE", price=1, volume=1, sequence=9),
    "model": event("EUR/USD", 3, "MODEL", model_id="ab" * 32),
    "heartbeat": event("EUR/USD", 3, "HEARTBEAT"),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_an_odd_event_is_used_or_one_dead_letter_and_changes_nothing_for_others(kind: str) -> None:
    good = {name: Decimal(value) if name in DECIMALS else value for name, value in EVENTS[kind].items()}
    # Two of EUR/USD: the first of an instrument is held until its next one shows that its time is right.
    before = events([quote("USD/JPY", 0), quote("EUR/USD", 0), quote("EUR/USD", 1), quote("USD/JPY", 2)])
    after = events([quote("EUR/USD", 40), quote("USD/JPY", 50), quote("EUR/USD", 90)])
    [row] = events([good])
    undisturbed = [o for o in outputs(convert(), "events", [*before, *after]) if o.key == JPY]
    assert undisturbed
    for told, odd in odd_rows("market_event", row):
        made = outputs(convert(), "events", [*before, odd, *after], odd=len(before))
        dead = letters(made)
        assert [without_headers(o) for o in made if o.key == JPY and o.topic != "dead"] == [
            without_headers(o) for o in undisturbed
        ], told
        assert len(dead) <= 1, told
        assert all((letter["key"], letter["value"]) == odd for letter in dead), told


DECIMALS = ("open", "high", "low", "close", "price", "volume", "bid", "ask")


def without_headers(record: Outgoing) -> Outgoing:
    """Prices carry the offset up to which their partition was read."""
    return record._replace(headers=None)


@pytest.fixture
def cache_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CacheStage:
    monkeypatch.setattr(cache_stage, "LatestLog", Log)
    monkeypatch.setattr(cache_stage, "CacheWriter", Redis)
    monkeypatch.setattr(cache_stage.asyncio, "to_thread", at_once)
    settings = Settings.load(brokers="127.0.0.1:1", prefix="p.", data_dir=tmp_path)
    return CacheStage(settings, TOPOLOGY, SCHEMAS, "dead", Counters())


LATEST = {
    "prices.latest": ("latest_price", b"", lambda symbol: price_record(symbol, START_US, bid="1")),
    "signals.latest": ("signal", b"|M5", lambda symbol: signal_record(symbol, "M5")),
}


@pytest.mark.parametrize("topic", LATEST)
def test_an_odd_latest_value_is_cached_readably_or_one_dead_letter(cache_of: CacheStage, topic: str) -> None:
    schema, suffix, record = LATEST[topic]
    rows = [(key + suffix, SCHEMAS.encode(schema, record(key.decode()))) for key in (JPY, EUR)]
    redis: Any = cache_of._writer
    for told, odd in odd_rows(schema, rows[1]):
        made = outputs(cache_of, f"p.{topic}", [rows[0], odd], odd=1)
        written = {entry.name: entry for entry in redis.written.pop()}
        outputs(cache_of, f"p.{topic}", [rows[0]])
        [alone] = redis.written.pop()
        assert written.pop(alone.name) == alone, told
        assert len(made) + len(written) == 1, told
        for entry in written.values():
            assert typed(entry.name, entry.fields), told
        for letter in letters(made):
            assert (letter["key"], letter["value"]) == odd, told


def manifest(**fields: str) -> Record:
    good = {"model_id": "ab" * 32, "metrics_version": "v", "location": "ab" * 32, "manifest_sha256": "cd" * 32}
    return {**good, **fields}


def test_an_odd_manifest_is_one_dead_letter_where_a_worker_cannot_use_it() -> None:
    key = b"ab" * 32
    good = (key, SCHEMAS.encode("model_manifest", manifest()))
    stage = score()
    assert outputs(stage, "models", [good, (key, None)]) == []
    codes = {}
    for told, odd in odd_rows("model_manifest", good):
        made = outputs(stage, "models", [good, odd, good], odd=1)
        for letter in letters(made):
            check_letter(told, letter, odd)
        assert [o.topic for o in made] == ["dead"] * len(made)
        codes[told] = [letter["code"] for letter in letters(made)]
    for location in ("../x", "/etc", "a/../../b", "a\0b"):
        odd_manifest = SCHEMAS.encode("model_manifest", manifest(location=location))
        assert [r["code"] for r in letters(outputs(stage, "models", [(key, odd_manifest)]))] == ["BAD_MANIFEST"]
    assert codes["value 0"] == []
    assert codes["model_id=zz"] == codes["location="] == codes["manifest_sha256=null"] == ["BAD_MANIFEST"]
    assert all(len(found) == 1 for told, found in codes.items() if told.startswith(("key", "model_id=zz")))


def test_the_sound_manifest_of_a_model_is_found_beside_odd_ones() -> None:
    """A later one that is of no use does not take its place."""
    good = (b"ab" * 32, SCHEMAS.encode("model_manifest", manifest()))
    manifests = Manifests(SCHEMAS)
    for told, odd in odd_rows("model_manifest", good):
        rows = [good, odd]
        refused = [row for row, _ in manifests.faults(*zip(*rows, strict=True))]
        found = list(manifests.sound(*zip(*rows, strict=True)))
        assert found[0] == {name: manifest()[name] for name in found[0]}, told
        assert len(found) == 2 - len(refused) - (odd[1] is None), told


KEYS = {b"USD/JPY": "USD/JPY", b"USD/CAD|M1": "USD/CAD", b"XXX/YYY": None, b"\xff|": None, b"": None, None: None}
"""And the instruments that they name."""


@pytest.mark.parametrize("name", ["convert", "metrics", "score", "settle", "prices.latest", "signals.latest"])
def test_a_dead_letter_is_listed_under_the_instrument_of_its_key(name: str, cache_of: CacheStage) -> None:
    """Where its value tells none. The letter's own key and partition are the record's."""
    inputs = {"convert": "events", "metrics": "windows", "score": "metrics", "settle": "signals"}
    stage: Any = {"convert": convert, "metrics": metrics, "score": score, "settle": settle}.get(
        name, lambda: cache_of
    )()
    made = outputs(stage, inputs.get(name, f"p.{name}"), [(key, b"garbage") for key in KEYS])
    assert [(o.topic, o.partition, o.key) for o in made] == [("dead", 0, key or b"") for key in KEYS]
    assert [letter["instrument"] for letter in letters(made)] == list(KEYS.values())
    assert stage._counters.fields()["dead"] == {
        "?": {"bad_magic": 4}, "USD/CAD": {"bad_magic": 1}, "USD/JPY": {"bad_magic": 1},
    }  # fmt: skip
