"""`tail`: records as a person and a program read them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from sep_stream.cli import cli
from sep_stream.cli._common import progress as tell
from sep_stream.cli._records import json_record, text_record
from sep_stream.market.avro import load_schemas
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from tests.waiting import PATIENCE_S

SCHEMAS = load_schemas(resource("schemas") / "avro")
T0 = datetime(2024, 2, 5, tzinfo=UTC)


def bar(symbol: str, minute: int) -> dict[str, Any]:
    prices = {name: Decimal("1.10000") for name in ("open", "high", "low", "close")}
    at = T0.replace(minute=minute)
    fields = {"instrument": symbol, "timeframe": "M1", "open_time": at, "index": minute, "volume": Decimal("12.5")}
    return fields | prices | {"spread": Decimal("0.00012")}


SIGNAL = {
    "signal_id": "00000000-0000-5000-8000-000000000001", "instrument": "EUR/USD", "timeframe": "M1",
    "anchor_time": T0, "available_at": T0, "direction": "BUY", "reason": None, "confidence": 0.1 + 0.2, "p_up": 0.75,
    "expected_move": 1.5, "gate_passed": False, "gate_failed": '["confidence", "stability"]', "confirmed": False,
    "m5_signal_id": None, "m15_signal_id": None,
    "matches": '[{"row": 7, "anchor_time": 1707091200, "cosine": 0.9999999999999999, "outcome": -3}]',
    "model_id": "ab" * 32, "metrics_version": "sep-metrics/1", "bar_index": 1, "bar_open_time": T0,
    "bar_open": Decimal("1.1"), "bar_close": Decimal("0"), "bar_spread": None,
}  # fmt: skip


def send(settings: Settings, topic: str, schema: str, *records: dict[str, Any]) -> None:
    producer = Producer(librdkafka(settings))
    for record in records:
        key = record["instrument"].encode()
        partition = partition_for(key, settings.partitions)
        value = SCHEMAS.encode(schema, record)
        stamp = int(record.get("open_time", T0).timestamp() * 1000)
        producer.produce(settings.topic(topic), value, key, partition, timestamp=stamp)
    assert producer.flush(60) == 0


def tail(settings: Settings, *args: object) -> Result:
    flags = ("--brokers", settings.brokers, "--prefix", settings.prefix)
    result = CliRunner().invoke(cli, ["tail", *map(str, args), *map(str, flags)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def minutes(result: Result) -> list[int]:
    return [json.loads(line)["index"] for line in result.stdout.splitlines()]


def test_a_signal_is_shown_with_its_gate_and_matches_expanded() -> None:
    fields = json_record(*SCHEMAS.decode(SCHEMAS.encode("signal", SIGNAL)))
    assert list(fields)[:17] == [
        "signal_id", "instrument", "timeframe", "anchor_time", "available_at", "direction", "confidence", "p_up",
        "expected_move", "gate", "confirmed", "m5_signal_id", "m15_signal_id", "matches", "reason", "model_id",
        "metrics_version",
    ]  # fmt: skip
    assert fields["gate"] == {"passed": False, "failed": ["confidence", "stability"]}
    match = {"row": 7, "anchor_time": "2024-02-05T00:00:00Z", "cosine": 0.9999999999999999, "outcome": -3}
    assert fields["matches"] == [match]
    assert fields["anchor_time"] == "2024-02-05T00:00:00Z"
    assert json.loads(json.dumps(fields))["confidence"] == 0.1 + 0.2
    assert (fields["bar_open"], fields["bar_close"], fields["bar_spread"]) == ("1.1", "0", None)


def test_packed_bytes_become_lists_and_others_text_or_hex() -> None:
    path = np.array([0.25, 1 / 3], "<f4")
    pattern = {"pattern_id": "x", "instrument": "EUR/USD", "path": path.tobytes(), "confidence": 0.5}
    assert json_record("pattern", pattern)["path"] == path.tolist()
    window = {"bits": b"\x01\xff", "prices": np.array([1, -2], "<i4").tobytes(), "m5": {"bits": b"\xff" * 8, "x": T0}}
    found = json_record("window", window)
    assert found == {"bits": "01ff", "prices": [1, -2], "m5": {"bits": "ff" * 8, "x": "2024-02-05T00:00:00Z"}}
    assert json_record("rejected", {"key": b"EUR/USD", "value": b"\x00\xfe"}) == {"key": "EUR/USD", "value": "00fe"}
    assert text_record(found) == "bits=<4>  prices=<2>  m5=(bits=<16>  x=2024-02-05T00:00:00Z)"


@pytest.mark.integration
def test_records_are_read_from_where_one_says(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    send(settings, "bars", "bar", *(bar("EUR/USD", k) for k in range(5)), *(bar("CLZ6", k) for k in range(2)))
    every = ("bars", "--json", "--until-end", "--from")
    assert sorted(minutes(tail(settings, *every, "beginning"))) == [0, 0, 1, 1, 2, 3, 4]
    assert minutes(tail(settings, *every, "beginning", "--key", "EURUSD")) == [0, 1, 2, 3, 4]
    assert minutes(tail(settings, *every, 3, "--key", "EUR/USD")) == [3, 4]
    assert minutes(tail(settings, *every, "2024-02-05T00:02:00Z", "--key", "EUR/USD")) == [2, 3, 4]
    assert minutes(tail(settings, *every, "end")) == []
    assert minutes(tail(settings, "bars", "--json", "--from", "beginning", "--key", "EUR/USD", "--count", 2)) == [0, 1]
    [line] = tail(settings, "bars", "--from", 4, "--key", "EUR/USD", "--count", 1).stdout.splitlines()
    partition = partition_for(b"EUR/USD", settings.partitions)
    assert line == (
        f"{partition}/4 EUR/USD  instrument=EUR/USD  timeframe=M1  open_time=2024-02-05T00:04:00Z  index=4  open=1.1  "
        "high=1.1  low=1.1  close=1.1  volume=12.5  spread=0.00012"
    )


@pytest.mark.integration
def test_what_cannot_be_decoded_is_shown_and_passed(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    producer = Producer(librdkafka(settings))
    producer.produce(settings.topic("models"), b"noise", b"k")
    producer.produce(settings.topic("models"), None, b"gone")
    assert producer.flush(60) == 0
    first, second = tail(settings, "models", "--json", "--from", "beginning", "--until-end").stdout.splitlines()
    assert json.loads(first) == {
        "undecodable": "the value does not begin with the magic byte 0 and a 4-byte schema id",
        "partition": 0,
        "offset": 0,
        "key": "k",
        "value": b"noise".hex(),
    }
    assert second == "null"


@pytest.mark.integration
def test_it_follows_what_comes(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    send(settings, "bars", "bar", bar("EUR/USD", 0))
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(minutes(tail(settings, "bars", "--json", "--count", 3))))
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    sent = 1
    while thread.is_alive() and time.monotonic() < deadline_s:
        send(settings, "bars", "bar", bar("EUR/USD", sent))
        sent += 1
        thread.join(0.3)
    assert not thread.is_alive()
    assert len(found) == 3
    assert found == list(range(found[0], found[0] + 3))
    assert found[0] > 0


@pytest.mark.integration
def test_it_says_that_it_waits(
    make_settings: Callable[..., Settings], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(prefix)
    monkeypatch.setattr("sep_stream.cli.tail.SILENCE_S_MAX", 0.5)
    waiting = threading.Event()

    def progress(message: str) -> None:
        tell(message)
        waiting.set()

    def send_later() -> None:
        waiting.wait(PATIENCE_S)
        time.sleep(1.5)  # it goes on waiting, in silence
        send(settings, "bars", "bar", bar("EUR/USD", 0))

    monkeypatch.setattr("sep_stream.cli.tail.progress", progress)
    sender = threading.Thread(target=send_later)
    sender.start()
    result = tail(settings, "bars", "--json", "--count", 1)
    sender.join()
    assert result.stderr.count(f"{prefix}bars: waiting for more records") == 1


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("nothing",), 1, "topic 'nothing' is not declared"),
        (("bars", "--count", "0"), 2, "--count"),
        ((), 2, "TOPIC"),
    ],
)
def test_wrong_flags_are_told(args: tuple[str, ...], code: int, told: str) -> None:
    result = CliRunner().invoke(cli, ["tail", *args])
    assert result.exit_code == code
    assert told in result.output + str(result.exception)


@pytest.mark.integration
def test_a_time_without_a_zone_is_a_usage_error(make_settings: Callable[..., Settings], prefix: str) -> None:
    settings = make_settings(prefix)
    args = ["tail", "bars", "--from", "2024-02-05", "--brokers", str(settings.brokers), "--prefix", prefix]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert "has no zone" in result.output
