"""What publishers do once the broker is gone, which took their first events."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import pytest

from sep_stream.market.events import EventBatch
from sep_stream.runtime import topics
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources import publisher as publishing
from sep_stream.sources.publisher import DeliveryError, Publisher
from sep_stream.sources.tick_producer import TickProducer
from tests.sources.test_publisher import candles, publisher
from tests.sources.test_tick_producer import AT, many
from tests.waiting import PATIENCE_S, bear_with_servers, slow_bound_s

pytestmark = pytest.mark.integration

FEW, QUEUED_MAX = 500, 1_000


class Left(NamedTuple):
    """What is left where a broker was."""

    address: str
    publisher: Publisher
    producer: TickProducer


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    kafka = EmbeddedKafka(tmp_path_factory.mktemp("goes"))
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        try:
            settings = Settings.load(brokers=kafka.start(lambda message: None), prefix="x.", partitions=1)
            topics.create(settings, Topology.load())
            found = publisher(settings)
            found.publish(candles())
            found.flush(PATIENCE_S)
            patch.setattr(publishing, "QUEUE_MESSAGES_MAX", QUEUED_MAX)
            producer = TickProducer(settings, "feed")
            producer.publish(many(FEW))
            assert producer.flush(PATIENCE_S) == FEW
        finally:
            kafka.stop()
    assert settings.brokers is not None
    return Left(settings.brokers, found, producer)


def test_a_publisher_tells_within_ten_seconds_what_was_not_taken(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = left.publisher.acknowledged
    assert first == len(candles())
    assert publishing.SILENCE_S_MAX < 10
    begun_s = time.monotonic()
    left.publisher.publish(candles())
    with pytest.raises(DeliveryError) as error:
        left.publisher.flush()
    assert time.monotonic() - begun_s < slow_bound_s(publishing.SILENCE_S_MAX + publishing.PURGE_S_MAX)
    assert f"no answer for {publishing.SILENCE_S_MAX:.0f} s" in str(error.value)
    assert left.address in str(error.value)
    assert "sep-stream up" in str(error.value)
    assert left.publisher.acknowledged == first
    assert error.value.acknowledged == first
    assert {u.instrument: u.count for u in error.value.untaken} == Counter(left.publisher.symbols(candles()))


def test_a_tick_producer_tells_what_was_not_taken_and_what_was_not_sent(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "QUEUE_MESSAGES_MAX", QUEUED_MAX)
    monkeypatch.setattr(publishing, "SILENCE_S_MAX", 1.0)
    with pytest.raises(DeliveryError, match="does not take events: no answer for 1 s") as caught:
        left.producer.publish(EventBatch.concatenate([many(900, 1), many(2_500)]))  # more than the queue holds
    assert caught.value.acknowledged == FEW
    assert {u.instrument: (u.count, u.event_time) for u in caught.value.untaken} == {
        "GBP/USD": (900, AT),
        "EUR/USD": (2_500, AT),
    }
    assert "not sent" in str(caught.value)
