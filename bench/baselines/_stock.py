"""A stock Faust app as the baselines use it."""

from __future__ import annotations

import sys
from typing import Any

import faust


def stock_app(name: str, broker: str, **settings: Any) -> faust.App:
    """An app that reads from the log's beginning and declares no topics. settings: Faust's own, beside these."""
    return faust.App(
        name,
        broker=f"kafka://{broker}",
        store="memory://",
        autodiscover=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        **settings,
    )


LARGE_BUFFERS: dict[str, Any] = {
    "consumer_max_fetch_size": 8 * 1024 * 1024,
    "broker_max_poll_records": 10_000,
    "stream_buffer_maxsize": 65_536,
    "stream_wait_empty": False,
}
"""So large that an app never waits for them."""


def run(app: faust.App) -> None:
    """Until it is killed; without its web server, which would listen on all interfaces."""
    sys.argv[1:] = ["worker", "--without-web", "--loglevel", "error"]
    app.main()
