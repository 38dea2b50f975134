"""`sep-stream tail`: decoded records of a topic."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import parse_time, settings_options
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.runtime.log_reader import LogReader


@click.command(
    epilog="""\b
Examples:
  sep-stream tail signals --json
  sep-stream tail bars --from beginning --count 10
  sep-stream tail market.events --from 2024-02-05T00:00:00Z --key EUR/USD"""
)
@click.argument("topic")
@click.option(
    "--from", "start", default="end", show_default=True, metavar="TIME|OFFSET|beginning|end", help="Where to begin."
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option("--until-end", is_flag=True, help="Stop at what is the end now, instead of following.")
@click.option("--key", help="Only records with this key, e.g. EUR/USD.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
@settings_options
def tail(
    settings: Settings, topic: str, start: str, count: int | None, until_end: bool, key: str | None, as_json: bool
) -> None:
    """Show the records of TOPIC (without the prefix), decoded, as they come. Records of one key are in order."""
    from sep_stream.market.avro import load_schemas
    from sep_stream.runtime.log_reader import LogReader
    from sep_stream.runtime.resources import resource
    from sep_stream.runtime.topology import Topology

    Topology.load().topic(topic)
    schemas = load_schemas(resource("schemas") / "avro")
    reader = LogReader(settings)
    name = settings.topic(topic)
    starts = {p: _start(reader, name, p, start) for p in reader.partitions(name)}
    shown = 0
    for partition, offset, record_key, value in _records(reader, name, starts, until_end):
        text_key = None if record_key is None else record_key.decode(errors="replace")
        if key is not None and text_key != key:
            continue
        fields = None if value is None else _plain(*schemas.decode(value))
        if as_json:
            click.echo(json.dumps(fields))
        else:
            body = "(deleted)" if fields is None else "  ".join(f"{k}={v}" for k, v in fields.items() if v is not None)
            click.echo(f"{partition}/{offset} {text_key}  {body}")
        shown += 1
        if count is not None and shown >= count:
            return


def _start(reader: LogReader, topic: str, partition: int, start: str) -> int:
    low, high = reader.watermarks(topic, partition)
    if start == "beginning":
        return low
    if start == "end":
        return high
    if start.isdecimal():
        return max(low, min(high, int(start)))
    return reader.offset_for_time(topic, partition, parse_time(start) * 1000)


def _records(
    reader: LogReader, topic: str, starts: Mapping[int, int], until_end: bool
) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    if until_end:
        for partition, start in starts.items():
            for batch in reader.read(topic, partition, start, reader.watermarks(topic, partition)[1]):
                for offset, key, value in zip(batch.offsets.tolist(), batch.keys, batch.values, strict=True):
                    yield partition, offset, key, value
        return
    follower = reader.follow(topic, starts)
    try:
        while True:
            for message in follower.poll(0.5):
                yield message.partition(), message.offset(), message.key(), message.value()
    finally:
        follower.close()


def _plain(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON values: decimals as text, times as ISO 8601, bytes as hex, lists expanded."""
    fields = {key: _value(value) for key, value in record.items()}
    if name == "signal":
        passed, failed = fields.pop("gate_passed"), fields.pop("gate_failed")
        fields["gate"] = {"passed": passed, "failed": json.loads(failed)}
        fields["matches"] = json.loads(fields["matches"])
    return fields


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _value(inner) for key, inner in value.items()}
    return value
