"""Publishes market events with confluent-kafka and fastavro.

python confluent_producer.py BROKERS TOPIC market_event.avsc events.ndjson
"""

import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import fastavro
from confluent_kafka import Producer

SCHEMA_ID = 1_073_741_824  # of market_event in schemas/avro/ids.json
DECIMALS = ("bid", "ask", "price", "open", "high", "low", "close", "volume")

brokers, topic, schema_file, events_file = sys.argv[1:]
schema = fastavro.schema.load_schema(schema_file)
failures = []
producer = Producer(
    {
        "bootstrap.servers": brokers,
        "partitioner": "murmur2_random",  # librdkafka's own default puts an instrument elsewhere
        "enable.idempotence": True,
        "compression.type": "lz4",
        "on_delivery": lambda error, message: error and failures.append(error.str()),
    }
)
for line in Path(events_file).read_text().splitlines():
    event = json.loads(line)
    event |= {name: Decimal(event[name]) for name in DECIMALS if name in event}
    value = io.BytesIO()
    value.write(b"\0" + SCHEMA_ID.to_bytes(4, "big"))
    fastavro.schemaless_writer(value, schema, event)
    producer.produce(topic, value.getvalue(), event["instrument"].encode(), timestamp=event["event_time"] // 1000)
    producer.poll(0)
if producer.flush(30) or failures:
    sys.exit(f"the broker did not take all events: {failures[:1] or 'no answer'}")
