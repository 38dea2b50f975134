"""Models of a random stream, each made by the reference and by the package."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.decode import events_from_records
from sep_stream.metrics import WindowParams
from sep_stream.scoring import Calibration, GateParameters, Model, ModelParameters
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from tests import reference
from tests.convert.described import DECLARED
from tests.streams import INSTRUMENTS, SECOND_US, random_events

PARAMS: dict[str, Any] = {"history": 12, "forward": 8, "samples": 4, "eps": 0.03, "hold": 2}
GATE = {"confidence_min": 0.5, "coherence_min": 0.05, "stability_margin_min": 0.01}
CALIBRATED = {("EUR/USD", "M1"): ((0.45, 0.5, 0.55), (0.4, 0.5, 0.7))}
COUNT = 3000
MATCHES, BLOCKS = 6, 4
"""Few, for libraries of small streams to speak."""


@cache
def models(seed: int) -> list[tuple[reference.Model, Model]]:
    """Two models of the stream of a seed: (the reference's, the package's)."""
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
