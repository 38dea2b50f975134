"""Files of candles and quotes as events."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.reference.market import EPOCH

NOTHING = {
    **dict.fromkeys(("bid", "ask", "price", "open", "high", "low", "close", "volume", "duration_s")),
    **dict.fromkeys(("sequence", "model_id")),
    "source": "file",
}


def events_of(path: Path, instrument: str) -> Iterator[dict[str, Any]]:
    """BAR events of candles (a JSON list, or CSV), QUOTE events of quotes (CSV), in the file's order."""
    for row in records_of(path):
        event = {**NOTHING, "instrument": instrument, "event_time": time_us(row.get("time") or row["timestamp"])}
        if "bid" in row:
            yield event | {"kind": "QUOTE", **{name: Decimal(row[name]) for name in ("bid", "ask")}}
        else:
            yield event | {"kind": "BAR", "duration_s": 60, **candle_of(row)}


def records_of(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text(), parse_float=Decimal, parse_int=Decimal)
        return
    with path.open(newline="") as lines:
        yield from csv.DictReader(lines)


def candle_of(row: Mapping[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(row[name]) for name in ("open", "high", "low", "close", "volume") if name in row}


def time_us(text: str) -> int:
    """ISO 8601 with zone to µs since the epoch."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
