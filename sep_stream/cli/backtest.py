"""`sep-stream backtest`: what the signals would have been worth, and whether live and backtest agree."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sep_stream.cli._common import engine_option, iso, parse_time, progress, settings_options
from sep_stream.errors import InputError
from sep_stream.market.timeframes import US_PER_S
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sep_stream.backtest.bars import MarketHistory
    from sep_stream.backtest.walk import Backtest, BacktestParameters, ScoredFold
    from sep_stream.market.events import EventBatch
    from sep_stream.metrics import Engine
    from sep_stream.runtime.topology import Topology
    from sep_stream.scoring import Model
    from sep_stream.training.folds import Fold

DAY_S: Final = 86_400
FOLDS: Final = 5
"""Without other words."""
TRIALS_MAX: Final = 1_000
TOPIC: Final = ("topic", "market.events")


class _Decimal(click.ParamType):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            return Decimal(str(value))
        except InvalidOperation:
            self.fail(f"expected a number, got {value!r}", param, ctx)


def _read_parameters(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """The parameters of a TOML file are defaults: flags win."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param=param) from error
    unknown = sorted(set(values) - set(_PARAMETERS))
    if unknown:
        raise click.BadParameter(f"{path}: {unknown[0]}: expected some of {', '.join(_PARAMETERS)}", param=param)
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


_PARAMETER_FLAGS: Final = (
    click.option("--mode", type=click.Choice(["expanding", "rolling"]), default="expanding", show_default=True,
                 help="Train on all that came before, or on the last --train-days."),
    click.option("--folds", type=click.IntRange(min=1), help=f"How many.  [default: {FOLDS}]"),
    click.option("--fold-days", type=click.FloatRange(min=0, min_open=True), help="Instead of --folds: their length."),
    click.option("--train-days", type=click.FloatRange(min=0, min_open=True),
                 help="Least training of expanding folds, all of rolling ones.  [default: a third of the range]"),
    click.option("--embargo-minutes", type=click.IntRange(min=1),
                 help="From a training cut to what is scored.  [default: the longest horizon]"),
    click.option("--calibrate/--no-calibrate", default=True, show_default=True, help="Fit probabilities to outcomes."),
    click.option("--matches", type=click.IntRange(min=1), help="Blocks of history that vote.  [default: 32]"),
    click.option("--min-blocks", type=click.IntRange(min=1), help="With fewer a score holds.  [default: 16]"),
    click.option("--confidence-min", type=float, help="Of the gate.  [default: 0.6]"),
    click.option("--coherence-min", type=float, help="Of the gate.  [default: 0.1]"),
    click.option("--stability-margin-min", type=float, help="Of the gate.  [default: 0.05]"),
    click.option("--trade", type=click.Choice(["confirmed", "gated", "all"]),
                 help="Which signals are traded.  [default: confirmed]"),
    click.option("--max-open", type=click.IntRange(1, 1_000),
                 help="Trades open at once, by instrument and timeframe.  [default: 1]"),
    click.option("--slippage", type=click.IntRange(min=0), help="Points, at the entry and at the exit.  [default: 0]"),
    click.option("--units", type=_Decimal(), help="Of a trade.  [default: 100000]"),
    click.option("--commission", type=_Decimal(),
                 help="Quote currency, at the entry and at the exit.  [default: 0]"),
    click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the resampling."),
)  # fmt: skip
_PARAMETERS: Final = (
    "mode", "folds", "fold_days", "train_days", "embargo_minutes", "calibrate", "matches", "min_blocks",
    "confidence_min", "coherence_min", "stability_margin_min", "trade", "max_open", "slippage", "units", "commission",
    "seed",
)  # fmt: skip
"""What --params and --grid may name."""


