"""The random stream of the reference as a history, and its folds."""

from __future__ import annotations

from functools import cache
from typing import Any

from sep_stream.backtest.bars import MarketHistory, market_history
from sep_stream.backtest.walk import Backtest, BacktestParameters
from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import EventBatch
from sep_stream.metrics import WindowParams
from sep_stream.scoring import GateParameters, ModelParameters
from sep_stream.settling import SettleParameters
from sep_stream.training.folds import FoldPlan
from tests.convert.described import DECLARED
from tests.streams import Event, random_events
from tests.trained import BLOCKS, GATE, MATCHES, PARAMS

COUNT = 3000
SEED = 5
MODEL = ModelParameters(
    window=WindowParams(**PARAMS), matches=MATCHES, min_blocks=BLOCKS, gate=GateParameters(**GATE)
)  # fmt: skip
DAY_S = 86_400


@cache
def stream() -> tuple[Event, ...]:
    return tuple(random_events(SEED, COUNT, models=()))


def batches(size: int = 701) -> list[EventBatch]:
    events = events_from_records(DECLARED, stream())
    return [events.take(slice(start, start + size)) for start in range(0, COUNT, size)]


def history(parts: Any = None) -> MarketHistory:
    converter = MarketDataConverter(DECLARED, ConvertParameters(PARAMS["history"], PARAMS["forward"]))
    return market_history(converter, batches() if parts is None else parts)


def plan(mode: str = "expanding", count: int = 3) -> FoldPlan:
    whole = history()
    return FoldPlan(train_s=(whole.last_s - whole.first_s) // 3, fold_count=count, mode=mode)


def parameters(mode: str = "expanding", count: int = 3, trade: str = "all", calibrate: bool = False) -> Any:
    return BacktestParameters(
        MODEL, SettleParameters(trade, max_open=2, slippage=1), plan=plan(mode, count), calibrate=calibrate
    )


def made(given: BacktestParameters, threads: int = 1) -> Backtest:
    return Backtest(DECLARED, given, threads=threads)
