"""What a worker makes of a log is what the slow reference makes of its events, record by record and to the bit."""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka import Producer

from sep_stream.runtime import topics
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from tests import reference
from tests.reference.scoring import VERSION, pattern_id, signal_id, trade_id
from tests.reference.settling import Settling, result
from tests.streams import INSTRUMENTS, Event, random_events
from tests.trained import PARAMS, models
from tests.worker.harness import SCHEMAS, TOPOLOGY, decoded, put_in_force, run_until_caught_up

pytestmark = pytest.mark.integration

COUNT = 4000
SEED = 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COSTS = {"units": Decimal("12.5"), "commission": Decimal("0.07")}
Wire = dict[str, Any]


def in_wire_form(record: Mapping[str, Any]) -> Wire:
    """The record as fastavro reads it from a topic: times are datetimes."""
    times = ("open_time", "anchor_time", "start_time", "available_at", "bar_open_time")
    form: Wire = {name: EPOCH + timedelta(seconds=value) if name in times else value for name, value in record.items()}
    return form


def decimal(points: int | None, tick: Decimal) -> Decimal | None:
    return None if points is None else points * tick


def bar_on_the_wire(bar: reference.Bar) -> Wire:
    tick = INSTRUMENTS[bar["instrument"]]["tick_size"]
    prices = {name: decimal(bar[name], tick) for name in ("open", "high", "low", "close", "spread")}
    return in_wire_form({**bar, **prices})


def bars_place(window: reference.Window) -> Wire:
    """What a window, its metrics and its signal tell of the bar that completed it."""
    bar, tick = window["bar"], INSTRUMENTS[window["instrument"]]["tick_size"]
    return {
        "bar_index": bar["index"],
        "bar_open_time": bar["open_time"],
        **{f"bar_{name}": decimal(bar[name], tick) for name in ("open", "close", "spread")},
    }


