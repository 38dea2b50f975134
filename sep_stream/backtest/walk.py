"""`Backtest`: score what came next by what was known before, stretch by stretch, and trade on it on paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bars import InstrumentBars, MarketHistory
from sep_stream.backtest.scored import ModelOf, Scored, scored
from sep_stream.errors import InputError
from sep_stream.market.instruments import Instruments
from sep_stream.market.timeframes import DURATION_S
from sep_stream.metrics import Engine
from sep_stream.runtime.ahead import ahead
from sep_stream.scoring import Model, ModelParameters
from sep_stream.settling import Settled, SettleParameters, Settler, Stake
from sep_stream.settling.machine import TRADE_DTYPE
from sep_stream.training.calibrate import calibrated
from sep_stream.training.folds import Fold, FoldPlan
from sep_stream.training.series import ClosedBars
from sep_stream.training.train import train


@dataclass(frozen=True, slots=True)
class BacktestParameters:
    """What a backtest's result depends on besides the events. plan: None with a model that is given"""

    model: ModelParameters = field(default_factory=ModelParameters)
    settle: SettleParameters = field(default_factory=SettleParameters)
    stake: Stake = field(default_factory=Stake)
    plan: FoldPlan | None = None
    calibrate: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class ScoredFold:
    """A stretch of time, the model that scored it, and what it said: instrument by instrument, each in log order.

    trades: closed within the stretch, also of signals before it
    """

    fold: Fold
    model: Model
    scored: tuple[Scored, ...]
    settled: Settled


class Backtest:
    """Walks through a history. A window belongs to the fold in whose stretch it ended: `available_at` decides.

    instruments: of the deployment · threads: instruments scored at once; they change nothing but the time it takes
    """

    def __init__(
        self, instruments: Instruments, parameters: BacktestParameters, engine: str | Engine = "auto", threads: int = 1
    ) -> None:
        self._instruments, self._parameters, self._engine, self._threads = instruments, parameters, engine, threads

    def folds(self, history: MarketHistory) -> tuple[Fold, ...]:
        """The folds of a history by the plan. Raises ConfigurationError where it is too short."""
        if not history.bars:
            raise InputError("the range holds no bar: there is nothing to test on")
        if self._parameters.plan is None:
            raise InputError("a walk-forward backtest needs a plan of its folds")
        return self._parameters.plan.folds(history.first_s, history.last_s)

    def walk(self, history: MarketHistory, folds: Sequence[Fold]) -> Iterator[ScoredFold]:
        """Train, score and settle fold by fold; what a fold's model knows ends at its cut."""
        series, settler = history.series, Settler(self._instruments, self._parameters.settle)
        trained = (self._trained(series, fold) for fold in folds)
        models: list[Model] = []
        for fold, model in zip(folds, ahead(trained), strict=True):
            models = [*models[-1:], model]
            yield self._scored(history, fold, models, settler)

    def _trained(self, series: Mapping[tuple[str, str], ClosedBars], fold: Fold) -> Model:
        model = train(series, self._parameters.model, fold.cut_s, self._engine, fold.train_from_s)
        return calibrated(model, self._engine) if self._parameters.calibrate else model

    def with_model(self, history: MarketHistory, model: Model) -> Iterator[ScoredFold]:
        """Score all that ended at or after a model's training cut by it: what came before, it knew."""
        fold = Fold(1, None, model.training_cut_s, model.training_cut_s, max(history.last_s, model.training_cut_s) + 1)
        yield self._scored(history, fold, [model], Settler(self._instruments, self._parameters.settle))

    def _scored(self, history: MarketHistory, fold: Fold, models: Sequence[Model], settler: Settler) -> ScoredFold:
        def of(bars: InstrumentBars) -> list[Scored]:
            ends = bars.end_s
            rows = np.flatnonzero((ends >= fold.score_from_s) & (ends < fold.score_until_s))
            params = self._parameters.model.window
            return list(
                scored(bars, rows, models, _in_force(bars, fold, len(models)), history.symbols, params, self._engine)
            )

        with ThreadPoolExecutor(self._threads) as pool:
            parts = tuple(part for found in pool.map(of, history.bars) for part in found)
        return ScoredFold(fold, models[-1], parts, settle(settler, parts))


def _in_force(bars: InstrumentBars, fold: Fold, models: int) -> ModelOf:
    """The fold's model for bars that end in it, the one before it for older ones."""

    def model_of(timeframe: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        ends = bars.lanes[timeframe].open_time_s[index] + DURATION_S[timeframe]
        return np.where(ends >= fold.score_from_s, models - 1, models - 2).astype(np.int32)

    return model_of


def settle(settler: Settler, parts: Sequence[Scored]) -> Settled:
    """What the signals of some stretches end, those of an instrument in log order."""
    trades, counts = [], Counter[str]()
    models: tuple[str, ...] = ()
    for part in parts:
        settled = settler.feed(part.settled_by())
        trades.append(settled.trades)
        counts.update(settled.counts)
        models = settled.models
    return Settled(np.concatenate([np.empty(0, TRADE_DTYPE), *trades]), models, dict(counts))
