"""Events to signals: the package's core gives what the slow reference gives, whatever the stream."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache
from typing import Any

import pytest

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.decode import events_from_records
from sep_stream.metrics import WindowParams
from sep_stream.scoring import Calibration, GateParameters, Model, ModelParameters
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from tests import reference
from tests.convert.described import DECLARED
from tests.package import package_signals
from tests.streams import INSTRUMENTS, SECOND_US, random_events

PARAMS: dict[str, Any] = {"history": 12, "forward": 8, "samples": 4, "eps": 0.03, "hold": 2}
GATE = {"confidence_min": 0.5, "coherence_min": 0.05, "stability_margin_min": 0.01}
CALIBRATED = {("EUR/USD", "M1"): ((0.45, 0.5, 0.55), (0.4, 0.5, 0.7))}
COUNT = 3000
SEEDS = range(1, 5)
MATCHES, BLOCKS = 6, 4
"""Few, for libraries of small streams to speak."""


@cache
def models(seed: int) -> list[tuple[reference.Model, Model]]:
    """The same models of a stream, made by the reference and by the package."""
    events = random_events(seed, COUNT, models=())
    converter = reference.Converter(INSTRUMENTS, PARAMS["history"], PARAMS["forward"])
    bars: dict[tuple[str, str], list[reference.Bar]] = defaultdict(list)
    for event in events:
        for kind, item, *_ in converter.feed(event):
            if kind == "bar":
                bars[(item["instrument"], item["timeframe"])].append(item)
    ours = MarketDataConverter(DECLARED, ConvertParameters(PARAMS["history"], PARAMS["forward"]))
    series = closed_bars(ours, [events_from_records(DECLARED, events)])
    window, gate = WindowParams(**PARAMS), GateParameters(**GATE)
    pairs = []
    for position, knots in ((COUNT // 2, {}), (COUNT - 1, CALIBRATED)):
        cut_s = events[position]["event_time"] // SECOND_US
        theirs = reference.train(bars, PARAMS, cut_s, calibrations=knots, gate=GATE, matches=MATCHES, min_blocks=BLOCKS)
        plain = train(series, ModelParameters(window=window, matches=MATCHES, min_blocks=BLOCKS, gate=gate), cut_s)
        calibrations = {key: Calibration(*table) for key, table in knots.items()}
        pairs.append((theirs, Model(plain.parameters, plain.training_cut_s, plain.libraries, calibrations)))
    return pairs


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
