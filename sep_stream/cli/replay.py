"""`sep-stream replay`: publishes part of a topic again."""

from __future__ import annotations

import json
import math
import re
import time
from typing import TYPE_CHECKING, Any, Final

import click

from sep_stream.cli._common import parse_time_ms, progress, settings_options
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.history.replay import Note, Progress, Replay
    from sep_stream.history.span import Span

TOLD_EVERY_S: Final = 1.0
_NAME: Final = re.compile(r"[A-Za-z0-9._-]*")
"""What Kafka takes as a topic's name."""
_BOUND: Final = "TIME|OFFSET"


def _speed(context: click.Context, parameter: click.Parameter, text: str) -> float | None:
    """None for max."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise click.BadParameter(f"expected a number above 0, or max, got {text!r}")
    return speed


def _name(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not _NAME.fullmatch(text):
        raise click.BadParameter(f"expected letters, digits and . _ - only, got {text!r}")
    return text


@click.command(
    epilog="""\b
Examples:
  sep-stream topics create --prefix research.
  sep-stream replay --to-prefix research.
  sep-stream replay --to-prefix research. --topic models
  SEP_PARTITIONS=32 sep-stream topics create --prefix wide. && sep-stream replay --to-prefix wide.
  sep-stream replay --to-prefix week6. --from 2024-02-05T00:00:00Z --until 2024-02-10T00:00:00Z --speed 60
  sep-stream replay --to-prefix mended. --instrument EUR/USD --with-requeued"""
)
@click.option("--topic", default="market.events", show_default=True, help="What to publish again, without the prefix.")
@click.option("--to-prefix", callback=_name, help="Of the target.  [default: the same]")
@click.option("--to-topic", callback=_name, help="The target, without the prefix.  [default: the same]")
@click.option("--from", "start", metavar=_BOUND, help="Only records from this timestamp or offset on.")
@click.option("--until", metavar=_BOUND, help="Only records before this timestamp or offset.")
@click.option("--instrument", "names", multiple=True, help="Only this one (symbol or alias); may be repeated.")
@click.option(
    "--speed",
    default="max",
    show_default=True,
    metavar="N|max",
    callback=_speed,
    help="N times as fast as the records' timestamps.",
)
@click.option(
    "--with-requeued", is_flag=True, help="Requeued events where their times are; with --until if the log grows."
)
@click.option("--append", is_flag=True, help="Also behind records that this replay did not write.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def replay(
    settings: Settings,
    topic: str,
    to_prefix: str | None,
    to_topic: str | None,
    start: str | None,
    until: str | None,
    names: tuple[str, ...],
    speed: float | None,
    with_requeued: bool,
    append: bool,
    as_json: bool,
) -> None:
    """Publish records again, to another prefix or topic: bytes, order in each partition and timestamps as they were.

    Whatever ended it, the same command goes on where it ended: no record is lost or doubled. Without --until it ends
    at what is the log's end when it starts; later the same command adds what has come since (not --with-requeued: what
    has come can move what was there). OFFSET is meant for each partition. For signals under the new prefix, replay
    models, too. A target with another number of partitions gets each record where its key belongs.
    """
    from sep_stream.history.replay import Course, Replay
    from sep_stream.runtime.topology import Topology

    if to_prefix is None and not to_topic:
        raise click.UsageError("say where to: --to-prefix, --to-topic, or both")
    span = _span(start, until, with_requeued)
    topology = Topology.load()
    instruments = topology.instruments
    symbols = {instruments[instruments.position(name)].symbol for name in names}
    course = Course(
        topology.topic(topic).name,
        settings.prefix if to_prefix is None else to_prefix,
        to_topic or topic,
        span,
        tuple(sorted(symbols)),
        with_requeued,
    )
    replaying = Replay(settings, topology, course)
    begun_s = time.monotonic()
    if with_requeued:
        progress(f"looking for requeued events in {replaying.source}")
    done = replaying.run(speed, append, _told_now_and_then(begun_s))
    summary = _summary(replaying, done, time.monotonic() - begun_s)
    if as_json:
        click.echo(json.dumps(summary))
        return
    for name, count in summary["instruments"].items():
        click.echo(f"  {count:>12,}  {name}")
    again = " after those of an earlier run" if done.resumed else ""
    click.echo(
        f"{summary['records']:,} records of {replaying.source} published to {replaying.target}{again}, "
        f"{summary['records_per_s']:,} a second"
    )


def _span(start: str | None, until: str | None, with_requeued: bool) -> Span:
    from sep_stream.history.span import Span

    start_ms, start_offset = _bound(start)
    stop_ms, stop_offset = _bound(until)
    span = Span(start_ms, stop_ms, start_offset, stop_offset)
    if span.empty:
        raise click.UsageError(f"--from {start} does not lie before --until {until}")
    if with_requeued and (start_offset is not None or stop_offset is not None):
        raise click.UsageError("--with-requeued goes by time: give --from and --until as times")
    return span


def _bound(text: str | None) -> tuple[int | None, int | None]:
    """Epoch milliseconds or an offset, as the other None."""
    if text is None:
        return None, None
    if text.isascii() and text.isdecimal():
        return None, int(text)
    return parse_time_ms(text), None


def _told_now_and_then(begun_s: float) -> Note:
    """Progress on stderr, at most once in TOLD_EVERY_S."""
    next_s = begun_s + TOLD_EVERY_S

    def note(now: Progress) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if now_s >= next_s:
            next_s = now_s + TOLD_EVERY_S
            progress(_line(now, now_s - begun_s))

    return note


def _line(now: Progress, elapsed_s: float) -> str:
    records, read = now.counts.total(), now.offsets_read
    told = f"{records:,} records published, {records / elapsed_s:,.0f} a second"
    if not read:
        return told
    left_s = elapsed_s * (now.offsets - read) / read
    return f"{told}; {read / now.offsets:.0%} of the log read, about {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _summary(replaying: Replay, done: Progress, elapsed_s: float) -> dict[str, Any]:
    records = done.counts.total()
    return {
        "source": replaying.source,
        "target": replaying.target,
        "records": records,
        "instruments": dict(sorted(done.counts.items())),
        "resumed_after": {str(partition): offset for partition, offset in sorted(done.resumed.items())},
        "seconds": round(elapsed_s, 3),
        "records_per_s": round(records / elapsed_s),
    }
