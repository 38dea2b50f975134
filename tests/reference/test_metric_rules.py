"""The rules for the metrics of a window at their edges, worked out by hand; asked of the reference and every engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from sep_stream.metrics import WindowParams, compute_metrics, cpu, cpu_scalar
from sep_stream.metrics import reference as engine
from sep_stream.metrics.tables import tables
from tests.package import metrics_row
from tests.reference import metrics as reference
from tests.reference.metrics import clamp, decay, m_log2_m, one_over_n_log2_3, quantum, trajectory

PARAMS: dict[str, Any] = {"history": 12, "forward": 4, "samples": 2, "eps": 0.002, "hold": 4}
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(params=["oracle", "reference", "scalar", "lanes"])
def measure(request: pytest.FixtureRequest) -> Measure:
    """The metrics of one window; by default its price stays where it is."""

    def by(bits: Sequence[int], prices: Sequence[int] | None = None, **changes: Any) -> dict[str, Any]:
        params = {**PARAMS, **changes}
        prices = prices or [100_000] * (params["forward"] + 1)
        if request.param == "oracle":
            return reference(bits, prices, params)
        points = np.array([0] * (params["history"] - 1) + list(prices), np.int32)
        name = "reference" if request.param == "reference" else "cpu"
        run_min = 1 if request.param == "lanes" else 2
        with patch.object(cpu, "RUN_MIN", run_min):
            batch = compute_metrics(
                np.array(bits, np.uint8), points, [params["history"] - 1], WindowParams(**params), name
            )
        return metrics_row(batch, 0)

    return by


def unclamped_entropy(n0: int, n1: int, n2: int) -> float:
    n = n0 + n1 + n2
    return (m_log2_m(n) - ((m_log2_m(n0) + m_log2_m(n1)) + m_log2_m(n2))) * one_over_n_log2_3(n)


# entropy, coherence, lambda: the ends of their ranges


def test_events_all_alike_have_the_least_entropy_and_the_greatest_coherence(measure: Measure) -> None:
    assert unclamped_entropy(11, 0, 0) == 0.0
    assert 1.1 * (0.6 * 0.95 + 0.33 + 0.21) ** 2 > 1.0
    found = measure([0] * 16)
    assert found["initial"] == [0.05, 1.0, 1.0]
    assert found["lam"] == 0.3 * 0.05 + 0.2 * 0.0


def test_ruptures_alone_have_the_least_entropy_and_no_stability(measure: Measure) -> None:
    raw = (0.6 * (1 - 0.05) + 0.33 * (1 - 1.0)) + 0.21 * (1 - 0.0)
    assert measure([1] * 16)["initial"] == [0.05, 1.1 * (raw * raw), 0.0]


def test_equal_thirds_have_an_entropy_of_at_most_one(measure: Measure) -> None:
    """Of 18 events the sums give a last bit too much."""
    bits = [*[0] * 7, *[1] * 7, 0, 1, 0, 1, 0]
    events = [a + b for a, b in pairwise(bits)]
    assert [events.count(event) for event in range(3)] == [6, 6, 6]
    assert unclamped_entropy(6, 6, 6) > 1.0
    assert measure([*bits, 1, 1, 1, 1], history=19)["initial"][0] == 1.0


def test_every_mix_of_events_has_the_same_metrics_in_the_reference_and_in_compiled_code() -> None:
    events = (11, 12, 18, 63, 64, 127)
    table = tables(max(events))
    for n in events:
        for n1 in range(n + 1):
            for n2 in range(n - n1 + 1):
                expected = quantum(n - n1 - n2, n1, n2)
                assert cpu_scalar.measure(n1, n2, n, table.t, float(table.r[n]), float(table.i[n])) == expected


def test_no_mix_of_events_reaches_the_ends_of_lambda_or_the_lower_end_of_coherence() -> None:
    """They are guards: lambda lies between 0.015 and 0.4722, C above 0.1298."""
    for n in (11, 63, 127):
        mixes = [quantum(n - n1 - n2, n1, n2) for n1 in range(n + 1) for n2 in range(n - n1 + 1)]
        assert min(c for _, c, _ in mixes) > 0.1298
        lambdas = [0.3 * h + 0.2 * (1 - c) for h, c, _ in mixes]
        assert min(lambdas) == 0.015
        assert max(lambdas) < 0.4722


def test_the_guards_hold_lambda_between_a_hundredth_and_one() -> None:
    assert [cpu_scalar.clamp_lambda(h, c) for h, c in ((0.0, 1.0), (0.03, 1.0), (4.0, 0.0))] == [0.01, 0.01, 1.0]
    for of in (clamp, engine.clamp):
        assert [of(value, 0.01, 1.0) for value in (0.0, 0.01, 0.5, 1.0, 1.5)] == [0.01, 0.01, 0.5, 1.0, 1.0]


# damping


def test_a_window_settles_at_the_last_of_the_steps_that_hold(measure: Measure) -> None:
    for hold in (1, 3, 4):
        found = measure([0] * 16, hold=hold)
        assert (found["settled_at"], found["converged"]) == (hold, True)


def steps_of(bits: Sequence[int]) -> list[float]:
    steps, _ = trajectory(bits, PARAMS["history"])
    return [max(abs(a - b) for a, b in zip(now, last, strict=True)) for last, now in pairwise(steps)]


MOVING = [0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0]


def test_a_step_as_large_as_eps_does_not_hold(measure: Measure) -> None:
    least = min(steps_of(MOVING))
    found = measure(MOVING, eps=least, hold=1)
    assert (found["settled_at"], found["converged"]) == (4, False)
    found = measure(MOVING, eps=math.nextafter(least, 1), hold=1)
    assert (found["settled_at"], found["converged"]) == (steps_of(MOVING).index(least) + 1, True)


def test_a_window_that_never_holds_is_settled_at_its_end_unconverged(measure: Measure) -> None:
    found = measure(MOVING, eps=1e-9, hold=1)
    steps, _ = trajectory(MOVING, PARAMS["history"])
    assert (found["settled_at"], found["converged"], found["damped"]) == (4, False, list(steps[-1]))


def test_one_large_step_begins_the_count_anew(measure: Measure) -> None:
    bits = [0] * 14 + [1] + [0] * 9
    steps = [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairwise(trajectory(bits, 12)[0])]
    assert [step < 0.0038 for step in steps] == [True] * 3 + [False] * 3 + [True] * 6
    found = measure(bits, forward=12, samples=3, hold=4, eps=0.0038)
    assert (found["settled_at"], found["converged"]) == (10, True)


def test_the_path_goes_on_to_the_end_after_a_window_has_settled(measure: Measure) -> None:
    bits = [0] * 16 + [1] * 4
    found = measure(bits, forward=8)
    steps, _ = trajectory(bits, 12)
    assert (found["settled_at"], found["damped"]) == (4, [0.05, 1.0, 1.0])
    assert found["path"] == [float(np.float32(value)) for s in (4, 8) for value in steps[s]]
    assert found["path"][3:] != found["path"][:3]


def test_the_potential_is_the_decayed_sum_of_moves_from_the_anchor(measure: Measure) -> None:
    found = measure([0] * 14, [100, 107, 90], forward=2, samples=1, hold=1)
    x = decay(0.015)
    assert found["potential"] == ((0.0 + -10.0) * x + 7.0) * x


# collapses


@pytest.mark.parametrize(("ones", "ruptures"), [(9, 8), (8, 7)])
def test_ruptures_of_half_the_whole_window_are_a_collapse(measure: Measure, ones: int, ruptures: int) -> None:
    found = measure([1] * ones + [0] * (17 - ones), history=13)
    assert found["counts"] == [15 - ruptures, 1, ruptures]
    assert found["rupture_collapse"] == (ruptures == 8)


@pytest.mark.parametrize(("ones", "last"), [*((n, 0) for n in range(8)), *((n, 1) for n in range(1, 9))])
@pytest.mark.parametrize("probe", [0, 1])
def test_six_of_eight_expect_one_two_expect_zero_and_others_the_last_bit(
    measure: Measure, ones: int, last: int, probe: int
) -> None:
    before = [1] * (ones - last) + [0] * (7 - ones + last) + [last]
    expected = 1 if ones >= 6 else 0 if ones <= 2 else last
    found = measure([*before, probe, *[0] * 7])
    assert (found["probes"], found["corrections"]) == (1, int(probe != expected))


@pytest.mark.parametrize(("wrong", "collapse"), [((8, 12, 16), True), ((8, 12), False)])
def test_three_corrections_in_five_are_a_collapse(measure: Measure, wrong: tuple[int, ...], collapse: bool) -> None:
    found = measure([int(t in wrong) for t in range(32)], history=28)
    assert (found["probes"], found["corrections"], found["qbsa_collapse"]) == (5, len(wrong), collapse)


def test_probes_look_at_the_history_alone(measure: Measure) -> None:
    assert measure([0] * 12 + [1, 0, 1, 0])["corrections"] == 0