def _parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_PARAMETER_FLAGS):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  sep-stream backtest candles.csv --instrument EUR/USD --folds 5
  sep-stream backtest topic --mode rolling --train-days 60 --fold-days 20 --trade gated
  sep-stream backtest topic --grid confidence_min=0.55,0.6 --grid matches=16,32
  sep-stream backtest candles.csv --instrument EUR/USD --model 3f2a
  sep-stream backtest --verify-against sep.
  sep-stream backtest topic --check-lookahead --folds 3"""
)
@click.argument("source", nargs=-1, metavar="[FILE…|topic]")
@click.option(
    "--instrument", "instruments", multiple=True, help="Whose prices the files hold; of the topic: only these."
)
@click.option("--from", "start", metavar="TIME", help="Only events from this time on.")
@click.option("--until", metavar="TIME", help="Only events before this time.")
@click.option("--assume-utc", is_flag=True, help="Read times without a zone as UTC.")
@click.option("--model", "model_id", metavar="ID|FOLDER", help="Score by this one what came after its training.")
@click.option("--params", type=click.Path(exists=True, dir_okay=False, path_type=Path), is_eager=True,
              expose_value=False, callback=_read_parameters,
              help="A TOML file of the parameters below; flags win.")  # fmt: skip
@_parameter_options
@click.option("--grid", multiple=True, metavar="NAME=V1,V2…", help="Try all combinations; the report says how many.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("backtest"), show_default=True,
              help="Folder of signals.parquet, trades.parquet, summary.json and report.html.")  # fmt: skip
@click.option("--save-models", is_flag=True, help="Keep each fold's model at models_url.")
@engine_option
@click.option("--threads", type=click.IntRange(min=1), help="Instruments scored at once.  [default: one a CPU given]")
@click.option("--verify-against", metavar="PREFIX",
              help="Compare what workers made of this prefix's events, record by record.")  # fmt: skip
@click.option("--check-lookahead", is_flag=True, help="Cut the data at random times: no earlier signal may change.")
@click.option("--cuts", type=click.IntRange(min=1), default=5, show_default=True, help="Of --check-lookahead.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@settings_options
@click.pass_context
def backtest(ctx: click.Context, /, settings: Settings, source: tuple[str, ...], **options: Any) -> None:
    """Test signals on history: train on what was known, score what came next, trade on it on paper.

    FILE: candles or quotes of one instrument; `topic` (or nothing): market.events. The log is read once, however many
    folds. With MODEL events in the log, --verify-against computes what workers should have made of it, and compares.
    """
    run = _Run(ctx, settings, source, options)
    if options["verify_against"] is not None:
        run.verify()
    elif options["check_lookahead"]:
        run.check_look_ahead()
    else:
        run.backtest()


@dataclass(frozen=True)
class _Run:
    ctx: click.Context
    settings: Settings
    source: tuple[str, ...]
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        o = self.options
        if o["verify_against"] is not None and (self.source or o["grid"] or o["model_id"] or o["check_lookahead"]):
            raise click.UsageError("--verify-against reads the events of its prefix, under the models that they name")
        if o["model_id"] and (o["grid"] or o["check_lookahead"] or o["save_models"]):
            raise click.UsageError("--model fixes the model: there is no grid, fold or model to save")
        if o["folds"] is not None and o["fold_days"] is not None:
            raise click.UsageError("--folds and --fold-days: one of them")
        if self._files and len(o["instruments"]) != 1:
            raise click.UsageError("--instrument names whose prices the files hold, e.g. --instrument EUR/USD")

    @property
    def _files(self) -> tuple[Path, ...]:
        return (
            () if not self.source or self.source in tuple((name,) for name in TOPIC) else tuple(map(Path, self.source))
        )

    def backtest(self) -> None:
        from sep_stream.runtime.topology import Topology

        topology = Topology.load()
        model = self._model()
        trials = _trials(self.ctx, self.options)
        history = self._tested(topology)
        found = []
        for number, changed in enumerate(trials, 1):
            out: Path = self.options["out"]
            if len(trials) > 1:
                out = out / f"{number:03d}"
                progress(f"trial {number} of {len(trials)}: {_words(changed)}")
            summary = self._one(topology, history, {**self.options, **changed}, model, len(trials), out)
            found.append({"folder": str(out), "tried": {k: str(v) for k, v in changed.items()}, "summary": summary})
        self._tell(found)

    def _one(
        self, topology: Topology, history: MarketHistory, options: Mapping[str, Any], model: Model | None, trials: int,
        out: Path,
    ) -> Any:  # fmt: skip
        from sep_stream.backtest.run import Told, write_run

        parameters = self._parameters(options, history, model)
        tester = self._tester(topology, parameters)
        told = Told("Backtest", self._source_words(), trials, options["seed"])
        folds = tester.with_model(history, model) if model else self._walk(tester, history, tester.folds(history))
        return write_run(out, history, folds, parameters, topology.instruments, told, progress)

    def _tester(self, topology: Topology, parameters: BacktestParameters) -> Backtest:
        from sep_stream.backtest.walk import Backtest
        from sep_stream.threads import given

        return Backtest(topology.instruments, parameters, self._engine(), self.options["threads"] or given())

    def _engine(self) -> Engine:
        from sep_stream.gpu import engine_named

        return engine_named(self.options["engine"], self.settings.gpu_memory_mib)

    def _walk(self, tester: Backtest, history: MarketHistory, folds: Sequence[Fold]) -> Iterator[ScoredFold]:
        from sep_stream.backtest.tables import evaluation
        from sep_stream.stores.model_store import local_folder, save_model

        root = local_folder(self.settings.models_root())
        for scored in tester.walk(history, folds):
            if self.options["save_models"]:
                folder = root / scored.model.model_id
                # What an earlier run saved is never changed: a longer history may tell more of the same model.
                save_model(scored.model, folder, None if folder.exists() else evaluation(scored))
            yield scored

    def check_look_ahead(self) -> None:
        from sep_stream.backtest.bars import before, market_history
        from sep_stream.backtest.look_ahead import check_look_ahead, cut_times
        from sep_stream.convert import MarketDataConverter
        from sep_stream.runtime.topology import Topology

        topology, settings = Topology.load(), self.settings
        history = self._tested(topology)
        tester = self._tester(topology, self._parameters(self.options, history, None))
        folds = tester.folds(history)

        def compute(cut_s: int | None) -> Iterator[Any]:
            part = history
            if cut_s is not None:
                converter = MarketDataConverter(topology.instruments, settings.convert_parameters())
                part = market_history(converter, before(self._batches(topology, settings), cut_s))
            for scored in tester.walk(part, [fold for fold in folds if cut_s is None or fold.score_from_s < cut_s]):
                yield from scored.scored

        cuts = cut_times(folds[0].score_from_s, history.last_s, self.options["cuts"], self.options["seed"])
        results = []
        for found in check_look_ahead(compute, cuts):
            results.append(found)
            progress(f"cut at {iso(found.cut_s)}: {found.signals:,} signals before it, {found.changed:,} changed")
            for line in found.first:
                progress(f"  {line}")
        changed = sum(found.changed for found in results)
        if self.options["as_json"]:
            cut = [{"cut": iso(f.cut_s), "signals": f.signals, "changed": f.changed, "first": f.first} for f in results]
            click.echo(json.dumps({"cuts": cut, "changed": changed}))
        else:
            click.echo(
                f"look-ahead: {changed:,} signals changed" if changed else
                f"no look-ahead: no signal of {sum(f.signals for f in results):,} changed in {len(results)} cuts"
            )  # fmt: skip
        if changed:
            self.ctx.exit(1)

    def verify(self) -> None:
        from sep_stream.backtest.verify import Expected, compare, models_in_force, replayed
        from sep_stream.runtime.log_reader import LogReader
        from sep_stream.runtime.topology import Topology
        from sep_stream.stores.model_store import load_model, model_folder
        from sep_stream.stores.schemas import schemas_in_force

        topology, schemas = Topology.load(), schemas_in_force(self.settings)
        settings = self.settings.model_copy(update={"prefix": self.options["verify_against"]})
        history = self._history(topology, settings)
        root = settings.models_root()
        models = [load_model(model_folder(root, model_id)) for model_id in models_in_force(history)]
        expected = Expected(schemas, topology.instruments, self._settle(self.options), self._stake(self.options))
        for part in replayed(history, models, settings.window_params(), self._engine()):
            expected.add(part)
        reader = LogReader(settings)
        results = [
            compare(name, records, _lying(reader, settings.topic(name)), schemas, schema, identity)
            for name, records, schema, identity in (
                ("signals", expected.signals, "signal", "signal_id"),
                ("trading.results", expected.results, "trading_result", "trade_id"),
            )
        ]
        for found in results:
            for line in found.first:
                progress(line)
        if self.options["as_json"]:
            click.echo(
                json.dumps({found.topic: {name: getattr(found, name) for name in _COMPARED} for found in results})
            )
        else:
            for found in results:
                click.echo(f"{found.topic}: " + ", ".join(f"{getattr(found, name):,} {name}" for name in _COMPARED))
        if not all(found.agrees for found in results):
            self.ctx.exit(1)

    def _tested(self, topology: Topology) -> MarketHistory:
        """The history, which has to hold bars."""
        history = self._history(topology, self.settings)
        if not history.bars:
            raise InputError(f"{self._source_words()}: the range closes no bar: there is nothing to test on")
        return history

    def _history(self, topology: Topology, settings: Settings) -> MarketHistory:
        from sep_stream.backtest.bars import market_history
        from sep_stream.convert import MarketDataConverter

        converter = MarketDataConverter(topology.instruments, settings.convert_parameters())
        history = market_history(converter, self._batches(topology, settings))
        progress("read: " + (", ".join(f"{count:,} {name}" for name, count in history.counts.items()) or "no events"))
        return history

    def _batches(self, topology: Topology, settings: Settings) -> Iterable[EventBatch]:
        start, until = (parse_time(self.options[name]) if self.options[name] else None for name in ("start", "until"))
        if start is not None and until is not None and start >= until:
            raise click.UsageError("--from: expected a time before --until")
        names = self.options["instruments"]
        if not self._files:
            from sep_stream.history import EventLog

            log = EventLog(settings, topology)
            return log.batches(names or None, *(None if t is None else t * 1_000 for t in (start, until)))
        from sep_stream.sources.files import read_files

        start_us, until_us = (None if bound_s is None else bound_s * US_PER_S for bound_s in (start, until))
        read = read_files(
            self._files, topology.instruments, names[0], assume_utc=self.options["assume_utc"], note=progress
        )
        return (batch.between(start_us, until_us) for _, batch in read)

    def _source_words(self) -> str:
        where = ", ".join(path.name for path in self._files) or self.settings.topic("market.events")
        names = ", ".join(self.options["instruments"])
        span = " ".join(f"{word} {self.options[key]}" for word, key in (("from", "start"), ("until", "until"))
                        if self.options[key])  # fmt: skip
        return " ".join(word for word in (where, f"({names})" if names else "", span) if word)

    def _model(self) -> Model | None:
        from sep_stream.cli.model import find_model
        from sep_stream.stores.model_store import load_model

        given = self.options["model_id"]
        if not given:
            return None
        folder = Path(given)
        return load_model(folder if folder.is_dir() else find_model(self.settings, given).folder)

    def _parameters(
        self, options: Mapping[str, Any], history: MarketHistory, model: Model | None
    ) -> BacktestParameters:
        from sep_stream.backtest.walk import BacktestParameters

        if model is not None:
            made, asked = model.parameters, (self.settings.window_params(), self.settings.deadband)
            if (made.window, made.deadband) != asked:
                raise InputError(
                    f"model {model.model_id}: made for {made.window}, deadband {made.deadband}; the settings are "
                    f"{asked[0]}, deadband {asked[1]}"
                )
            return BacktestParameters(model.parameters, self._settle(options), self._stake(options), None, False)
        return BacktestParameters(
            self._model_parameters(options),
            self._settle(options),
            self._stake(options),
            _plan(options, history.first_s, history.last_s),
            options["calibrate"],
        )

    def _model_parameters(self, options: Mapping[str, Any]) -> Any:
        from sep_stream.scoring import GateParameters, ModelParameters

        gate = _given(options, "confidence_min", "coherence_min", "stability_margin_min")
        return ModelParameters(
            window=self.settings.window_params(), deadband=self.settings.deadband, gate=GateParameters(**gate),
            **_given(options, "matches", "min_blocks"),
        )  # fmt: skip

    def _settle(self, options: Mapping[str, Any]) -> Any:
        return self.settings.model_copy(update=_given(options, "trade", "max_open", "slippage")).settle_parameters()

    def _stake(self, options: Mapping[str, Any]) -> Any:
        return self.settings.model_copy(update=_given(options, "units", "commission")).stake()

    def _tell(self, found: Sequence[Mapping[str, Any]]) -> None:
        if len(found) > 1:
            (self.options["out"] / "grid.json").write_text(json.dumps(found, indent=1) + "\n")
        if self.options["as_json"]:
            click.echo(json.dumps([each["summary"] for each in found] if len(found) > 1 else found[0]["summary"]))
            return
        for each in found:
            tried = f"{_words(each['tried'])}: " if each["tried"] else ""
            click.echo(f"{tried}{each['summary']['verdict']['sentence']}")
            click.echo(f"  {each['folder']}/report.html")


_COMPARED: Final = ("equal", "different", "missing", "unexpected", "repeated")


def _lying(reader: Any, topic: str) -> Iterator[tuple[str, bytes]]:
    for partition in reader.partitions(topic):
        for batch in reader.read(topic, partition, *reader.watermarks(topic, partition)):
            for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
                yield f"{topic}/{partition}, offset {offset}", value or b""


def _plan(options: Mapping[str, Any], first_s: int, last_s: int) -> Any:
    from sep_stream.training.folds import FoldPlan

    train_days, fold_days = options["train_days"], options["fold_days"]
    minutes = options["embargo_minutes"]
    return FoldPlan(
        train_s=(last_s - first_s) // 3 if train_days is None else round(train_days * DAY_S),
        fold_s=None if fold_days is None else round(fold_days * DAY_S / 60) * 60,
        fold_count=None if fold_days is not None else options["folds"] or FOLDS,
        mode=options["mode"],
        **({} if minutes is None else {"embargo_s": minutes * 60}),
    )


def _given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _trials(ctx: click.Context, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The combinations of --grid; one without any change where there is none."""
    flags = {param.name: param for param in ctx.command.params}
    axes: dict[str, list[Any]] = {}
    for axis in options["grid"]:
        name, _, values = axis.partition("=")
        name = name.replace("-", "_")
        if name not in _PARAMETERS or not values:
            raise click.BadParameter(
                f"{axis!r}: expected NAME=V1,V2… of {', '.join(_PARAMETERS)}", ctx=ctx, param_hint="--grid"
            )
        if name in axes:
            raise click.BadParameter(f"{name} is named twice", ctx=ctx, param_hint="--grid")
        axes[name] = [flags[name].type_cast_value(ctx, value.strip()) for value in values.split(",")]
    trials = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if len(trials) > TRIALS_MAX:
        raise click.BadParameter(f"{len(trials)} combinations; at most {TRIALS_MAX}", ctx=ctx, param_hint="--grid")
    return trials


def _words(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changed.items())
