from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError
from sep_stream.training import Fold, FoldPlan, embargo_s_min
from sep_stream.training.folds import DAY_S, FOLDS_MAX, MINUTE_S

HOUR_S = 3600
MONDAY_S = 1_707_091_200  # 2024-02-05T00:00:00Z

lengths = st.one_of(
    st.builds(lambda minutes: {"fold_s": minutes * MINUTE_S}, st.integers(60, 20_000)),
    st.builds(lambda days: {"fold_s": days * DAY_S}, st.integers(1, 20)),
    st.builds(lambda count: {"fold_count": count}, st.integers(1, 40)),
)
plans = st.builds(
    lambda length, **values: FoldPlan(**length, **values),
    lengths,
    train_s=st.integers(1, 40 * DAY_S),
    mode=st.sampled_from(["expanding", "rolling"]),
    embargo_s=st.integers(embargo_s_min(), 2 * DAY_S),
)
ranges = st.tuples(st.integers(0, 2_000_000_000), st.integers(0, 300 * DAY_S)).map(lambda r: (r[0], r[0] + r[1]))


def folds_of(plan: FoldPlan, first_s: int, last_s: int) -> tuple[Fold, ...]:
    try:
        return plan.folds(first_s, last_s)
    except ConfigurationError:
        return ()


@given(plans, ranges)
def test_scored_stretches_follow_each_other_up_to_the_end(plan: FoldPlan, span: tuple[int, int]) -> None:
    first_s, last_s = span
    folds = folds_of(plan, first_s, last_s)
    if not folds:
        return
    assert [fold.number for fold in folds] == list(range(1, len(folds) + 1))
    assert all(a.score_until_s == b.score_from_s for a, b in pairwise(folds))
    assert folds[0].score_from_s >= first_s + plan.train_s + plan.embargo_s
    assert folds[-1].score_from_s <= last_s < folds[-1].score_until_s


@given(plans, ranges)
def test_each_fold_trains_on_enough_of_what_lies_the_embargo_before_it(plan: FoldPlan, span: tuple[int, int]) -> None:
    for fold in folds_of(plan, *span):
        assert fold.cut_s == fold.score_from_s - plan.embargo_s
        assert fold.cut_s - span[0] >= plan.train_s
        if plan.mode == "expanding":
            assert fold.train_from_s is None
        else:
            assert fold.train_from_s == fold.cut_s - plan.train_s >= span[0]


@given(plans, ranges)
def test_borders_are_whole_days_where_the_length_is_and_whole_minutes_else(
    plan: FoldPlan, span: tuple[int, int]
) -> None:
    folds = folds_of(plan, *span)
    unit_s = DAY_S if plan.fold_s is not None and plan.fold_s % DAY_S == 0 else MINUTE_S
    assert all(border % unit_s == 0 for fold in folds for border in (fold.score_from_s, fold.score_until_s))
    lengths_s = [fold.score_until_s - fold.score_from_s for fold in folds]
    if plan.fold_s is not None:
        assert all(length_s == plan.fold_s for length_s in lengths_s[:-1])
        assert all(0 < length_s <= plan.fold_s for length_s in lengths_s[-1:])
    elif folds:
        assert len(folds) == plan.fold_count
        assert max(lengths_s) - min(lengths_s) <= MINUTE_S


