"""The sentence at the top of the report."""

from __future__ import annotations

from typing import Any

import pytest

from sep_stream.backtest.notation import MINUS, TIED
from sep_stream.backtest.verdict import verdict


def evidence(mean: float, p_value: float | None, deflated: float | None = None) -> dict[str, Any]:
    low, high = (None, None) if p_value is None else (mean - 0.5, mean + 0.5)
    return {"mean": mean, "low": low, "high": high, "p_value": p_value, "deflated_sharpe": deflated}


@pytest.mark.parametrize(
    ("net", "gross", "outcome", "told"),
    [
        (evidence(1.0, None), evidence(2.0, None), "too_few", False),
        (evidence(0.1, 0.4, 0.6), evidence(1.1, 0.04, 0.9), "chance", False),
        (evidence(-0.1, 0.4, 0.4), evidence(0.9, 0.04, 0.9), "chance", False),
        (evidence(2.0, 0.0005, 0.99), evidence(3.0, 0.0005, 0.999), "gain", True),
        (evidence(2.0, 0.02, 0.70), evidence(3.0, 0.001, 0.99), "best_of_trials", False),
        (evidence(-1.0, 0.001, 0.01), evidence(0.0, 0.9, 0.5), "chance", False),
        (evidence(-1.0, 0.001, 0.01), evidence(-0.8, 0.01, 0.01), "loss", True),
        (evidence(-1.0, 0.001, 0.01), evidence(0.4, 0.01, 0.97), "costs", True),
        (evidence(-1.0, 0.001, 0.01), evidence(0.4, 0.01, 0.90), "costs", False),
    ],
)
def test_the_evidence_decides(net: dict[str, Any], gross: dict[str, Any], outcome: str, told: bool) -> None:
    found = verdict(1234, net, gross, 12)
    assert (found.outcome, found.told_from_chance) == (outcome, told)
    assert found.sentence.count(".") >= 1
    assert "1,234 trades" in found.sentence
    assert "12 trials tried" in found.sentence


def test_a_gain_that_deflation_leaves_needs_both() -> None:
    told = verdict(100, evidence(2.0, 0.05, 0.99), evidence(2.5, 0.001, 0.99), 1)
    assert told.outcome == "chance"
    assert "1 trial tried" in told.sentence


def test_without_trades_there_is_nothing_to_tell() -> None:
    found = verdict(0, evidence(0, None) | {"mean": None}, evidence(0, None) | {"mean": None}, 1)
    assert found.outcome == "nothing"


def test_the_sentence_is_one_that_can_be_read() -> None:
    found = verdict(1, evidence(-0.25, 0.3), evidence(0.75, 0.2), 2000)
    assert found.sentence == (
        f"This result cannot be told from chance: 1 trade earned {MINUS}0.25 bp each on average after costs "
        f"(95 %: {MINUS}0.75 to +0.25, p{TIED}={TIED}0.300), with 2,000 trials tried."
    )
