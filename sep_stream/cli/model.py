"""`sep-stream model`: train, list, show and activate models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sep_stream.cli._common import engine_option, iso, parse_time, progress, settings_options
from sep_stream.errors import InputError, ModelError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.scoring.calibration import Calibration
    from sep_stream.stores.model_store import ModelManifest
    from sep_stream.training.evaluation import FoldEvaluation


@click.group()
def model() -> None:
    """Models: path libraries of history, with the parameters that they are read by."""


@model.command(
    epilog="""\b
Examples:
  sep-stream model train --from candles.csv --instrument GBP/USD --until 2012-02-22T00:00:00Z
  sep-stream model train --from topic --since 2023-02-05T00:00:00Z --until 2024-02-05T00:00:00Z"""
)
@click.option("--from", "origin", required=True, metavar="FILE|topic", help="A file, or `topic`: market.events.")
@click.option("--until", required=True, metavar="TIME", help="The training cut: only outcomes known by then.")
@click.option("--since", metavar="TIME", help="Only windows that begin at or after it; left out: all.")
@click.option(
    "--calibrate/--no-calibrate",
    default=True,
    show_default=True,
    help="Fit probabilities to what came, scoring the history by what was known before.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Left out: models_url.")
@click.option("--instrument", help="Whose prices the file holds.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@settings_options
def train(
    settings: Settings,
    origin: str,
    until: str,
    since: str | None,
    calibrate: bool,
    out: Path | None,
    instrument: str | None,
    assume_utc: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Train a model on what was known at a time."""
    from sep_stream.convert import MarketDataConverter
    from sep_stream.gpu import engine_named
    from sep_stream.runtime.topology import Topology
    from sep_stream.scoring.model import ModelParameters
    from sep_stream.stores.model_store import local_folder, read_manifest, save_model
    from sep_stream.training.calibrate import calibrated
    from sep_stream.training.series import closed_bars
    from sep_stream.training.train import train as train_model

    chosen = engine_named(engine, settings.gpu_memory_mib)
    cut_s, train_from_s = parse_time(until), parse_time(since) if since else None
    topology = Topology.load()
    converter = MarketDataConverter(topology.instruments, settings.convert_parameters())
    series = closed_bars(converter, _events(settings, topology, origin, instrument, assume_utc))
    parameters = ModelParameters(window=settings.window_params(), deadband=settings.deadband)
    trained = train_model(series, parameters, cut_s, chosen, train_from_s)
    if calibrate:
        progress(f"trained on {sum(map(len, trained.libraries)):,} windows; calibrating")
        trained = calibrated(trained, chosen)
    root = out or local_folder(settings.models_root())
    _show(_summary(read_manifest(save_model(trained, root / trained.model_id))), as_json)


def _events(settings: Settings, topology: Any, origin: str, instrument: str | None, assume_utc: bool) -> Iterable[Any]:
    if origin in ("topic", "market.events"):
        from sep_stream.history import EventLog

        yield from EventLog(settings, topology).batches()
        return
    if instrument is None:
        raise click.UsageError("--instrument names whose prices the file holds, e.g. --instrument EUR/USD")
    from sep_stream.sources.files import read_events

    yield from read_events(Path(origin), topology.instruments, instrument, assume_utc=assume_utc)


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one model a line.")
@settings_options
def list_(settings: Settings, as_json: bool) -> None:
    """List the models that lie at models_url, by training cut.

    A model that can't be read is told on stderr, after the others; then the exit code is 1.

    \b
    Example:
      sep-stream model list
    """
    from sep_stream.stores.model_store import model_folders, read_manifest

    summaries, unreadable = [], []
    for folder in model_folders(settings.models_root()):
        try:
            summaries.append(_summary(read_manifest(folder)))
        except ModelError as error:
            unreadable.append(str(error))
    for summary in sorted(summaries, key=lambda summary: (summary["training_cut"], summary["model_id"])):
        click.echo(json.dumps(summary) if as_json else _line(summary))
    if unreadable:
        raise ModelError("\n".join([f"models that can't be read: {len(unreadable)}", *sorted(unreadable)]))


