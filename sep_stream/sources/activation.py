"""Puts a model in force: its manifest, then a MODEL event in the log of each instrument."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from sep_stream.errors import DependencyError
from sep_stream.market.avro import Schemas
from sep_stream.market.partitioner import partition_for
from sep_stream.market.timeframes import US_PER_S
from sep_stream.metrics import METRICS_VERSION
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings
from sep_stream.stores.model_store import manifest_sha256

SOURCE: Final = "model"
"""The source named in MODEL events."""
FLUSH_S: Final = 15.0


def activate(
    settings: Settings, schemas: Schemas, folder: Path, model_id: str, symbols: Iterable[str], from_s: int
) -> None:
    """Publish the manifest of the model that lies in `folder`, and once that is acknowledged a MODEL event for each
    instrument, with the event time `from_s` (epoch seconds).

    Raises DependencyError if the broker does not take them.
    """
    producer = Producer(librdkafka(settings, **{"enable.idempotence": True, "acks": "all"}))
    manifest = {
        "model_id": model_id,
        "metrics_version": METRICS_VERSION,
        "location": folder.name,
        "manifest_sha256": manifest_sha256(folder),
    }
    _send(producer, settings.topic("models"), [(model_id, schemas.encode("model_manifest", manifest), -1, 0)])
    markers = [
        (
            symbol,
            schemas.encode("market_event", _marker(symbol, model_id, from_s)),
            partition_for(symbol.encode(), settings.partitions),
            from_s * 1000,
        )
        for symbol in symbols
    ]
    _send(producer, settings.topic("market.events"), markers)


def _marker(symbol: str, model_id: str, from_s: int) -> dict[str, Any]:
    return {
        "instrument": symbol,
        "kind": "MODEL",
        "event_time": from_s * US_PER_S,
        "source": SOURCE,
        "model_id": model_id,
    }


def _send(producer: Producer, topic: str, records: Iterable[tuple[str, bytes, int, int]]) -> None:
    """Send (key, value, partition, timestamp_ms) records and wait until the broker has them."""
    failures: list[str] = []

    def on_report(error: KafkaError | None, _: Any) -> None:
        if error is not None:
            failures.append(error.str())

    try:
        for key, value, partition, timestamp_ms in records:
            producer.produce(
                topic, value, key.encode(), partition, on_delivery=on_report, timestamp=timestamp_ms
            )  # fmt: skip
        left = producer.flush(FLUSH_S)
    except KafkaException as error:
        raise DependencyError(f"{topic}: cannot send: {error.args[0].str()}") from error
    if failures or left:
        raise DependencyError(
            f"{topic}: the broker did not take {left or len(failures)} records: {failures[:1] or 'no answer'}"
        )
