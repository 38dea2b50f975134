from __future__ import annotations

from typing import Any

import pytest

from sep_stream.errors import ConfigurationError
from sep_stream.metrics import HORIZON_BARS, WindowParams


def test_defaults_are_those_of_the_contract() -> None:
    p = WindowParams()
    assert (p.history, p.forward, p.samples, p.eps, p.hold) == (64, 64, 16, 0.002, 4)
    assert HORIZON_BARS == (30, 6, 2)
    assert (p.window_bars, p.events, p.stride, p.path_values, p.probes) == (128, 127, 4, 48, 14)


@pytest.mark.parametrize(("history", "probes"), [(12, 1), (13, 2), (16, 2), (17, 3), (64, 14)])
def test_probes_stand_at_every_fourth_bit_from_the_eighth(history: int, probes: int) -> None:
    assert WindowParams(history=history).probes == probes


@pytest.mark.parametrize(
    "bad",
    [
        {"history": 11},
        {"history": 64.0},
        {"history": True},
        {"history": 2**20},
        {"forward": 0, "hold": 1, "samples": 1},
        {"forward": 3, "samples": 1},
        {"forward": 2**20},
        {"hold": 0},
        {"samples": 0},
        {"samples": 7},
        {"eps": 0.0},
        {"eps": -1.0},
        {"eps": float("nan")},
        {"eps": float("inf")},
    ],
)
def test_values_outside_the_contract_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        WindowParams(**bad)
