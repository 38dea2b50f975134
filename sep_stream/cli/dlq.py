"""`sep-stream dlq`: the refused events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from sep_stream.cli._common import parse_time, progress, settings_options
from sep_stream.cli._refused import count_lines, count_rows
from sep_stream.errors import InputError
from sep_stream.market.events import REASON_TEXT, REFUSALS, Reason
from sep_stream.market.timeframes import US_PER_S
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.history.refused import Letter, Original, Place, RefusedLog, Wanted
    from sep_stream.history.requeue import Forecast, Plan
    from sep_stream.market.avro import Schemas
    from sep_stream.runtime.topology import Topology

REQUEUED_AT_ONCE_MAX: Final = 100_000
"""Letters are held in memory between the plan and its publishing."""
TOLD_EACH_MAX: Final = 5
"""Letters named for each reason not to requeue them; those after them are only counted."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _filters(topic: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags that choose letters, with the default of --topic."""
    flags = (
        click.option(
            "--topic",
            default=topic,
            show_default=True,
            type=click.Choice(["dead.letters", "late", "all"]),
            help="Where to look.",
        ),
        click.option(
            "--reason",
            "codes",
            multiple=True,
            type=click.Choice([reason.name for reason in REFUSALS], case_sensitive=False),
            metavar="CODE",
            help="Only letters with this reason, e.g. CROSSED; may be repeated.",
        ),
        click.option("--instrument", help="Only letters of this instrument (symbol or alias); ? for unknown ones."),
        click.option("--from", "start", metavar="TIME", help="Only events from this time on, by event time."),
        click.option("--until", metavar="TIME", help="Only events before this time."),
    )

    def with_filters(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(flags):
            command = option(command)
        return command

    return with_filters


@click.group(
    epilog="""\b
Examples:
  sep-stream dlq list --reason WRONG_PARTITION
  sep-stream dlq show dead.letters/3/17
  sep-stream dlq requeue dead.letters/3/17"""
)
def dlq() -> None:
    """Refused events: the letters in dead.letters and late. List them, show one, requeue them.

    A letter holds the original bytes and the reason. REF names one as TOPIC/PARTITION/OFFSET, as `dlq list` does.
    """


@dlq.command(
    "list",
    epilog="""\b
Examples:
  sep-stream dlq list
  sep-stream dlq list --topic dead.letters --reason CROSSED --instrument EURUSD
  sep-stream dlq list --from 2024-02-05T00:00:00Z --until 2024-02-06T00:00:00Z --json""",
)
@_filters("all")
@click.option("--count", default=20, show_default=True, type=click.IntRange(min=0), help="Letters shown at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def list_(
    settings: Settings,
    topic: str,
    codes: tuple[str, ...],
    instrument: str | None,
    start: str | None,
    until: str | None,
    count: int,
    as_json: bool,
) -> None:
    """List the newest letters, then count all that match by reason and instrument.

    With --from or --until, letters whose event time is not known are left out, and how many they are is told.
    """
    from sep_stream.history.refused import RefusedLog

    topology, schemas = _declared(settings)
    log = RefusedLog(settings, schemas)
    found = log.search(_wanted(topology, topic, codes, instrument, start, until), count)
    requeued = log.requeued()
    rows = [_row(letter, str(letter.origin) in requeued) for letter in found.letters]
    if as_json:
        summary = count_rows(found.counts)
        click.echo(
            json.dumps({"letters": rows, "summary": summary, "undated": found.undated, "unreadable": found.unreadable})
        )
        return
    for row in rows:
        again = "  requeued" if row["requeued"] else ""
        click.echo(
            f"{row['ref']}  {row['code']}  {row['instrument'] or '?'}  {row['event_time'] or 'no event time'}  "
            f"from {row['origin']}{again}"
        )
    for line in count_lines(found.counts):
        click.echo(line)
    total = found.counts.total()
    click.echo(f"{total:,} letters match, {len(rows):,} of them shown" if rows else f"{total:,} letters match")
    if found.undated:
        progress(f"{found.undated:,} letters have no known event time and are left out by --from and --until")
    if found.unreadable:
        progress(f"{found.unreadable:,} records are no letters; `sep-stream tail` shows them")


@dlq.command(
    epilog="""\b
Example:
  sep-stream dlq show dead.letters/3/17"""
)
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def show(settings: Settings, ref: str, as_json: bool) -> None:
    """Show all of the letter REF: why it was refused and what helps, where it lay, its key, bytes and fields."""
    from sep_stream.cli._records import text_record
    from sep_stream.history.refused import REMEDY, RefusedLog

    place = _place(ref)
    _, schemas = _declared(settings)
    log = RefusedLog(settings, schemas)
    letter = log.letter(place)
    original = log.original(letter)
    requeued = str(letter.origin) in log.requeued()
    shown = _row(letter, requeued) | {
        "reason": letter.reason,
        "remedy": REMEDY.get(letter.code),
        "original": _original(original),
        "value": None if letter.value is None else letter.value.hex(),
        **_fields(schemas, letter.value),
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    lay = "" if original else " (no longer there)"
    fields = shown["fields"]
    lines = {
        "reason": f"{letter.code}: {letter.reason}",
        "remedy": shown["remedy"],
        "refused at": shown["refused_at"],
        "lay at": f"{letter.origin}{lay}",
        "timestamp": original and _time(original.timestamp_ms * 1000),
        "headers": "  ".join(f"{h['name']}={h['value']}" for h in shown["original"]["headers"]) if original else None,
        "instrument": letter.instrument,
        "event time": shown["event_time"],
        "key": shown["key"],
        "fields": text_record(fields) if fields else shown["undecodable"],
        "bytes": shown["value"],
        "requeued": "yes: it is not published a second time" if requeued else "no",
    }
    click.echo(letter.place)
    for name, line in lines.items():
        click.echo(f"  {name:11} {'-' if line in (None, '') else line}")


@dlq.command(
    epilog="""\b
Examples:
  sep-stream dlq requeue dead.letters/3/17 dead.letters/3/18
  sep-stream dlq requeue --reason WRONG_PARTITION --all-matching --dry-run"""
)
@click.argument("refs", metavar="[REF]…", nargs=-1)
@_filters("dead.letters")
@click.option("--all-matching", is_flag=True, help="All letters that the filters choose, instead of REF….")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@settings_options
def requeue(
    settings: Settings,
    refs: tuple[str, ...],
    topic: str,
    codes: tuple[str, ...],
    instrument: str | None,
    start: str | None,
    until: str | None,
    all_matching: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Publish refused events again, key and bytes as they were, in the partition of their key: each once, for ever.

    They come at the log's end. An event that is older than the newest of its instrument is late there and changes
    nothing; a wrong event is refused again; one whose sequence was seen is a duplicate. What to expect is told before
    anything is published. Records of windows and metrics can't be requeued: they are made from the events anew.
    """
    from sep_stream.history.refused import RefusedLog
    from sep_stream.history.requeue import Requeue
    from sep_stream.runtime import topics

    filtered = bool(codes or instrument or start or until)
    if refs and (all_matching or filtered):
        raise click.UsageError("give REF… or filters with --all-matching, not both")
    if not refs and not all_matching:
        raise click.UsageError("give REF… (`sep-stream dlq list` shows them), or filters with --all-matching")
    places = [_place(ref) for ref in refs]
    topology, schemas = _declared(settings, register=not dry_run)
    wanted = _wanted(topology, topic, codes, instrument, start, until)
    topics.check(settings, topology, ["requeue"])
    log = RefusedLog(settings, schemas)
    letters = [log.letter(place) for place in places] if refs else _all_matching(log, wanted)
    queue = Requeue(settings, topology, schemas)
    plan = queue.plan(letters)
    _tell(plan)
    if refs and plan.unfit:
        raise InputError(f"nothing is published: {len(plan.unfit)} of the letters can't be requeued")
    published = 0
    if plan.letters and not dry_run and (yes or _confirmed(len(plan.letters))):
        published = queue.publish(plan.letters, progress)
    if as_json:
        click.echo(json.dumps(_summary(plan, published, dry_run)))
    elif dry_run:
        click.echo(f"{len(plan.letters):,} events would be published; nothing was")
    else:
        click.echo(f"{published:,} events published again")


def _confirmed(events: int) -> bool:
    return click.confirm(f"Publish {events:,} events again?", err=True)


def _declared(settings: Settings, register: bool = False) -> tuple[Topology, Schemas]:
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.schemas import schemas_in_force

    return Topology.load(), schemas_in_force(settings, register=register)


def _place(ref: str) -> Place:
    from sep_stream.history.refused import Place

    try:
        return Place.parse(ref)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint="REF") from None


def _wanted(
    topology: Topology,
    topic: str,
    codes: tuple[str, ...],
    instrument: str | None,
    start: str | None,
    until: str | None,
) -> Wanted:
    from sep_stream.history.refused import REFUSED_TOPICS, UNKNOWN_INSTRUMENT, Wanted

    start_us, stop_us = (parse_time(text) * US_PER_S if text else None for text in (start, until))
    if start_us is not None and stop_us is not None and start_us >= stop_us:
        raise click.UsageError(f"--from {start} does not lie before --until {until}")
    if instrument is not None and instrument != UNKNOWN_INSTRUMENT:
        instrument = topology.instruments[topology.instruments.position(instrument)].symbol
    return Wanted(REFUSED_TOPICS if topic == "all" else (topic,), frozenset(codes), instrument, start_us, stop_us)


def _all_matching(log: RefusedLog, wanted: Wanted) -> Sequence[Letter]:
    found = log.search(wanted, REQUEUED_AT_ONCE_MAX)
    total = found.counts.total()
    if total > REQUEUED_AT_ONCE_MAX:
        raise InputError(
            f"{total:,} letters match, more than the {REQUEUED_AT_ONCE_MAX:,} requeued at once; "
            "choose fewer with --reason, --instrument, --from and --until"
        )
    if found.undated:
        progress(f"{found.undated:,} letters have no known event time and are left out by --from and --until")
    return found.letters


def _tell(plan: Plan) -> None:
    """What will be published, what not, and what is to be expected of it."""
    for letter in plan.requeued[:TOLD_EACH_MAX]:
        progress(f"{letter.place}: was requeued before; not published a second time")
    if len(plan.requeued) > TOLD_EACH_MAX:
        progress(f"{len(plan.requeued):,} letters in all were requeued before")
    for letter, why in plan.unfit[:TOLD_EACH_MAX]:
        progress(f"{letter.place}: can't be requeued: {why}")
    if len(plan.unfit) > TOLD_EACH_MAX:
        progress(f"{len(plan.unfit):,} letters in all can't be requeued")
    if plan.letters:
        progress(f"{len(plan.letters):,} events to publish")
        for line in _expectations(plan.forecast):
            progress(f"  {line}")


def _expectations(forecast: Forecast) -> list[str]:
    from sep_stream.history.requeue import HELD_AS_JUMP, TAIL_RECORDS_MAX

    fate = forecast.fate
    said = {
        Reason.OK.name: "are used, as far as the log's tail tells",
        Reason.LATE.name: "are late, older than the newest event of their instrument: they change nothing",
        Reason.DUPLICATE.name: "are duplicates by their sequence: they change nothing",
        HELD_AS_JUMP: "are far ahead of their instrument: held until its next event",
    }
    lines = [f"{fate[name]:,} {text}" for name, text in said.items() if fate[name]]
    lines += [
        f"{n:,} are refused again ({code}): {REASON_TEXT[Reason[code]]}"
        for code, n in fate.most_common()
        if code not in said
    ]
    if forecast.unjudged:
        lines.append(
            f"of {forecast.unjudged:,} it isn't known whether they are late: their instrument has no event among the "
            f"newest {TAIL_RECORDS_MAX:,} of its partition"
        )
    if forecast.models:
        lines.append(f"{forecast.models:,} put a model in force from now on, over a newer one too")
    return lines


def _summary(plan: Plan, published: int, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "to_publish": len(plan.letters),
        "published": published,
        "requeued_before": [str(letter.place) for letter in plan.requeued],
        "unfit": [{"ref": str(letter.place), "why": why} for letter, why in plan.unfit],
        "forecast": dict(plan.forecast.fate),
        "unjudged": plan.forecast.unjudged,
        "models": plan.forecast.models,
    }


def _row(letter: Letter, requeued: bool) -> dict[str, Any]:
    return {
        "ref": str(letter.place),
        "code": letter.code,
        "instrument": letter.instrument,
        "event_time": None if letter.event_time_us is None else _time(letter.event_time_us),
        "refused_at": _time(letter.refused_ms * 1000),
        "origin": str(letter.origin),
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "requeued": requeued,
    }


def _original(original: Original | None) -> dict[str, Any] | None:
    if original is None:
        return None
    headers = [
        {"name": name, "value": None if value is None else value.decode(errors="backslashreplace")}
        for name, value in original.headers
    ]
    return {"timestamp": _time(original.timestamp_ms * 1000), "headers": headers}


def _fields(schemas: Schemas, value: bytes | None) -> dict[str, Any]:
    """The decoded fields, or what is wrong with the bytes."""
    from sep_stream.cli._records import json_record

    if value is None:
        return {"schema": None, "fields": None, "undecodable": "the record has no value"}
    try:
        name, record = schemas.decode(value)
        return {"schema": name, "fields": json_record(name, record), "undecodable": None}
    except InputError as error:
        return {"schema": None, "fields": None, "undecodable": str(error)}


def _time(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