@model.command()
@click.argument("model_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options
def show(settings: Settings, model_id: str, as_json: bool) -> None:
    """Show a model: parameters, training span, rows, blocks and calibration of each library, and its folds.

    MODEL_ID may be cut to its first digits. The files are compared with the manifest's SHA-256.

    \b
    Example:
      sep-stream model show 3f2a
    """
    from sep_stream.stores.model_store import check_files

    manifest = find_model(settings, model_id)
    _show(_summary(manifest), as_json)
    check_files(manifest.folder)


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
    from sep_stream.runtime.topics import check
    from sep_stream.runtime.topology import Topology
    from sep_stream.sources.activation import activate as publish
    from sep_stream.stores.model_store import load_model
    from sep_stream.stores.schemas import schemas_in_force

    manifest = find_model(settings, model_id)
    load_model(manifest.folder)  # what is damaged is not put in force
    topology = Topology.load()
    check(settings, topology, ["model"])
    symbols = [topology.instruments[topology.instruments.position(name)].symbol for name in instruments] or sorted(
        {library.symbol for library in manifest.libraries}
    )
    from_s = parse_time(at) if at else manifest.training_cut_s
    schemas = schemas_in_force(settings, register=True)
    publish(settings, schemas, manifest.folder, manifest.model_id, symbols, from_s)
    click.echo(f"model {manifest.model_id} is in force for {', '.join(symbols)}, from the next event on")


def find_model(settings: Settings, model_id: str) -> ModelManifest:
    from sep_stream.stores.model_store import model_folders, read_manifest

    root = settings.models_root()
    found = [folder for folder in model_folders(root) if folder.name.startswith(model_id)]
    if len(found) != 1:
        raise InputError(f"model {model_id!r}: {len(found)} at {root} begin so; `sep-stream model list` shows them")
    return read_manifest(found[0])


def _summary(manifest: ModelManifest) -> dict[str, Any]:
    block_rows = manifest.parameters.window.forward
    return {
        "model_id": manifest.model_id,
        "folder": str(manifest.folder),
        "training_from": _iso(manifest.training_from_s),
        "training_cut": iso(manifest.training_cut_s),
        "calibrated": bool(manifest.calibrations),
        "parameters": manifest.parameters.document(),
        "libraries": [
            {
                "instrument": library.symbol,
                "timeframe": library.timeframe,
                "rows": library.rows,
                "blocks": -(-library.rows // block_rows),
                "first_anchor": _iso(library.first_anchor_time_s),
                "last_anchor": _iso(library.last_anchor_time_s),
                "calibration": _knots(manifest.calibrations.get((library.symbol, library.timeframe))),
            }
            for library in manifest.libraries
        ],
        "folds": None if manifest.evaluation is None else [_fold(each) for each in manifest.evaluation.folds],
    }


def _knots(table: Calibration | None) -> dict[str, Any] | None:
    """How many knots, and the range that they map to which; None for the identity."""
    if table is None or not table.x:
        return None
    return {"knots": len(table.x), "x": [table.x[0], table.x[-1]], "y": [table.y[0], table.y[-1]]}


def _fold(each: FoldEvaluation) -> dict[str, Any]:
    fold = each.fold
    return {
        "number": fold.number,
        "train_from": _iso(fold.train_from_s),
        "cut": iso(fold.cut_s),
        "score_from": iso(fold.score_from_s),
        "score_until": iso(fold.score_until_s),
        "figures": dict(each.figures),
    }


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else iso(seconds)


def _line(summary: dict[str, Any]) -> str:
    """A model as `model list` shows it; rows and blocks of all libraries together."""
    libraries = summary["libraries"]
    rows, blocks = (sum(library[name] for library in libraries) for name in ("rows", "blocks"))
    tables = sum(library["calibration"] is not None for library in libraries)
    folds = "" if summary["folds"] is None else f"  {len(summary['folds'])} folds"
    since = "" if summary["training_from"] is None else f"since {summary['training_from']} "
    return (
        f"{summary['model_id']}  {since}until {summary['training_cut']}  {rows} rows  {blocks} blocks  "
        f"{tables} of {len(libraries)} calibrated{folds}"
    )


def _show(summary: dict[str, Any], as_json: bool) -> None:
    for line in [json.dumps(summary)] if as_json else _lines(summary):
        click.echo(line)


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    yield f"model {summary['model_id']}"
    yield f"  folder         {summary['folder']}"
    yield f"  training from  {summary['training_from'] or 'the first bar'}"
    yield f"  training cut   {summary['training_cut']}"
    yield f"  calibrated     {'yes' if summary['calibrated'] else 'no'}"
    for library in summary["libraries"]:
        size = f"{library['rows']:>8} rows {library['blocks']:>6} blocks"
        yield f"  {library['instrument']:8} {library['timeframe']:4} {size}  {_calibration(library['calibration'])}"
    for fold in summary["folds"] or ():
        yield _fold_line(fold)


def _calibration(knots: dict[str, Any] | None) -> str:
    if knots is None:
        return "not calibrated"
    (x0, x1), (y0, y1) = knots["x"], knots["y"]
    count = f"{knots['knots']} knot{'s' if knots['knots'] > 1 else ''}"
    return f"{count}: p {x0:.3f} … {x1:.3f} becomes {y0:.3f} … {y1:.3f}"


def _fold_line(fold: dict[str, Any]) -> str:
    figures = "".join(f"  {name} {_figure(value)}" for name, value in fold["figures"].items())
    return (
        f"  fold {fold['number']:>3}  trained until {fold['cut']}, "
        f"scored {fold['score_from']} to {fold['score_until']}{figures}"
    )


def _figure(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
