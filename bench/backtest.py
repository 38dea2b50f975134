"""A walk-forward backtest from the topic to the scores: `python bench/backtest.py`.

Quotes of eight instruments are read from the log, made into bars and windows, and scored in rolling folds; beside it
the same records read with `consume` and decoded with fastavro, and nothing after it. The bars alone, in memory, stand
beside those of pandas. Then ten years of M1 candles of four instruments in 20 rolling folds, in three sizes: its time
and its memory, each in a process of its own. --seconds: of the baseline, and the share of 60 that the sizes are cut by
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _bench import BASELINES, SEED, SYMBOLS, TOPOLOGY, Figure, broker, fresh_topics, main, note, publish, quotes
from log import consumed, decoded, per_second

from sep_stream.backtest.bars import MarketHistory, market_history
from sep_stream.backtest.walk import Backtest, BacktestParameters
from sep_stream.convert import MarketDataConverter
from sep_stream.history import EventLog
from sep_stream.market.events import EventBatch
from sep_stream.runtime.settings import Settings
from sep_stream.settling import SettleParameters
from sep_stream.sources.synthetic import synthetic_candles
from sep_stream.training.folds import FoldPlan

QUOTES: Final = 20_000_000
SLICE: Final = 2_000_000
"""Quotes that pandas makes bars of."""
DAY_S: Final = 86_400
QUOTE_PLAN: Final = FoldPlan(train_s=4 * DAY_S, fold_s=4 * DAY_S, mode="rolling")
YEAR_DAYS: Final = 260
"""Trading days."""
SIZES_YEARS: Final = (2.5, 5.0, 10.0)
CANDLE_SYMBOLS: Final = SYMBOLS[:4]
FOLDS: Final = 20
TRAIN_DAYS: Final = 30


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    share = min(1.0, arguments.seconds / 60)
    with broker() as (address, folder):
        settings = fresh_topics(address, folder, "bench.")
        events = publish(settings, quotes(int(QUOTES * share)))
        note(f"{events:,} quotes published")
        ours, windows, theirs = [], [], []
        for run in range(arguments.runs):
            begun_s = time.perf_counter()
            history = market_history(converter(settings), EventLog(settings, TOPOLOGY).batches())
            read_s = time.perf_counter() - begun_s
            scored = walk(history, QUOTE_PLAN)
            all_s = time.perf_counter() - begun_s
            ours.append(events / all_s)
            windows.append(scored / (all_s - read_s))
            theirs.append(per_second(lambda until_s: consumed(settings, until_s, decoded), arguments.seconds))
            note(f"run {run + 1}: read {events / read_s:,.0f}/s, to the scores {ours[-1]:,.0f}/s, "
                 f"{windows[-1]:,.0f} windows/s; consume and fastavro {theirs[-1]:,.0f}/s")  # fmt: skip
        what = "backtest: topic to bars, windows, metrics and scores"
        yield Figure.rates(what, "events/s", ours, "consume and fastavro", theirs, ">= 8x")
        yield Figure("backtest: windows scored", "windows/s", float(np.median(windows)))
    yield beside_pandas(arguments.runs, int(SLICE * share))
    for years in SIZES_YEARS:
        yield from ten_years(years * share)


def converter(settings: Settings | None = None) -> MarketDataConverter:
    return MarketDataConverter(TOPOLOGY.instruments, (settings or Settings()).convert_parameters())


def walk(history: MarketHistory, plan: FoldPlan) -> int:
    """Windows scored."""
    parameters = BacktestParameters(settle=SettleParameters(trade="gated"), plan=plan)
    tester = Backtest(TOPOLOGY.instruments, parameters, threads=os.cpu_count() or 1)
    return sum(len(part.rows) for fold in tester.walk(history, tester.folds(history)) for part in fold.scored)


def beside_pandas(runs: int, events: int) -> Figure:
    """The bars of the same quotes in memory."""
    batches = list(islice(quotes(events), max(1, events // 200_000)))
    count = sum(map(len, batches))
    with tempfile.TemporaryDirectory() as folder:
        slice_file = Path(folder) / "quotes.parquet"
        pq.write_table(table(batches), slice_file)
        ours, theirs = [], []
        for _ in range(runs):
            begun_s = time.perf_counter()
            market_history(converter(), batches)
            ours.append(count / (time.perf_counter() - begun_s))
            told = subprocess.run(
                ["uv", "run", "--quiet", "--script", str(BASELINES / "pandas_bars.py"), str(slice_file)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            theirs.append(float(told.stdout.split()[-1]))
    return Figure.rates(f"bars of {count:,} quotes in memory", "events/s", ours, "pandas", theirs, "")


def table(batches: Iterable[EventBatch]) -> pa.Table:
    events = EventBatch.concatenate(list(batches))
    tick = TOPOLOGY.instruments.tick_units[events.instrument]
    return pa.table(
        {
            "instrument": events.instrument,
            "time_us": events.event_time,
            "bid": events.bid // tick,
            "ask": events.ask // tick,
        }
    )


def ten_years(years: float) -> Iterator[Figure]:
    """The whole walk-forward backtest of so many years of candles, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--years", str(years)], capture_output=True, text=True, check=True)
    seconds, windows, mebibytes = map(float, done.stdout.split())
    what = f"walk-forward, {years:g} years of M1 candles, {len(CANDLE_SYMBOLS)} instruments, {FOLDS} folds"
    yield Figure(what, "s", seconds)
    yield Figure(f"{what}: windows", "windows/s", windows / seconds)
    yield Figure(f"{what}: peak memory", "MiB", mebibytes, target="< 4,096 MiB")


def one_size(years: float) -> None:
    """Prints seconds, windows and the peak in MiB."""
    days = max(3 * TRAIN_DAYS, int(years * YEAR_DAYS))
    begun_s = time.perf_counter()
    candles = synthetic_candles(TOPOLOGY.instruments, CANDLE_SYMBOLS, days, SEED)
    history = market_history(converter(), candles)
    windows = walk(history, FoldPlan(train_s=TRAIN_DAYS * DAY_S, fold_count=FOLDS, mode="rolling"))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(time.perf_counter() - begun_s, windows, peak_kib / 1024)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--years":
        one_size(float(sys.argv[2]))
    else:
        main(__doc__, measure)