@given(plans, ranges)
def test_more_data_only_adds_folds_of_a_given_length(plan: FoldPlan, span: tuple[int, int]) -> None:
    folds = folds_of(plan, *span)
    if plan.fold_s is None or not 0 < len(folds) < FOLDS_MAX:
        return
    longer = folds_of(plan, span[0], span[1] + plan.fold_s // 2)
    assert longer[: len(folds) - 1] == folds[:-1]


@given(plans, ranges, st.lists(st.integers(0, 300 * DAY_S), max_size=30))
def test_each_window_is_scored_by_one_fold_that_was_trained_before_it(
    plan: FoldPlan, span: tuple[int, int], after_s: list[int]
) -> None:
    available_at_s = np.unique([min(span[0] + s, span[1]) for s in after_s]).astype(np.int64)
    scored: list[int] = []
    for fold in folds_of(plan, *span):
        times = available_at_s[fold.rows(available_at_s)].tolist()
        assert all(fold.cut_s < time for time in times)
        scored += times
    folds = folds_of(plan, *span)
    begin = folds[0].score_from_s if folds else span[1] + 1
    assert scored == [time for time in available_at_s.tolist() if time >= begin]


def test_an_example_by_hand() -> None:
    plan = FoldPlan(train_s=2 * DAY_S, fold_s=DAY_S, mode="rolling", embargo_s=HOUR_S)
    first_s = MONDAY_S + 22 * HOUR_S  # so training is complete on Wednesday 23:00, scoring begins on Thursday
    thursday_s = MONDAY_S + 3 * DAY_S
    assert plan.folds(first_s, thursday_s + DAY_S + 5) == (
        Fold(1, thursday_s - HOUR_S - 2 * DAY_S, thursday_s - HOUR_S, thursday_s, thursday_s + DAY_S),
        Fold(2, thursday_s - HOUR_S - DAY_S, thursday_s - HOUR_S + DAY_S, thursday_s + DAY_S, thursday_s + 2 * DAY_S),
    )


def test_a_window_on_a_border_belongs_to_the_later_fold() -> None:
    plan = FoldPlan(train_s=DAY_S, fold_count=2)
    early, late = plan.folds(MONDAY_S, MONDAY_S + 3 * DAY_S)
    available_at_s = np.array([early.score_until_s - 60, early.score_until_s], np.int64)
    assert early.rows(available_at_s) == slice(0, 1)
    assert late.rows(available_at_s) == slice(1, 2)


@given(plans, st.integers(0, 2_000_000_000))
def test_a_range_too_short_is_told_what_it_needs(plan: FoldPlan, first_s: int) -> None:
    with pytest.raises(ConfigurationError, match=r"^folds: .* is too short: .* need bars until ") as caught:
        plan.folds(first_s, first_s)
    needed = np.datetime64(str(caught.value).rpartition(" ")[2].removesuffix("Z"), "s").astype(np.int64)
    assert plan.folds(first_s, int(needed))
    with pytest.raises(ConfigurationError, match="too short"):
        plan.folds(first_s, int(needed) - 1)


def test_more_folds_than_the_bound_are_refused_with_the_length_that_would_do() -> None:
    span = (0, DAY_S * (FOLDS_MAX + 3))
    with pytest.raises(ConfigurationError, match=r"folds fold_s: 3600 s .* at least (\d+) s") as caught:
        FoldPlan(train_s=DAY_S, fold_s=HOUR_S).folds(*span)
    least_s = int(str(caught.value).split()[-2])
    assert len(FoldPlan(train_s=DAY_S, fold_s=least_s).folds(*span)) <= FOLDS_MAX


def test_the_embargo_is_no_shorter_than_the_longest_horizon_in_time() -> None:
    assert embargo_s_min() == FoldPlan(train_s=DAY_S, fold_s=DAY_S).embargo_s == 1800
    assert embargo_s_min((10, 3, 4)) == 3600
    assert FoldPlan(train_s=DAY_S, fold_s=DAY_S, horizon_bars=(1, 1, 1), embargo_s=900).embargo_s == 900


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embargo_s": 1799}, "embargo_s: expected at least 1800 s, the longest horizon, got 1799"),
        ({"horizon_bars": (30, 6, 3)}, "embargo_s: expected at least 2700 s"),
        ({"horizon_bars": (30, 6)}, "horizon_bars: expected 3"),
        ({"mode": "sliding"}, "mode: expected one of expanding, rolling, got sliding"),
        ({"train_s": 0}, "train_s: expected seconds above 0"),
        ({"fold_s": 90}, "fold_s: expected whole minutes"),
        ({"fold_s": 0}, "fold_s: expected whole minutes"),
        ({"fold_count": 3}, "fold_s and fold_count: expected one of them"),
        ({"fold_s": None}, "fold_s and fold_count: expected one of them"),
        ({"fold_s": None, "fold_count": 0}, "fold_count: expected 1 to 1000"),
        ({"fold_s": None, "fold_count": FOLDS_MAX + 1}, "fold_count: expected 1 to 1000"),
    ],
)
def test_a_plan_outside_the_rules_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^folds {message}"):
        FoldPlan(**{"train_s": DAY_S, "fold_s": DAY_S, **changes})


@pytest.mark.parametrize("times", [(1, 5, 4, 6, 7), (1, None, 7, 6, 8), (1, None, 4, 6, 6), (0, None, 4, 5, 6)])
def test_a_fold_with_times_out_of_order_is_refused(times: tuple[int, int | None, int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match="fold: expected"):
        Fold(*times)
