from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import InputError
from sep_stream.metrics import Event, event_list, event_runs


def test_each_pair_of_bits_is_its_event() -> None:
    events = event_list([0, 0, 1, 1, 0])
    assert events.tolist() == [Event.NULL, Event.FLIP, Event.RUPTURE, Event.FLIP]


def test_fewer_than_two_bits_make_no_event() -> None:
    assert len(event_list([])) == len(event_list([1])) == 0
    assert len(event_runs(event_list([]))) == 0


def test_runs_tell_state_first_event_and_length() -> None:
    runs = event_runs([0, 0, 1, 2, 2, 2, 0])
    assert runs.state.tolist() == [0, 1, 2, 0]
    assert runs.first.tolist() == [0, 2, 3, 6]
    assert runs.length.tolist() == [2, 1, 3, 1]


@given(st.lists(st.integers(0, 1), max_size=200))
def test_runs_unrolled_are_the_events(bits: list[int]) -> None:
    events = event_list(bits)
    runs = event_runs(events)
    assert np.repeat(runs.state, runs.length).tolist() == events.tolist()
    assert all(a != b for a, b in pairwise(runs.state))


@pytest.mark.parametrize("bad", [[0, 2], [-1, 0], [[0, 1], [1, 0]], [0.0, 1.0]])
def test_what_is_not_a_series_of_bits_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="bits"):
        event_list(bad)
