from __future__ import annotations

import numpy as np
import pytest

from sep_stream.errors import ModelError
from sep_stream.metrics import MetricsBatch
from sep_stream.scoring import GATE_REASONS, GateParameters, gate_reasons
from sep_stream.scoring.gate import gate_failures


def sound(n: int = 1) -> MetricsBatch:
    """Metrics that pass every test of the gate."""
    batch = MetricsBatch.zeros(n, 1)
    batch.damped[:] = (0.5, 0.2, 0.8)
    batch.converged[:] = True
    return batch


def reasons(batch: MetricsBatch, confidence: float = 0.7) -> tuple[str, ...]:
    return gate_reasons(int(gate_failures(batch, np.array([confidence]), GateParameters())[0]))


def test_sound_metrics_pass() -> None:
    assert reasons(sound()) == ()


def test_limits_themselves_pass() -> None:
    batch = sound()
    batch.damped[0, 1] = 0.10
    assert reasons(batch, 0.60) == ()


def test_stability_is_compared_in_float64() -> None:
    batch = sound(2)
    batch.damped[:, 2] = (0.45, 0.55)
    mask = gate_failures(batch, np.array([0.7, 0.7]), GateParameters())
    assert [gate_reasons(m) for m in mask.tolist()] == [("stability",), ()]


def test_every_reason_is_told_in_the_order_of_the_contract() -> None:
    batch = sound()
    batch.damped[0] = (0.5, 0.05, 0.5)
    batch.converged[:] = False
    batch.rupture_collapse[:] = True
    batch.qbsa_collapse[:] = True
    assert reasons(batch, 0.5) == GATE_REASONS
    assert GATE_REASONS == ("confidence", "coherence", "stability", "converged", "rupture_collapse", "qbsa_collapse")


@pytest.mark.parametrize("name", ["converged", "rupture_collapse", "qbsa_collapse"])
def test_each_flag_fails_alone(name: str) -> None:
    batch = sound()
    getattr(batch, name)[:] = name != "converged"
    assert reasons(batch) == (name,)


def test_thresholds_are_the_models_own() -> None:
    gate = GateParameters(confidence_min=0.9, coherence_min=0.3, stability_margin_min=0.4)
    mask = gate_failures(sound(), np.array([0.7]), gate)
    assert gate_reasons(int(mask[0])) == ("confidence", "coherence", "stability")


def test_thresholds_are_finite_numbers() -> None:
    with pytest.raises(ModelError, match="coherence_min"):
        GateParameters(coherence_min=float("nan"))
