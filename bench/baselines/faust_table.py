"""A stock Faust app with a table, which it recovers from its changelog before it handles an event.

BROKER PREFIX TOPIC: says when the first event is handled, and runs until it is killed.
"""

from __future__ import annotations

import sys
from typing import Any

from _stock import run, stock_app

BROKER, PREFIX, TOPIC = sys.argv[1:]

app = stock_app(
    f"bench-{PREFIX}".rstrip("."),
    BROKER,
    consumer_max_fetch_size=8 * 1024 * 1024,
    broker_max_poll_records=10_000,
    stream_recovery_delay=0.0,
)
events = app.topic(TOPIC, value_serializer="raw", key_serializer="raw")
state = app.Table("state", changelog_topic=app.topic(f"bench-{PREFIX}state-changelog"), partitions=8)


@app.agent(events)
async def handle(stream: Any) -> None:
    async for _ in stream:
        print("first event handled", len(state), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    run(app)
