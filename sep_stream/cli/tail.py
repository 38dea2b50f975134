"""`sep-stream tail`: decoded records of a topic."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from sep_stream.cli._common import parse_time, progress, settings_options
from sep_stream.errors import InputError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.market.avro import Schemas
    from sep_stream.runtime.log_reader import LogReader

SILENCE_S_MAX: Final = 5.0
"""Without a record for this long, the broker is asked whether it is still there."""
_POLL_S: Final = 0.5

_Record = tuple[int, int, str | None, bytes | None]
"""Partition, offset, key, value."""


@click.command(
    epilog="""\b
Examples:
  sep-stream tail signals --json
  sep-stream tail bars --from beginning --count 10
  sep-stream tail market.events --from 2024-02-05T00:00:00Z --key EUR/USD --until-end"""
)
@click.argument("topic")
@click.option(
    "--from",
    "start",
    default="end",
    show_default=True,
    metavar="TIME|OFFSET|beginning|end",
    help="Where to begin in each partition; TIME as 2024-02-05T00:00:00Z, by the records' timestamps.",
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many records.")
@click.option("--until-end", is_flag=True, help="Stop at what is the end now, instead of following.")
@click.option("--key", help="Only records of this instrument (symbol or alias) or with this key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
@settings_options
def tail(
    settings: Settings, topic: str, start: str, count: int | None, until_end: bool, key: str | None, as_json: bool
) -> None:
    """Show the records of TOPIC (without the prefix), decoded, as they come.

    Order holds within a partition, and so for the records of one instrument. A record that can't be decoded is shown
    with what is wrong with it.
    """
    from sep_stream.runtime.log_reader import LogReader
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.schemas import schemas_in_force

    topology = Topology.load()
    name = settings.topic(topology.topic(topic).name)
    schemas = schemas_in_force(settings)
    reader = LogReader(settings)
    starts = {partition: _start(reader, name, partition, start) for partition in reader.partitions(name)}
    records = _until_end(reader, name, starts) if until_end else _follow(reader, name, starts)
    if key is not None:
        keys = {i.symbol for i in topology.instruments if key in i.aliases} | {key}
        records = (record for record in records if (record[2] or "").partition("|")[0] in keys or record[2] == key)
    for record in islice(records, count):
        click.echo(_line(schemas, record, as_json))


def _start(reader: LogReader, topic: str, partition: int, start: str) -> int:
    low, high = reader.watermarks(topic, partition)
    if start == "beginning":
        return low
    if start == "end":
        return high
    if start.isdecimal():
        return max(low, min(high, int(start)))
    return reader.offset_for_time(topic, partition, parse_time(start) * 1000)


def _until_end(reader: LogReader, topic: str, starts: Mapping[int, int]) -> Iterator[_Record]:
    stops = {partition: reader.watermarks(topic, partition)[1] for partition in starts}
    for partition, start in starts.items():
        for batch in reader.read(topic, partition, start, stops[partition]):
            for offset, key, value in zip(batch.offsets.tolist(), batch.keys, batch.values, strict=True):
                yield partition, offset, _text(key), value


def _follow(reader: LogReader, topic: str, starts: Mapping[int, int]) -> Iterator[_Record]:
    follower = reader.follow(topic, starts)
    heard_s = time.monotonic()
    waiting = False
    try:
        while True:
            for message in follower.poll(_POLL_S):
                yield message.partition(), message.offset(), _text(message.key()), message.value()
                heard_s = time.monotonic()
                waiting = False
            if time.monotonic() - heard_s > SILENCE_S_MAX:
                reader.partitions(topic)
                heard_s = time.monotonic()
                if not waiting:
                    progress(f"{topic}: waiting for more records; Ctrl-C ends, and --until-end doesn't wait")
                waiting = True
    finally:
        follower.close()


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="replace")


def _line(schemas: Schemas, record: _Record, as_json: bool) -> str:
    from sep_stream.cli._records import text_record

    partition, offset, key, value = record
    fields = None if value is None else _fields(schemas, record, value)
    if as_json:
        return json.dumps(fields)
    return f"{partition}/{offset} {key}  {'(deleted)' if fields is None else text_record(fields)}"


def _fields(schemas: Schemas, record: _Record, value: bytes) -> dict[str, Any]:
    from sep_stream.cli._records import json_record

    try:
        return json_record(*schemas.decode(value))
    except InputError as error:
        partition, offset, key, _ = record
        return {"undecodable": str(error), "partition": partition, "offset": offset, "key": key, "value": value.hex()}
