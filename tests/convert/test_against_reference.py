"""The converter gives what the slow reference gives, whatever the stream and its batches."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.convert import ConvertParameters
from tests.convert.described import DECLARED, SHORT, by_package, by_reference, without_bars
from tests.streams import INSTRUMENTS, random_events


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("deadband", [0, 3])
def test_a_long_random_stream_gives_the_same(seed: int, deadband: int) -> None:
    events = random_events(seed, 3000)
    parameters = ConvertParameters(history=12, forward=8, deadband=deadband)
    expected = without_bars(by_reference(events, INSTRUMENTS, parameters))
    cuts = sorted(random.Random(seed).sample(range(3000), 40))
    assert by_package(events, DECLARED, parameters, cuts, restored=True) == expected
    assert {w["timeframe"] for _, w in expected.windows} == {"M1", "M5", "M15"}
    assert {reason for _, reason in expected.dead} >= {"JUMP", "MISSING_FIELD", "CROSSED", "BAD_CANDLE"}
    assert expected.late
    assert expected.duplicates


@given(st.integers(0, 2**32), st.integers(1, 250), st.sampled_from([1, 60, 3600, SHORT.max_jump_s]), st.booleans())
def test_a_short_random_stream_gives_the_same_event_by_event(
    seed: int, count: int, max_jump_s: int, restored: bool
) -> None:
    events = random_events(seed, count)
    parameters = ConvertParameters(history=12, forward=1, max_jump_s=max_jump_s)
    expected = without_bars(by_reference(events, INSTRUMENTS, parameters))
    assert by_package(events, DECLARED, parameters, range(1, count), restored) == expected
