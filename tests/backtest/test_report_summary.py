"""The headline numbers of a backtest."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from sep_stream.backtest.results import ReportData
from sep_stream.backtest.summary import summary
from tests.backtest.made_results import COST_POINTS, made_up
from tests.backtest.odd_results import ODD_DATA, first


@cache
def chance() -> tuple[ReportData, dict[str, Any]]:
    data = made_up()
    return data, summary(data)


@pytest.mark.parametrize("name", ODD_DATA)
def test_the_numbers_of_odd_data_are_plain_json(name: str) -> None:
    found = summary(ODD_DATA[name]())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_numbers_are_plain_json_with_no_number_missing() -> None:
    found = chance()[1]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(found["headline"][name]["p_value"] is not None for name in ("net_bp", "gross_bp"))


def test_equal_data_in_another_order_give_equal_numbers() -> None:
    data, found = chance()
    rng = np.random.default_rng(1)
    shuffled = replace(data, trades=rng.permutation(data.trades), forecasts=rng.permutation(data.forecasts))
    assert json.dumps(summary(shuffled)) == json.dumps(found)


def test_no_edge_is_not_told_from_chance() -> None:
    assert not any(summary(made_up(seed=seed, days=2))["verdict"]["told_from_chance"] for seed in range(3))


def test_a_strong_edge_is_told_from_chance() -> None:
    found = summary(made_up(days=2, edge=0.8))
    assert found["verdict"]["outcome"] == "gain"
    assert found["headline"]["net_bp"]["deflated_sharpe"] > 0.99
    coin = found["baselines"]["coin"]["net_bp"]
    assert found["headline"]["net_bp"]["low"] > coin["high"]
    assert found["forecasts"]["all"]["hit_rate"]["low"] > 0.5


def test_many_trials_take_a_weak_edge_away() -> None:
    data = made_up(seed=4, days=2, edge=0.5)
    one, many = (summary(replace(data, trials=trials)) for trials in (1, 100))
    assert one["verdict"]["outcome"] == "gain"
    assert many["verdict"]["outcome"] == "best_of_trials"


def test_always_long_and_always_short_lose_the_costs_together() -> None:
    found = chance()[1]
    long, short = (found["baselines"][f"always_{side}"]["net_bp"]["mean"] for side in ("long", "short"))
    assert long + short == pytest.approx(-2 * found["headline"]["cost_bp"])


def test_the_coin_pays_the_costs_and_its_band_holds_the_chance() -> None:
    found = chance()[1]
    coin, net = found["baselines"]["coin"]["net_bp"], found["headline"]["net_bp"]
    assert coin["mean"] == pytest.approx(-found["headline"]["cost_bp"], abs=(coin["high"] - coin["low"]) / 10)
    assert coin["low"] < net["mean"] < coin["high"]


def test_the_difference_to_always_long_is_that_of_the_means() -> None:
    found = chance()[1]
    theirs = found["baselines"]["always_long"]
    assert theirs["difference_bp"]["mean"] == pytest.approx(
        found["headline"]["net_bp"]["mean"] - theirs["net_bp"]["mean"]
    )


def test_who_always_buys_does_not_differ_from_it_by_a_rounding_error() -> None:
    data = made_up(days=1)
    trades = data.trades.copy()
    trades["direction"] = 1
    difference = summary(replace(data, trades=trades))["baselines"]["always_long"]["difference_bp"]
    assert (difference["mean"], difference["p_value"]) == (0.0, None)


def test_trades_across_a_silence_are_counted_apart() -> None:
    data, found = chance()
    silent = data.trades["spans_silence"]
    assert silent.any()
    assert found["spanning_silence"]["trades"] == silent.sum()
    assert found["headline"]["trades"] == (~silent).sum()
    assert found["headline"]["total_bp"] == pytest.approx(data.trades["return_bp"][~silent].sum())
    assert sum(one["trades"] for one in found["by_fold"]) == (~silent).sum()


def test_money_is_summed_by_its_currency() -> None:
    data, found = chance()
    trades = data.trades
    dollars, yen = found["money"][1], found["money"][0]
    assert (dollars["currency"], yen["currency"]) == ("USD", "JPY")
    for money, instrument in ((dollars, 0), (yen, 1)):
        own = trades[trades["instrument"] == instrument]
        total = money["profit_loss"] + money["profit_loss_spanning_silence"]
        assert total == pytest.approx(own["profit_loss"].sum())


def test_the_parts_are_the_whole() -> None:
    data, found = chance()
    parts = [one for one in found["by_market"] if one["instrument"] is not None]
    sums = [one for one in found["by_market"] if one["instrument"] is None]
    directed = int((data.forecasts["direction"] != 0).sum())
    for groups in (parts, sums, found["by_fold"]):
        assert sum(one["trades"] for one in groups) == found["headline"]["trades"]
        assert sum(one["forecasts"] for one in groups) == directed
    for bins in (found["by_confidence"], found["reliability"]):
        assert sum(one["forecasts"] for one in bins) == directed
    assert found["forecasts"]["known"] == directed + found["forecasts"]["hold"] == len(data.forecasts)


def test_a_market_that_did_not_move_makes_half_a_hit() -> None:
    data = made_up(days=3)
    still = data.forecasts.copy()
    still["outcome"] = 0
    found = summary(replace(data, forecasts=still))
    assert found["forecasts"]["all"]["hit_rate"]["mean"] == 0.5
    assert {one["observed_rate"]["mean"] for one in found["reliability"]} == {0.5}


def test_the_sharpe_ratio_is_that_of_single_trades_and_overlap_makes_them_fewer() -> None:
    data, found = chance()
    net = data.trades["return_bp"][~data.trades["spans_silence"]]
    headline = found["headline"]
    assert headline["net_bp"]["sharpe"] == pytest.approx(net.mean() / net.std(ddof=1))
    assert headline["net_bp"]["independent_trades"] < len(net) / 2
    assert headline["without_overlap"]["trades"] < len(net)


def test_the_drawdown_goes_from_its_peak_to_its_trough() -> None:
    data = first(made_up(days=1), 3)
    trades = data.trades.copy()
    trades["exit_time_s"] = trades["entry_time_s"].max() + np.array([300, 100, 200])
    trades["return_bp"] = [-2.0, 5.0, -4.0]  # by exit: 5, 1, -1
    assert summary(replace(data, trades=trades))["drawdown"] == {
        "max_bp": 6.0,
        "peak_s": trades["exit_time_s"][1],
        "trough_s": trades["exit_time_s"][0],
    }
    trades["return_bp"] = [-2.0, -5.0, 4.0]
    assert summary(replace(data, trades=trades))["drawdown"]["peak_s"] == trades["entry_time_s"].min()


def test_costs_are_told_before_and_after() -> None:
    data, found = chance()[0], chance()[1]["headline"]
    assert found["gross_bp"]["mean"] == pytest.approx(found["net_bp"]["mean"] + found["cost_bp"])
    assert (data.trades["cost_points"] == COST_POINTS).all()
