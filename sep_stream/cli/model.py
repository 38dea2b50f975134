"""`sep-stream model`: train, list, show and activate models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import parse_time, settings_options
from sep_stream.errors import InputError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.stores.model_store import ModelManifest


@click.group()
def model() -> None:
    """Models: path libraries of history, with the parameters that they are read by."""


@model.command(
    epilog="""\b
Examples:
  sep-stream model train --from candles.csv --instrument GBP/USD --until 2012-02-22T00:00:00Z
  sep-stream model train --from topic --until 2024-02-05T00:00:00Z"""
)
@click.option("--from", "origin", required=True, metavar="FILE|topic", help="A file, or `topic`: market.events.")
@click.option("--until", required=True, metavar="TIME", help="The training cut: only outcomes known by then.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Left out: models_url.")
@click.option("--instrument", help="Whose prices the file holds.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@settings_options
def train(
    settings: Settings,
    origin: str,
    until: str,
    out: Path | None,
    instrument: str | None,
    assume_utc: bool,
    as_json: bool,
) -> None:
    """Train a model on what was known at a time."""
    from sep_stream.convert import MarketDataConverter
    from sep_stream.runtime.topology import Topology
    from sep_stream.scoring.model import ModelParameters
    from sep_stream.stores.model_store import local_folder, read_manifest, save_model
    from sep_stream.training.series import closed_bars
    from sep_stream.training.train import train as train_model

    cut_s = parse_time(until)
    topology = Topology.load()
    converter = MarketDataConverter(topology.instruments, settings.convert_parameters())
    series = closed_bars(converter, _events(settings, topology, origin, instrument, assume_utc))
    parameters = ModelParameters(window=settings.window_params(), deadband=settings.deadband)
    trained = train_model(series, parameters, cut_s)
    root = out or local_folder(settings.models_root())
    _show(_summary(read_manifest(save_model(trained, root / trained.model_id))), as_json)


def _events(settings: Settings, topology: Any, origin: str, instrument: str | None, assume_utc: bool) -> Iterable[Any]:
    if origin in ("topic", "market.events"):
        from sep_stream.history import EventLog
        from sep_stream.market.avro import load_schemas
        from sep_stream.runtime.resources import resource

        yield from EventLog(settings, topology, load_schemas(resource("schemas") / "avro")).batches()
        return
    if instrument is None:
        raise click.UsageError("--instrument names whose prices the file holds, e.g. --instrument EUR/USD")
    from sep_stream.sources.files import read_events

    yield from read_events(Path(origin), topology.instruments, instrument, assume_utc=assume_utc)


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one model a line.")
@settings_options
def list_(settings: Settings, as_json: bool) -> None:
    """List the models that lie at models_url.

    \b
    Example:
      sep-stream model list
    """
    from sep_stream.stores.model_store import list_models

    for manifest in list_models(settings.models_root()):
        summary = _summary(manifest)
        if as_json:
            click.echo(json.dumps(summary))
        else:
            rows = sum(library["rows"] for library in summary["libraries"])
            click.echo(f"{summary['model_id']}  until {summary['training_cut']}  {rows} rows")


@model.command()
@click.argument("model_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def show(settings: Settings, model_id: str, as_json: bool) -> None:
    """Show a model: its parameters, training cut, and the rows and blocks of each library.

    MODEL_ID may be cut to its first digits.

    \b
    Example:
      sep-stream model show 3f2a
    """
    _show(_summary(_find(settings, model_id)), as_json)


@model.command()
@click.argument("model_id")
@click.option(
    "--instrument", "instruments", multiple=True, help="Only for these; left out: all that it has libraries of."
)
@click.option("--at", metavar="TIME", help="Event time of the markers; left out: the training cut.")
@settings_options
def activate(settings: Settings, model_id: str, instruments: tuple[str, ...], at: str | None) -> None:
    """Put a model in force: from here on in each instrument's log, windows are scored by it.

    \b
    Example:
      sep-stream model activate 3f2a
    """
    from sep_stream.market.avro import load_schemas
    from sep_stream.runtime.resources import resource
    from sep_stream.runtime.topics import check
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.activation import activate as publish
    from sep_stream.stores.model_store import load_model

    manifest = _find(settings, model_id)
    load_model(manifest.folder)  # what is damaged is not put in force
    topology = Topology.load()
    check(settings, topology, ["model"])
    symbols = [topology.instruments[topology.instruments.position(name)].symbol for name in instruments] or sorted(
        {library.symbol for library in manifest.libraries}
    )
    from_s = parse_time(at) if at else manifest.training_cut_s
    publish(settings, load_schemas(resource("schemas") / "avro"), manifest.folder, manifest.model_id, symbols, from_s)
    click.echo(f"model {manifest.model_id} is in force for {', '.join(symbols)}, from the next event on")


def _find(settings: Settings, model_id: str) -> ModelManifest:
    from sep_stream.stores.model_store import list_models

    root = settings.models_root()
    found = [manifest for manifest in list_models(root) if manifest.model_id.startswith(model_id)]
    if len(found) != 1:
        raise InputError(f"model {model_id!r}: {len(found)} at {root} begin so; `sep-stream model list` shows them")
    return found[0]


def _summary(manifest: ModelManifest) -> dict[str, Any]:
    block_rows = manifest.parameters.window.forward
    return {
        "model_id": manifest.model_id,
        "folder": str(manifest.folder),
        "training_cut": _time(manifest.training_cut_s),
        "calibrated": bool(manifest.calibrations),
        "parameters": manifest.parameters.document(),
        "libraries": [
            {
                "instrument": library.symbol,
                "timeframe": library.timeframe,
                "rows": library.rows,
                "blocks": -(-library.rows // block_rows),
            }
            for library in manifest.libraries
        ],
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _show(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"model {summary['model_id']}")
    click.echo(f"  folder        {summary['folder']}")
    click.echo(f"  training cut  {summary['training_cut']}")
    click.echo(f"  calibrated    {'yes' if summary['calibrated'] else 'no'}")
    for library in summary["libraries"]:
        name = f"{library['instrument']:8} {library['timeframe']:4}"
        click.echo(f"  {name} {library['rows']:>8} rows {library['blocks']:>6} blocks")
