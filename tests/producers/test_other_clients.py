"""Producers that share no code with the project, those that the docs show, each on the real broker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sep_stream import EventBatch, EventLog, MarketDataConverter, Settings, TickProducer, Topology
from sep_stream.errors import DependencyError
from sep_stream.market.events import Reason
from sep_stream.runtime import jars
from sep_stream.runtime.resources import resource
from tests.worker.harness import decoded, run_until_caught_up

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "producers"
SCHEMA = resource("schemas") / "avro" / "market_event.avsc"
TOPOLOGY = Topology.load()
SOURCE = "feed"
START_US = 1_707_091_200_000_000
"""2024-02-05 00:00 UTC."""
MINUTES = 7
ECJ = jars.Jars("org.eclipse.jdt:ecj:3.42.0", "Java's compiler", 3)
"""A compiler that runs on the Java runtime of the embedded stack, which has none."""
AVRO = jars.Jars("org.apache.avro:avro:1.12.0", "Avro's jars", 3)
NODE_PACKAGES = ("kafkajs@2.2.4", "avsc@5.7.9")
CLIENT_S_MAX = 180

Events = list[dict[str, object]]
Publish = Callable[[Settings, Path, Path], None]
"""Publishes a file of events; the second folder is for what it needs."""


def events() -> Events:
    """Quotes, trades, candles and heartbeats of four instruments, in time order."""
    found: Events = []
    for k in range(MINUTES * 10):
        at = {"event_time": START_US + k * 6_000_000 + k, "source": SOURCE, "sequence": k}
        for symbol, bid in (("EUR/USD", "1.0781"), ("USD/JPY", "147.12")):
            found.append({"instrument": symbol, "kind": "QUOTE", "bid": f"{bid}{k % 7}", "ask": f"{bid}8", **at})
        found.append({"instrument": "CLZ6", "kind": "TRADE", "price": f"75.{k:02}", "volume": "2.5", **at})
        if k % 10 == 0:
            prices = {"open": "1.26001", "high": f"1.2600{1 + k // 10}", "low": "1.25", "close": "1.26"}
            candle = {"kind": "BAR", "duration_s": 60, "volume": str(k), **prices}
            found.append({"instrument": "GBP/USD", **candle, **at, "event_time": START_US + k * 6_000_000})
    end = {"event_time": START_US + MINUTES * 60_000_000, "source": SOURCE, "sequence": MINUTES * 10}
    return found + [{"instrument": symbol, "kind": "HEARTBEAT", **end} for symbol in ("EUR/USD", "USD/JPY", "CLZ6")]


@pytest.fixture(scope="module")
def events_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("events") / "events.ndjson"
    path.write_text("".join(json.dumps(event) + "\n" for event in events()))
    return path


def run(*command: str | Path, **environment: str) -> None:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=CLIENT_S_MAX, check=False,
        stdin=subprocess.DEVNULL, env=environment or None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def target(settings: Settings) -> tuple[str, str, Path]:
    assert settings.brokers is not None
    return settings.brokers, settings.topic("market.events"), SCHEMA


def python(example: str) -> Publish:
    def publish(settings: Settings, file: Path, _: Path) -> None:
        run(sys.executable, EXAMPLES / example, *target(settings), file)

    return publish


def java(settings: Settings, file: Path, folder: Path) -> None:
    kafka = jars.kafka_runtime(lambda message: None)
    try:
        [compiler], avro = (jars.fetch_jars(wanted, lambda message: None) for wanted in (ECJ, AVRO))
    except DependencyError as error:
        pytest.skip(f"Java's compiler and Avro can't be had: {error}")
    class_path = f"{jars.class_path(avro)}:{kafka.class_path}"
    source = EXAMPLES / "JavaProducer.java"
    run(kafka.java, "-jar", compiler, "-21", "-proc:none", "-nowarn", "-cp", class_path, "-d", folder, source)
    run(kafka.java, "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{class_path}", "JavaProducer", *target(settings), file)


def node(settings: Settings, file: Path, folder: Path) -> None:
    programs = {name: shutil.which(name) for name in ("node", "npm")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"{name} is not on this machine")
    command = [str(programs["npm"]), "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        got = subprocess.run(
            [*command, *NODE_PACKAGES], capture_output=True, text=True, timeout=CLIENT_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("kafkajs can't be had from npm: no answer")
    if got.returncode != 0:
        pytest.skip(f"kafkajs can't be had from npm: {got.stderr[-300:]}")
    shutil.copy(EXAMPLES / "node_producer.js", folder)
    run(str(programs["node"]), folder / "node_producer.js", *target(settings), file)


def with_tick_producer(settings: Settings, file: Path, _: Path) -> None:
    with TickProducer(settings, SOURCE) as producer:
        publish_one_by_one(producer, map(json.loads, file.read_text().splitlines()))


def publish_one_by_one(producer: TickProducer, events: map[dict[str, object]]) -> None:
    methods = {
        "QUOTE": producer.quote,
        "TRADE": producer.trade,
        "BAR": producer.candle,
        "HEARTBEAT": producer.heartbeat,
    }
    for event in events:
        method = methods[str(event.pop("kind"))]
        symbol, time = event.pop("instrument"), event.pop("event_time")
        for name in ("source", "duration_s"):
            event.pop(name, None)
        method(symbol, time, **event)  # type: ignore[operator]


PRODUCERS: dict[str, Publish] = {
    "TickProducer": with_tick_producer,
    "confluent-kafka": python("confluent_producer.py"),
    "aiokafka": python("aiokafka_producer.py"),
    "java": java,
    "node": node,
}


def log(settings: Settings) -> EventBatch:
    return EventBatch.concatenate(list(EventLog(settings, TOPOLOGY).batches()))


def bars(batch: EventBatch) -> npt.NDArray[np.void]:
    return MarketDataConverter(TOPOLOGY.instruments).feed(batch).bars


@pytest.mark.parametrize("name", PRODUCERS)
def test_events_of_any_client_make_the_same_bars(
    name: str, events_file: Path, tmp_path: Path, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    PRODUCERS[name](settings, events_file, tmp_path)
    found = log(settings)
    assert (found.reason == Reason.OK).all()
    assert len(found) == len(events())
    expected = make_settings(prefix.replace(".", "e."))
    with_tick_producer(expected, events_file, tmp_path)
    assert len(bars(found)) >= 4 * MINUTES
    assert np.array_equal(bars(found), bars(log(expected)))


def test_a_wrong_partitioner_gives_dead_letters(
    events_file: Path, tmp_path: Path, make_settings: Callable[..., Settings], prefix: str
) -> None:
    settings = make_settings(prefix)
    wrong = tmp_path / "wrong_producer.py"
    text = (EXAMPLES / "confluent_producer.py").read_text()
    wrong.write_text(text.replace("murmur2_random", "consistent_random"))
    run(sys.executable, wrong, *target(settings), events_file)
    found = log(settings)
    astray = found.reason == Reason.WRONG_PARTITION
    assert 0 < astray.sum() <= len(found)
    with_tick_producer(settings, events_file, tmp_path)
    run_until_caught_up(settings)
    letters = decoded(settings, "dead.letters")
    assert len(letters) == astray.sum()
    assert {letter["code"] for letter in letters} == {"WRONG_PARTITION"}
    assert len([bar for bar in decoded(settings, "bars") if bar["timeframe"] == "M1"]) == 4 * MINUTES
