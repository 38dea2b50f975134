"""Events, models and what happens to the log in the worker's tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.events import NULL, EventBatch
from sep_stream.metrics import WindowParams
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.sources.synthetic import synthetic_quotes
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from tests.worker.harness import OUTPUTS, SMALL, TOPOLOGY, Records, pieces, publish, put_in_force, records

SEED = 11
STEPS = 6
PIECES = 5
SYMBOLS = ("EUR/USD", "USD/JPY", "AUD/USD")
"""Two of one partition, and one whose partition another member of a group of two gets."""
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


Step = list[Callable[[], None]]


def steps(settings: Settings, seed: int, count: int) -> list[Step]:
    """What happens to the log, in `count` steps of small pieces; on the way two models are put in force."""
    parts = pieces(quotes(seed), count)

    def publishing(part: EventBatch) -> Step:
        return [partial(publish, settings, piece) for piece in pieces(part, PIECES)]

    def activation(step: int, matches: int) -> Callable[[], None]:
        at_s = int(parts[step].event_time[0]) // 1_000_000
        return lambda: put_in_force(settings, model_of(quotes(seed), at_s, matches), SYMBOLS, at_s)

    result = [publishing(part) for part in parts]
    for step, matches in ((1, 32), (count // 2, 16)):
        result[step].insert(PIECES // 2, activation(step, matches))
    return result


def play(log: list[Step]) -> None:
    for step in log:
        for act in step:
            act()


def play_all(settings: Settings, seed: int, count: int) -> None:
    play(steps(settings, seed, count))


def comparable(settings: Settings) -> Records:
    """The records; those of `late` without the name of the topic they came from, which differs between runs."""
    found = records(settings)
    own = settings.prefix.encode()
    found["late"] = Counter({(key, value.split(own)[-1]): n for (key, value), n in found["late"].items()})
    return found


def assert_same_events_gave_the_same(settings: Settings, expected: Records, repeats: bool = False) -> None:
    """Where other records lie between the events: `late` is compared without offsets, `dead.letters` not at all.

    repeats: records may be there more than once
    """
    found = comparable(settings)
    found["late"], late = _without_places(found["late"]), _without_places(expected["late"])
    for topic in OUTPUTS:
        if topic != "dead.letters":
            wanted = late if topic == "late" else expected[topic]
            assert (set(found[topic]) if repeats else found[topic]) == (set(wanted) if repeats else wanted), topic


def _without_places(late: Counter[tuple[bytes, bytes]]) -> Counter[tuple[bytes, bytes]]:
    """The end of each record, from behind topic, partition and offset on: the event's key and value."""
    places = re.compile(rb"market\.events(?:[\x80-\xff]*[\x00-\x7f]){2}", re.DOTALL)  # two varints
    return Counter({(key, places.sub(b"", value, count=1)): n for (key, value), n in late.items()})
