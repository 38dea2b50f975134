"""Events and models for the worker's tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.events import NULL, EventBatch
from sep_stream.metrics import WindowParams
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.sources.synthetic import synthetic_quotes
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from tests.worker.harness import SMALL, TOPOLOGY

SYMBOLS = ("EUR/USD", "USD/JPY", "GBP/USD")
CONVERT = ConvertParameters(history=SMALL["history"], forward=SMALL["forward"])


@cache
def quotes(seed: int, trading_days: int = 1) -> EventBatch:
    """Quotes of three instruments, a few of them late: every 97th comes 40 events after its time."""
    events = EventBatch.concatenate(
        list(synthetic_quotes(TOPOLOGY.instruments, SYMBOLS, trading_days, seed, per_minute=3))
    )
    rank, sequence = np.arange(len(events), dtype=np.float64), events.sequence.copy()
    rank[::97] += 40.5
    sequence[::97] = NULL  # with one it would be a duplicate
    return replace(events, sequence=sequence).take(np.argsort(rank, kind="stable"))


def model_of(events: EventBatch, cut_s: int, matches: int = 32) -> Model:
    """Trained on what the events tell by `cut_s`. matches: only to have models that differ."""
    series = closed_bars(MarketDataConverter(TOPOLOGY.instruments, CONVERT), [events])
    window = WindowParams(SMALL["history"], SMALL["forward"], SMALL["samples"])
    return train(series, ModelParameters(window=window, matches=matches), cut_s)
