"""A prefix of the log gives a prefix of the outputs: nothing that comes later can change what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream.metrics import MetricsBatch, WindowParams, compute_metrics
from tests import package
from tests.convert.described import DECLARED, by_package
from tests.streams import Event, random_events
from tests.trained import PARAMS, models

COUNT = 800
Run = Callable[[Sequence[Event]], list[Any]]


def stream(seed: int) -> list[Event]:
    return random_events(seed, COUNT, models=[theirs.model_id for theirs, _ in models(0)])


def signals(events: Sequence[Event]) -> list[Any]:
    by_id = {ours.model_id: ours for _, ours in models(0)}
    return package.package_signals(events, DECLARED, WindowParams(**PARAMS), by_id)


def bars_and_windows(events: Sequence[Event]) -> list[Any]:
    """In the order of the events that gave them."""
    out = by_package(events, DECLARED)
    return sorted([*out.bars, *out.windows], key=lambda placed: placed[0])


def assert_no_look_ahead(run: Run, events: Sequence[Event], cut: int) -> None:
    early, late = run(events[:cut]), run(events)
    assert early == late[: len(early)], f"what came after event {cut} changed what was said before it"


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, COUNT))
@pytest.mark.parametrize("run", [signals, bars_and_windows])
def test_a_prefix_of_the_log_gives_a_prefix_of_the_outputs(run: Run, seed: int, cut: int) -> None:
    assert_no_look_ahead(run, stream(seed), cut)


def test_the_guard_sees_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_bar_later(bits: Any, points: Any, anchors: Any, params: WindowParams, engine: str) -> MetricsBatch:
        return compute_metrics(bits, points, np.minimum(anchors + 1, len(bits) - 1 - params.forward), params, engine)

    events = stream(seed=1)
    assert_no_look_ahead(signals, events, COUNT // 2)
    monkeypatch.setattr(package, "compute_metrics", one_bar_later)
    with pytest.raises(AssertionError, match="changed what was said"):
        assert_no_look_ahead(signals, events, COUNT // 2)
