"""Publishes market events with aiokafka and fastavro.

python aiokafka_producer.py BROKERS TOPIC market_event.avsc events.ndjson
"""

import asyncio
import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import fastavro
from aiokafka import AIOKafkaProducer

SCHEMA_ID = 1_073_741_824  # of market_event in schemas/avro/ids.json
DECIMALS = ("bid", "ask", "price", "open", "high", "low", "close", "volume")


async def publish(brokers: str, topic: str, schema_file: str, lines: list[str]) -> None:
    schema = fastavro.schema.load_schema(schema_file)
    # Its default partitioner is Kafka's murmur2.
    async with AIOKafkaProducer(
        bootstrap_servers=brokers, enable_idempotence=True, compression_type="gzip"
    ) as producer:
        answers = []
        for line in lines:
            event = json.loads(line)
            event |= {name: Decimal(event[name]) for name in DECIMALS if name in event}
            value = io.BytesIO()
            value.write(b"\0" + SCHEMA_ID.to_bytes(4, "big"))
            fastavro.schemaless_writer(value, schema, event)
            answers.append(
                await producer.send(
                    topic,
                    value.getvalue(),
                    key=event["instrument"].encode(),
                    timestamp_ms=event["event_time"] // 1000,
                )
            )
        await asyncio.gather(*answers)  # raises what the broker refused


asyncio.run(publish(*sys.argv[1:4], Path(sys.argv[4]).read_text().splitlines()))
