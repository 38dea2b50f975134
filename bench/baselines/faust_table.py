"""A stock Faust app with a table, which it recovers from its changelog before it handles an event.

BROKER PREFIX TOPIC: says when the first event is handled, and runs until it is killed.
"""

from __future__ import annotations

import sys
from typing import Any

import faust

BROKER, PREFIX, TOPIC = sys.argv[1:]

app = faust.App(
    f"bench-{PREFIX}".rstrip("."),
    broker=f"kafka://{BROKER}",
    store="memory://",
    autodiscover=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="earliest",
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
    sys.argv[1:] = ["worker", "--without-web", "--loglevel", "error"]  # its web server would listen on all interfaces
    app.main()