def packed(bits: list[int]) -> bytes:
    """Bit k of the window is bit k mod 64 of the little-endian word k // 64."""
    words = -(-len(bits) // 64)
    return sum(bit << k for k, bit in enumerate(bits)).to_bytes(8 * words, "little")


def floats(path: list[float]) -> bytes:
    return struct.pack(f"<{len(path)}f", *path)


def span(window: reference.Window) -> Wire:
    return {name: window[name] for name in ("anchor_time", "start_time", "available_at", "model_id")}


def window_on_the_wire(window: reference.Window) -> Wire:
    def own(w: reference.Window) -> Wire:
        return in_wire_form(
            {**span(w), "bits": packed(w["bits"]), "prices": struct.pack(f"<{len(w['prices'])}i", *w["prices"])}
        )

    return {
        **{name: window[name] for name in ("instrument", "timeframe")},
        **{name: PARAMS[name] for name in ("history", "forward")},
        **own(window),
        **in_wire_form(bars_place(window)),
        **{name: window.get(name) and own(window[name]) for name in ("m5", "m15")},
    }


def metrics_on_the_wire(window: reference.Window) -> Wire:
    def own(w: reference.Window) -> Wire:
        m = reference.metrics(w["bits"], w["prices"], PARAMS)
        return {
            **in_wire_form(span(w)),
            **{f"n{k}": m["counts"][k] for k in range(3)},
            **{f"{stem}_{v}": m[stem][k] for stem in ("initial", "damped") for k, v in enumerate("hcs")},
            "lambda": m["lam"],
            **{name: m[name] for name in ("settled_at", "converged", "potential", "rupture_collapse")},
            "path": floats(m["path"]),
            **{f"qbsa_{name}": m[name] for name in ("probes", "corrections", "ratio")},
            "qbsa_collapse": m["qbsa_collapse"],
        }

    return {
        **{name: window[name] for name in ("instrument", "timeframe")},
        **PARAMS,
        "metrics_version": VERSION,
        **own(window),
        **in_wire_form(bars_place(window)),
        **{name: window.get(name) and own(window[name]) for name in ("m5", "m15")},
    }


def signal_on_the_wire(signal: Mapping[str, Any]) -> Wire:
    return in_wire_form(
        {
            **signal,
            "matches": json.dumps(signal["matches"], separators=(",", ":")),
            "gate_failed": json.dumps(signal["gate_failed"]),
        }
    )


def publish_plainly(settings: Settings, events: list[Event]) -> None:
    """Through a producer that is not ours, one record at a time."""
    producer = Producer(librdkafka(settings, partitioner="murmur2_random"))
    failed: list[Any] = []
    for event in events:
        producer.produce(
            settings.topic("market.events"),
            SCHEMAS.encode("market_event", event),
            event["instrument"],
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed


def by_instrument(records: list[Wire]) -> dict[str, list[Wire]]:
    """A topic keeps the order of an instrument's records."""
    grouped: dict[str, list[Wire]] = defaultdict(list)
    for record in records:
        grouped[record["instrument"]].append(record)
    return grouped


def stream() -> list[Event]:
    return random_events(SEED, COUNT, models=[theirs.model_id for theirs, _ in models(0)])


@pytest.fixture(scope="module")
def pipeline() -> reference.Pipeline:
    made = reference.Pipeline(INSTRUMENTS, PARAMS, {theirs.model_id: theirs for theirs, _ in models(0)})
    for event in stream():
        made.feed(event)
    return made


@pytest.fixture(scope="module")
def worked(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A worker has handled the stream, in fetches of a few hundred records."""
    folder = tmp_path_factory.mktemp("against_reference")
    settings = Settings.load(
        brokers=broker,
        prefix="reference.",
        data_dir=folder,
        fetch_records=257,
        trade="all",
        max_open=2,
        slippage=3,
        **COSTS,
        **PARAMS,
    )
    topics.create(settings, TOPOLOGY)
    for _, ours in models(0):
        put_in_force(settings, ours, symbols=(), from_s=0)  # only its manifest: the stream has the markers
    publish_plainly(settings, stream())
    run_until_caught_up(settings)
    return settings


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("bars", lambda made: [bar_on_the_wire(bar) for bar in made.bars]),
        ("windows", lambda made: [window_on_the_wire(window) for window in made.windows]),
        ("metrics", lambda made: [metrics_on_the_wire(window) for window in made.windows]),
        ("signals", lambda made: [signal_on_the_wire(signal) for signal in made.signals]),
    ],
)
def test_records_are_those_of_the_reference_in_its_order(
    topic: str, expected: Callable[[reference.Pipeline], list[Wire]], pipeline: reference.Pipeline, worked: Settings
) -> None:
    wanted = by_instrument(expected(pipeline))
    assert set(wanted) == set(INSTRUMENTS)
    assert by_instrument(decoded(worked, topic)) == wanted


def test_results_are_those_of_the_reference(pipeline: reference.Pipeline, worked: Settings) -> None:
    spread = {symbol: TOPOLOGY.instruments[TOPOLOGY.instruments.position(symbol)].default_spread_points
              for symbol in INSTRUMENTS}  # fmt: skip
    settling = Settling(spread, worked.trade, worked.max_open, worked.slippage)
    for signal in pipeline.signals:
        settling.feed(settled_by(signal))
    wanted = by_instrument([result_on_the_wire(trade) for trade in settling.trades])
    assert set(wanted) == set(INSTRUMENTS)
    assert by_instrument(decoded(worked, "trading.results")) == wanted


def settled_by(signal: Mapping[str, Any]) -> Wire:
    """What of a signal makes trades, in points."""
    tick = INSTRUMENTS[signal["instrument"]]["tick_size"]
    prices = {name: signal[f"bar_{name}"] for name in ("open", "close", "spread")}
    return {
        **signal,
        **{name: signal[f"bar_{name}"] for name in ("index", "open_time")},
        **{name: None if price is None else int(price / tick) for name, price in prices.items()},
    }


def result_on_the_wire(trade: Mapping[str, Any]) -> Wire:
    tick = INSTRUMENTS[trade["instrument"]]["tick_size"]
    place = [trade[name] for name in ("model_id", "instrument", "timeframe", "anchor_time")]
    signal = signal_id(*place)
    return {
        "trade_id": trade_id(signal),
        "signal_id": signal,
        "pattern_id": pattern_id(*place),
        **{name: trade[name] for name in ("instrument", "timeframe", "direction", "spans_silence")},
        **{f"{end}_time": EPOCH + timedelta(seconds=trade[f"{end}_time"]) for end in ("entry", "exit")},
        **{f"{end}_price": trade[f"{end}_price"] * tick for end in ("entry", "exit")},
        "units": COSTS["units"],
        **result(trade, tick, COSTS["units"], COSTS["commission"]),
    }


def test_patterns_are_those_of_the_signals_with_a_direction(pipeline: reference.Pipeline, worked: Settings) -> None:
    paths = {(m["instrument"], m["timeframe"], m["anchor_time"]): (m["path"], m["model_id"]) for m in pipeline.metrics}
    expected = []
    for signal in pipeline.signals:
        if signal["direction"] != "HOLD":
            place = (signal["instrument"], signal["timeframe"], signal["anchor_time"])
            path, model_id = paths[place]
            expected.append(
                {
                    "pattern_id": pattern_id(model_id, *place),
                    "instrument": signal["instrument"],
                    "path": floats(path),
                    "confidence": signal["confidence"],
                }
            )
    assert by_instrument(decoded(worked, "patterns")) == by_instrument(expected)


@pytest.mark.parametrize(("topic", "kind"), [("late", "late"), ("dead.letters", "dead")])
def test_refused_events_are_those_of_the_reference_with_their_bytes(
    topic: str, kind: str, pipeline: reference.Pipeline, worked: Settings
) -> None:
    wanted = Counter(
        (reason[0] if reason else "LATE", SCHEMAS.encode("market_event", event))
        for item, event, *reason in pipeline.items
        if item == kind
    )
    assert Counter((record["code"], record["value"]) for record in decoded(worked, topic)) == wanted
