"""Events that are refused, and their letters, written as producers and workers do."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from confluent_kafka import Producer

from sep_stream.history.refused import Place
from sep_stream.market.avro import load_schemas
from sep_stream.market.events import REASON_TEXT, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology

SCHEMAS = load_schemas(resource("schemas") / "avro")
TOPOLOGY = Topology.load()
T0_S = 1_707_091_200  # 2024-02-05T00:00:00Z
US = 1_000_000


def quote(symbol: str, minute: float, bid: str = "1.10000", ask: str = "1.10010", **fields: object) -> bytes:
    event = {"instrument": symbol, "kind": "QUOTE", "event_time": int((T0_S + 60 * minute) * US), "source": "test"}
    return SCHEMAS.encode("market_event", event | {"bid": Decimal(bid), "ask": Decimal(ask)} | fields)


@dataclass
class Sender:
    """Writes records as producers and workers do, and counts the offsets."""

    settings: Settings

    def __post_init__(self) -> None:
        self._producer = Producer(librdkafka(self.settings))

    def put(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int, time_ms: int = 0, **headers: bytes
    ) -> int:
        offsets: list[int] = []
        self._producer.produce(
            self.settings.topic(topic), value, key, partition, timestamp=time_ms, headers=dict(headers),
            on_delivery=lambda error, message: offsets.append(-1 if error else message.offset()),
        )  # fmt: skip
        assert self._producer.flush(60) == 0
        assert offsets[0] >= 0
        return offsets[0]

    def event(
        self, key: bytes, value: bytes, partition: int | None = None, minute: float = 0, **headers: bytes
    ) -> Place:
        partition = partition_for(key, self.settings.partitions) if partition is None else partition
        offset = self.put("market.events", key, value, partition, int((T0_S + 60 * minute) * 1000), **headers)
        return Place(self.settings.topic("market.events"), partition, offset)

    def letter(
        self,
        code: Reason,
        origin: Place,
        key: bytes | None,
        value: bytes | None,
        instrument: str | None = None,
        minute: float | None = None,
    ) -> str:
        """The reference of a letter as a worker writes it."""
        topic = "late" if code == Reason.LATE else "dead.letters"
        record = {
            "code": code.name, "reason": REASON_TEXT[code], "instrument": instrument,
            "event_time": None if minute is None else int((T0_S + 60 * minute) * US),
            "topic": origin.topic, "partition": origin.partition, "offset": origin.offset, "key": key, "value": value,
        }  # fmt: skip
        offset = self.put(
            topic, (instrument or "").encode() or key, SCHEMAS.encode("rejected", record), origin.partition
        )
        return f"{topic}/{origin.partition}/{offset}"

    def misplaced(self, symbol: str, minute: float) -> str:
        """A good quote in the wrong partition, and its letter."""
        key, value = symbol.encode(), quote(symbol, minute)
        wrong = (partition_for(key, self.settings.partitions) + 1) % self.settings.partitions
        origin = self.event(key, value, wrong, minute)
        return self.letter(Reason.WRONG_PARTITION, origin, key, value, symbol, minute)
