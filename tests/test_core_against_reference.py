"""Events to signals: the package's core gives what the slow reference gives, whatever the stream."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from sep_stream.metrics import WindowParams
from tests import reference
from tests.convert.described import DECLARED
from tests.package import package_signals
from tests.streams import INSTRUMENTS, random_events
from tests.trained import COUNT, PARAMS, models

SEEDS = range(1, 5)


def test_training_on_a_random_stream_gives_the_same_models() -> None:
    for theirs, ours in models(0):
        assert ours.document() == theirs.document()
        assert ours.model_id == theirs.model_id


@cache
def signals_of(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of the reference, and of the package in batches."""
    pairs = models(0)
    events = random_events(seed, COUNT, models=[theirs.model_id for theirs, _ in pairs])
    pipeline = reference.Pipeline(INSTRUMENTS, PARAMS, {theirs.model_id: theirs for theirs, _ in pairs})
    for event in events:
        pipeline.feed(event)
    cuts = sorted(random.Random(seed).sample(range(COUNT), 12))
    ours_by_id = {ours.model_id: ours for _, ours in pairs}
    return pipeline.signals, package_signals(events, DECLARED, WindowParams(**PARAMS), ours_by_id, cuts)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_stream_gives_the_same_signals(seed: int) -> None:
    expected, found = signals_of(seed)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timeframe", {"M1", "M5", "M15"}),
        ("direction", {"BUY", "SELL", "HOLD"}),
        ("reason", {None, "library", "weight"}),
        ("gate_passed", {True, False}),
        ("confirmed", {True, False}),
    ],
)
def test_the_streams_try_every_outcome(name: str, values: set[Any]) -> None:
    assert {signal[name] for seed in SEEDS for signal in signals_of(seed)[0]} == values


def test_the_streams_try_longer_scores_that_are_missing_or_stale() -> None:
    minutes = [signal for seed in SEEDS for signal in signals_of(seed)[0] if signal["timeframe"] == "M1"]
    for name in ("m5_signal_id", "m15_signal_id"):
        assert {signal[name] is None for signal in minutes} == {True, False}
