"""What docs/producers.md says in figures is so."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from sep_stream.market.avro import load_schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import encode_events, events_from_records
from sep_stream.market.events import Kind, Reason
from sep_stream.market.partitioner import partition_for
from sep_stream.runtime.resources import resource
from sep_stream.runtime.topology import Topology

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "producers.md").read_text()
SCHEMAS = load_schemas(resource("schemas") / "avro")
INSTRUMENTS = Topology.load().instruments


def test_the_quote_byte_by_byte_is_what_both_encoders_write() -> None:
    [block] = re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)
    shown = b"".join(bytes.fromhex(re.split(r"\s{3,}", line)[0]) for line in block.splitlines())
    quote = {
        "instrument": "EUR/USD",
        "kind": "QUOTE",
        "event_time": datetime(2024, 2, 5, 0, 0, 0, 250_000, UTC),
        "bid": Decimal("1.07812"),
        "ask": Decimal("1.07824"),
        "source": "my-feed",
        "sequence": 1,
    }
    codec = BulkCodec(*SCHEMAS.of("market_event"))
    assert SCHEMAS.encode("market_event", quote) == shown
    assert encode_events(codec, INSTRUMENTS, events_from_records(INSTRUMENTS, [quote])).values() == [shown]
    assert f"id, {SCHEMAS['market_event'].schema_id}, is pinned" in PAGE


def test_the_partitions_are_those_of_the_keys() -> None:
    rows = re.findall(r"\| `([^`]+)` \| (\d+) \| (\d+) \|", PAGE)
    assert len(rows) == 3
    for key, of_8, of_12 in rows:
        assert (partition_for(key.encode(), 8), partition_for(key.encode(), 12)) == (int(of_8), int(of_12)), key
    assert f"its partition of 8 is number {partition_for(b'EUR/USD', 8)}" in PAGE


def test_each_reason_has_a_remedy() -> None:
    named = set(re.findall(r"`([A-Z_]+)`", PAGE))
    of_other_topics = {
        Reason.PARAMETERS, Reason.UNKNOWN_SYMBOL, Reason.BAD_INDEX, Reason.WINDOW_AHEAD, Reason.NOT_FINITE,
        Reason.BAD_MANIFEST,
    }  # fmt: skip
    assert {reason.name for reason in set(Reason) - {Reason.OK} - of_other_topics} <= named
    assert {kind.name for kind in Kind} - {"UNKNOWN"} <= named


def test_what_the_page_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) >= 8
    assert [link for link in links if not (DOCS / link).is_file()] == []
