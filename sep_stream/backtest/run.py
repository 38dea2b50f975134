"""A backtest's files: signals, trades, summary and report, each whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bars import MarketHistory
from sep_stream.backtest.report import render_report
from sep_stream.backtest.results import FORECAST_DTYPE, TRADE_DTYPE, Fold, ReportData
from sep_stream.backtest.summary import summary
from sep_stream.backtest.tables import (
    forecasts,
    reported_trades,
    signal_columns,
    signal_schema,
    trade_columns,
    trade_schema,
)
from sep_stream.backtest.walk import BacktestParameters, ScoredFold
from sep_stream.files import drafts
from sep_stream.market.instruments import Instrument, Instruments
from sep_stream.market.timeframes import DURATION_S
from sep_stream.scoring import Model
from sep_stream.stores.parquet import parquet_rows

FILES: Final = ("signals.parquet", "trades.parquet", "summary.json", "report.html")
"""What a run leaves; all appear together at its end."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the report says of a run besides its numbers. trials: settings tried, this one included"""

    title: str
    source: str
    trials: int = 1
    seed: int = 1


def write_run(
    out: Path,
    history: MarketHistory,
    folds: Iterable[ScoredFold],
    parameters: BacktestParameters,
    instruments: Instruments,
    told: Told,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the folds as they come, and write FILES to a folder; the summary. Raises DependencyError where the folder
    can't be written to: what lay there before then still does."""
    gathered = _Gathered(history, parameters, instruments)
    with drafts(*(out / name for name in FILES)) as (signals, trades, summary_file, report):
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            write_signals, write_trades = (
                files.enter_context(parquet_rows(path, schema))
                for path, schema in ((signals, signal_schema()), (trades, trade_schema()))
            )
            for fold in folds:
                for part in fold.scored:
                    write_signals(signal_columns(part, fold.fold.number, parameters.model.horizon_bars))
                reported = gathered.add(fold)
                write_trades(trade_columns(fold.settled, reported, instruments, parameters.stake))
                progress(gathered.line(fold))
        data = gathered.data(told)
        numbers = summary(data)
        summary_file.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
        report.write_text(render_report(data, numbers))
    return numbers


class _Gathered:
    """What of the folds the report is made of."""

    def __init__(self, history: MarketHistory, parameters: BacktestParameters, instruments: Instruments) -> None:
        self._history, self._parameters, self._instruments = history, parameters, instruments
        self._folds: list[Fold] = []
        self._forecasts: list[npt.NDArray[np.void]] = []
        self._trades: list[npt.NDArray[np.void]] = []
        self._starts_s: list[int] = []
        self._counts: Counter[str] = Counter()

    def add(self, scored: ScoredFold) -> npt.NDArray[np.void]:
        """The fold's trades as the report takes them."""
        fold, p = scored.fold, self._parameters
        self._starts_s.append(fold.score_from_s)
        self._folds.append(_reported_fold(scored))
        for part in scored.scored:
            self._forecasts.append(forecasts(part, fold.number, p.model.horizon_bars))
            self._counts["windows"] += len(part.rows)
            self._counts["signals"] += len(part.signals)
            self._counts["signals with a direction"] += int(np.count_nonzero(part.signals.direction))
            self._counts["signals that pass their gate"] += int(np.count_nonzero(part.signals.gate_passed))
            self._counts["signals confirmed"] += int(np.count_nonzero(part.signals.confirmed))
        self._counts.update({f"not traded: {what.replace('_', ' ')}": n for what, n in scored.settled.counts.items()})
        # A trade belongs to the fold that its signal came in.
        came_in = np.searchsorted(self._starts_s, scored.settled.trades["available_at_s"], side="right") - 1
        numbers = np.array([each.number for each in self._folds], np.int32)[came_in]
        trades = reported_trades(scored.settled, numbers, self._instruments, p.settle, p.stake)
        self._trades.append(trades)
        return trades

    def line(self, scored: ScoredFold) -> str:
        """What came of a fold, for who waits."""
        signals = sum(len(part.signals) for part in scored.scored)
        return (
            f"fold {scored.fold.number}: {self._folds[-1].rows:,} rows, {signals:,} signals, "
            f"{len(scored.settled.trades):,} trades closed"
        )

    def data(self, told: Told) -> ReportData:
        p, history = self._parameters, self._history
        bars = bool(history.bars)
        return ReportData(
            title=told.title,
            source=told.source,
            synthetic=history.synthetic,
            symbols=self._instruments.symbols,
            quote_currencies=tuple(map(_quote_currency, self._instruments)),
            horizon_s=tuple(n * d for n, d in zip(p.model.horizon_bars, DURATION_S, strict=True)),
            trades=np.concatenate([np.empty(0, TRADE_DTYPE), *self._trades]),
            forecasts=np.concatenate([np.empty(0, FORECAST_DTYPE), *self._forecasts]),
            folds=tuple(self._folds),
            parameters=parameter_document(p),
            data_range_s=(history.first_s, history.last_s) if bars else None,
            counts={**history.counts, **self._counts},
            trials=told.trials,
            seed=told.seed,
        )


def _reported_fold(scored: ScoredFold) -> Fold:
    fold, model = scored.fold, scored.model
    block_rows = model.parameters.window.forward
    known = [library for library in model.libraries if len(library)]
    return Fold(
        number=fold.number,
        training_s=_training_range(model),
        cut_s=fold.cut_s,
        scored_s=(fold.score_from_s, fold.score_until_s),
        model_id=model.model_id,
        rows=sum(map(len, known)),
        blocks=sum(-(-len(library) // block_rows) for library in known),
    )


def _training_range(model: Model) -> tuple[int, int] | None:
    """First anchor and last outcome of a model's rows."""
    known = [library for library in model.libraries if len(library)]
    if not known:
        return None
    first = min(int(library.anchor_time_s[0]) for library in known)
    return first, max(int(library.outcome_at_s[-1]) for library in known)


def _quote_currency(instrument: Instrument) -> str:
    return instrument.symbol.partition("/")[2] or f"currency of {instrument.symbol}"


def parameter_document(parameters: BacktestParameters) -> Mapping[str, Any]:
    """The parameters as plain JSON."""
    p = parameters
    return {
        **p.model.document(),
        **{name: value for name, value in asdict(p.settle).items() if name != "horizon_bars"},
        "units": str(p.stake.units),
        "commission": str(p.stake.commission),
        "calibrate": p.calibrate,
        "folds": None if p.plan is None else {k: v for k, v in asdict(p.plan).items() if k != "horizon_bars"},
    }
