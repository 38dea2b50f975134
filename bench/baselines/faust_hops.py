"""Stock Faust agents in a row, per event: the first decodes with fastavro and hands on the first event of each minute
of an instrument, the others what they get.

BROKER SCHEMA TOPIC HOP…: runs until it is killed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import fastavro
from _stock import run, stock_app

BROKER, SCHEMA, TOPIC, *HOPS = sys.argv[1:]
schema = fastavro.schema.load_schema(Path(SCHEMA))

app = stock_app(
    f"bench-{TOPIC}", BROKER, producer_acks=-1, producer_linger=0, stream_buffer_maxsize=65_536, stream_wait_empty=False
)


def topic(name: str) -> Any:
    return app.topic(name, value_serializer="raw", key_serializer="raw")


def hop(source: str, target: str, decodes: bool) -> None:
    out = topic(target)
    last: dict[bytes, Any] = {}

    async def hand_on(stream: Any) -> None:
        async for event in stream.events():
            if decodes:
                record = fastavro.schemaless_reader(io.BytesIO(event.value[5:]), schema, None)
                minute = record["event_time"].replace(second=0, microsecond=0)
                if last.get(event.key) == minute:
                    continue
                last[event.key] = minute
            await out.send(key=event.key, value=event.value)

    app.agent(topic(source), name=target)(hand_on)


for k, (source, target) in enumerate(zip([TOPIC, *HOPS], HOPS, strict=False)):
    hop(source, target, decodes=k == 0)

if __name__ == "__main__":
    run(app)
