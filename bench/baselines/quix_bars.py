# /// script
# requires-python = ">=3.12,<3.13"
# dependencies = ["quixstreams==3.28.1", "fastavro==1.13.1"]
# ///
"""Quix Streams making one-minute bars of mids, decoded with fastavro, and sending each as JSON when it closes.

BROKER TOPIC GROUP SECONDS SCHEMA: reads for so long from its first event on, and prints events a second.
"""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import fastavro
from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, First, Last, Max, Min
from quixstreams.models import Deserializer

BROKER, TOPIC, GROUP, SECONDS, SCHEMA = sys.argv[1:]
schema = fastavro.schema.load_schema(Path(SCHEMA))
seen, begun_s = 0, 0.0


class MidOfQuote(Deserializer):
    """The mid as a float: what the bars need and no more."""

    def __call__(self, value: bytes, ctx: Any) -> float:
        global seen, begun_s
        if not seen:
            begun_s = time.perf_counter()
        seen += 1
        if seen % 1000 == 0 and time.perf_counter() - begun_s >= float(SECONDS):
            print("events_per_s", seen / (time.perf_counter() - begun_s), flush=True)
            os._exit(0)
        event = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
        return (float(event["bid"]) + float(event["ask"])) / 2


app = Application(
    broker_address=BROKER,
    consumer_group=f"bench-{GROUP}",
    auto_offset_reset="earliest",
    state_dir="state",
    loglevel="ERROR",
    consumer_extra_config={"queued.min.messages": 100_000, "fetch.queue.backoff.ms": 10, "fetch.wait.max.ms": 50},
    producer_extra_config={"compression.type": "lz4", "linger.ms": 5},
)
events = app.topic(TOPIC, value_deserializer=MidOfQuote(), key_deserializer="str")
bars = app.topic(f"{TOPIC}.{GROUP}.bars", key_serializer="str", value_serializer="json")
(
    app.dataframe(events)
    .tumbling_window(60_000)
    .agg(open=First(), high=Max(), low=Min(), close=Last(), volume=Count())
    .final()
    .to_topic(bars)
)

if __name__ == "__main__":
    app.run()
