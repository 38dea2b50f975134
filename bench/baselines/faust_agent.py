"""A stock Faust agent that decodes each event with fastavro and does nothing else.

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
from _stock import LARGE_BUFFERS, run, stock_app

BROKER, TOPIC, GROUP, SECONDS, SCHEMA = sys.argv[1:]
schema = fastavro.schema.load_schema(Path(SCHEMA))

app = stock_app(f"bench-{GROUP}", BROKER, **LARGE_BUFFERS)


@app.agent(app.topic(TOPIC, value_serializer="raw", key_serializer="raw"))
async def decode(stream: Any) -> None:
    seen, begun_s = 0, 0.0
    async for value in stream:
        if not seen:
            begun_s = time.perf_counter()
        fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
        seen += 1
        if seen % 1000 == 0 and time.perf_counter() - begun_s >= float(SECONDS):
            print("events_per_s", seen / (time.perf_counter() - begun_s), file=sys.__stdout__, flush=True)
            os._exit(0)


if __name__ == "__main__":
    run(app)
