"""The report of a backtest as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bootstrap import COINS, HORIZONS_PER_BLOCK, RESAMPLES, STRETCHES_MIN
from sep_stream.backtest.charts import confidence_chart, equity_chart, reliability_chart
from sep_stream.backtest.notation import (
    NOTHING,
    counted,
    decimals_of,
    p_text,
    percent,
    percent_range,
    plain,
    signed,
    signed_range,
    time_text,
    with_range,
)
from sep_stream.backtest.page import Html, element, facts, page, section, table
from sep_stream.backtest.results import ReportData
from sep_stream.backtest.summary import Numbers, equity_curve, in_time_order, summary
from sep_stream.backtest.verdict import P_VALUE_MAX
from sep_stream.market.timeframes import TIMEFRAMES

TRADES_LISTED_MAX: Final = 2_000
"""One by one; of more, the first half and the last half of so many."""


def render_report(data: ReportData, numbers: Numbers | None = None) -> str:
    """One HTML document that needs nothing else: the same bytes for the same data.

    numbers: summary(data), where that has been made already
    """
    numbers = numbers or summary(data)
    ordered = in_time_order(data.trades, "entry_time_s")
    silent = ordered["spans_silence"]
    return page(
        data.title,
        *_opening(numbers),
        _headline(numbers),
        _silence(numbers),
        _equity(numbers, ordered[~silent]),
        _confidence(numbers),
        _reliability(numbers),
        _markets(numbers["by_market"]),
        _folds(numbers["by_fold"]),
        _money(numbers["money"]),
        _origin(numbers),
        _caveats(),
        _trades(ordered, data),
    )


def _text(*parts: str) -> Html:
    return element("p", " ".join(parts))


def _note(*parts: str) -> Html:
    return element("p", " ".join(parts), class_="note")


def _opening(numbers: Numbers) -> Iterator[Html]:
    yield element("h1", numbers["title"])
    yield element("p", numbers["verdict"]["sentence"], class_="verdict")
    if numbers["synthetic"]:
        told = "These data are synthetic: a generator made them. Nothing here says anything about a market."
        yield element("p", told, class_="warning")
    yield from (element("p", told, class_="warning") for told in _gains_without_skill(numbers))
    begun, ended = numbers["data_range_s"] or (None, None)
    span = f"{time_text(begun)} to {time_text(ended)} UTC" if begun is not None else "no events"
    yield _note(f"{numbers['source']}; {span}.")


def _gains_without_skill(numbers: Numbers) -> Iterator[str]:
    """A gain that came from the market's drift is no skill, whatever its p-value."""
    for name, doing in (("always_long", "buying"), ("always_short", "selling")):
        theirs = numbers["baselines"][name]
        p_value = theirs["difference_bp"]["p_value"]
        unlike = p_value is not None and p_value < P_VALUE_MAX and theirs["difference_bp"]["mean"] > 0
        if numbers["verdict"]["outcome"] == "gain" and not unlike:
            earned = f"{signed(theirs['net_bp']['mean'])} bp each"
            yield f"It cannot be told from the gain of always {doing} in the same trades, which earned {earned}."


def _headline(numbers: Numbers) -> Html:
    own, baselines = numbers["headline"], numbers["baselines"]
    rows = [
        _baseline_row("these directions", own),
        _baseline_row("always long", baselines["always_long"]),
        _baseline_row("always short", baselines["always_short"]),
        _baseline_row(f"a coin, {COINS:,} times", baselines["coin"]),
    ]
    headings = ("the same trades with", "bp a trade", "95 %", "these less those, bp", "95 %", "winners", "95 %")
    return section(
        "The result beside no skill",
        table(headings, rows),
        _note(
            "After spread, slippage and commission. Intervals and the coin's band allow for trades that overlap:",
            f"whole blocks are drawn, of {plain(own['block_rows'], 1)} trades on average,",
            f"which last {HORIZONS_PER_BLOCK} horizons; there are {plain(own['stretches'], 0)} such blocks.",
            f"{NOTHING} stands where fewer than {STRETCHES_MIN} blocks are too little to tell.",
        ),
        facts(_headline_facts(numbers)),
    )


def _baseline_row(name: str, found: Numbers) -> tuple[str, ...]:
    net, difference, wins = found["net_bp"], found.get("difference_bp"), found["win_rate"]
    less = ("", "") if difference is None else (signed(difference["mean"]), signed_range(difference))
    return (name, signed(net["mean"]), signed_range(net), *less, percent(wins["mean"]), percent_range(wins))


def _headline_facts(numbers: Numbers) -> Iterator[tuple[str, str]]:
    own, net, gross = numbers["headline"], numbers["headline"]["net_bp"], numbers["headline"]["gross_bp"]
    apart, fall = own["without_overlap"], numbers["drawdown"]
    yield "trades", f"{own['trades']:,}"
    yield "winners", f"{own['wins']:,}"
    yield "sum of returns, bp", signed(own["total_bp"], 1)
    yield "mean after costs against 0", p_text(net["p_value"])
    yield "bp a trade before costs", with_range(signed(gross["mean"]), signed_range(gross))
    yield "mean before costs against 0", p_text(gross["p_value"])
    yield "costs, bp a trade", plain(own["cost_bp"])
    yield "trials tried", f"{numbers['trials']:,}"
    yield "Sharpe ratio of a trade", plain(net["sharpe"], 4)
    yield "skewness, kurtosis", f"{plain(net['skewness'])}, {plain(net['kurtosis'])}"
    yield "independent trades they are worth", plain(net["independent_trades"], 0)
    yield "deflated Sharpe ratio", plain(net["deflated_sharpe"], 3)
    yield "greatest drawdown, bp", plain(fall["max_bp"], 1)
    yield (
        f"winners of {apart['trades']:,} without overlap (Wilson)",
        with_range(percent(apart["mean"]), percent_range(apart)),
    )


def _silence(numbers: Numbers) -> Html:
    headings = ("", "trades", "winners", "95 %", "bp a trade", "95 %", "costs, bp", "sum, bp")
    rows = [
        (name, *_trade_cells(numbers[key]))
        for name, key in (("counted in this report", "headline"), ("across a silence, not counted", "spanning_silence"))
    ]
    return section(
        "Trades across a silence",
        table(headings, rows),
        _note(
            "No event came for over an hour while these were open: a weekend, a holiday or missing data.",
            "Their exit lies behind it, at a price that nobody could have relied on.",
            "They are in the list of trades and, apart, in the money, and nowhere else.",
        ),
    )


def _trade_cells(found: Numbers) -> tuple[str, ...]:
    return (
        f"{found['trades']:,}",
        percent(found["win_rate"]["mean"]),
        percent_range(found["win_rate"]),
        signed(found["net_bp"]["mean"]),
        signed_range(found["net_bp"]),
        plain(found["cost_bp"]),
        signed(found["total_bp"], 1),
    )


def _forecast_cells(found: Numbers) -> tuple[str, ...]:
    return f"{found['forecasts']:,}", percent(found["hit_rate"]["mean"]), percent_range(found["hit_rate"])


def _equity(numbers: Numbers, trades: npt.NDArray[np.void]) -> Html:
    if not len(trades):
        return section("Equity and drawdown", _text("There were no trades."))
    fall = numbers["drawdown"]
    if fall["peak_s"] is None:
        told = "It never fell below an earlier high."
    else:
        span = f"from {time_text(fall['peak_s'])} to {time_text(fall['trough_s'])}"
        told = f"The greatest drawdown was {plain(fall['max_bp'], 1)} bp, {span} UTC."
    return section(
        "Equity and drawdown",
        equity_chart(*equity_curve(trades)),
        _text(told),
        _note(
            "Sum of returns after costs in bp of each trade's own size, at its exit; all trades are of one size,",
            "nothing is compounded, and what open trades stood at in between is not shown.",
        ),
    )


def _confidence(numbers: Numbers) -> Html:
    forecasts, bins = numbers["forecasts"], numbers["by_confidence"]
    counts = f"{counted(forecasts['known'], 'forecast')} with a known outcome, {forecasts['hold']:,} of them HOLD."
    if not bins:
        return section("Hit rate by confidence", _text(counts, "Not one had a direction."))
    headings = ("forecasts", "right", "95 %")
    by_gate = [(name, *_forecast_cells(forecasts[key])) for name, key in _GATE_STEPS]
    by_bin = [(f"{found['from']:.2f} to {found['to']:.2f}", *_forecast_cells(found)) for found in bins]
    return section(
        "Hit rate by confidence",
        _text(counts),
        confidence_chart(bins),
        table(("confidence", *headings), by_bin),
        table(("signals", *headings), by_gate),
        _note(
            "Of all signals with a direction, traded or not, before costs; a market that did not move is half right."
        ),
    )


_GATE_STEPS: Final = (("all with a direction", "all"), ("gate passed", "gate_passed"), ("confirmed", "confirmed"))


def _reliability(numbers: Numbers) -> Html:
    bins, forecasts = numbers["reliability"], numbers["forecasts"]
    if not bins:
        return section("Reliability", _text("There were no forecasts with a direction."))
    rows = [
        (
            f"{found['from']:.3f} to {found['to']:.3f}",
            f"{found['forecasts']:,}",
            percent(found["forecast_rate"]),
            percent(found["observed_rate"]["mean"]),
            percent_range(found["observed_rate"]),
        )
        for found in bins
    ]
    excess = forecasts["brier_excess"]
    return section(
        "Reliability: forecast against observed",
        reliability_chart(bins),
        table(("probability of up", "forecasts", "forecast", "observed", "95 %"), rows),
        _text(
            f"Brier score {plain(forecasts['brier'], 4)}; less that of 0.5 for every forecast:",
            f"{signed(excess['mean'], 4)} (95 %: {signed_range(excess, 4)}; below 0 is better than saying nothing).",
        ),
        _note("Bins hold about as many forecasts each. On the dashed line what was forecast is what came."),
    )


_RESULT_HEADINGS: Final = (
    "forecasts", "right", "95 %", "trades", "winners", "95 %", "bp a trade", "95 %", "costs, bp", "sum, bp",
)  # fmt: skip


def _markets(found: Sequence[Numbers]) -> Html:
    rows = [(one["instrument"] or "all", one["timeframe"], *_forecast_cells(one), *_trade_cells(one)) for one in found]
    return section(
        "By timeframe and instrument",
        table(("instrument", "timeframe", *_RESULT_HEADINGS), rows, words=2) if rows else _text("Nothing to show."),
    )


def _folds(found: Sequence[Numbers]) -> Html:
    if not found:
        return section("By fold", _text("There are no folds."))
    results = [(str(one["number"]), *_forecast_cells(one), *_trade_cells(one)) for one in found]
    models = [
        (
            str(one["number"]),
            " to ".join(map(time_text, one["training_s"] or (None,))),
            time_text(one["cut_s"]),
            " to ".join(map(time_text, one["scored_s"])),
            f"{one['rows']:,}",
            f"{one['blocks']:,}",
        )
        for one in found
    ]
    headings = ("fold", "trained on", "cut", "scored", "rows", "blocks")
    return section(
        "By fold",
        table(("fold", *_RESULT_HEADINGS), results),
        element("h3", "Models"),
        table(headings, models, words=4),
        facts((f"model of fold {one['number']}", one["model_id"]) for one in found),
        _note("A model knows what was known at its cut, and is scored on what came later. Times are UTC."),
    )


def _money(found: Iterable[Numbers]) -> Html:
    rows = [
        (
            one["currency"],
            f"{one['trades']:,}",
            signed(one["profit_loss"]),
            f"{one['trades_spanning_silence']:,}",
            signed(one["profit_loss_spanning_silence"]),
        )
        for one in found
    ]
    headings = ("currency", "trades", "profit or loss", "across a silence", "profit or loss")
    return section("Money by quote currency", table(headings, rows) if rows else _text("There were no trades."))


def _origin(numbers: Numbers) -> Html:
    return section(
        "What it was made of",
        element("h3", "Counts"),
        facts((name, f"{count:,}") for name, count in numbers["counts"].items()),
        element("h3", "Parameters"),
        facts(
            [
                *((name, str(value)) for name, value in numbers["parameters"].items()),
                ("seed of the resampling", str(numbers["seed"])),
            ]
        ),
    )


def _caveats() -> Html:
    lines = (
        "The number of trials is what whoever ran this says it is; settings tried and not counted make the deflated "
        "Sharpe ratio too high.",
        "Entries and exits are at bar prices with an assumed spread. No order was sent: the depth of the market, "
        "refused orders and delays are not in it.",
        f"Intervals come from {RESAMPLES:,} resamplings of this one history. They tell how much luck it could hold, "
        "not how the next will differ.",
        "Of many groups, bins and folds, one in twenty lies outside its interval by chance.",
    )
    return section("What this does not show", element("ul", *(element("li", line) for line in lines)))


def _trades(ordered: npt.NDArray[np.void], data: ReportData) -> Html:
    left_out = max(0, len(ordered) - TRADES_LISTED_MAX)
    half = TRADES_LISTED_MAX // 2
    parts = [ordered] if not left_out else [ordered[:half], ordered[-half:]]
    decimals = [_price_decimals(parts, instrument) for instrument in range(len(data.symbols))]
    tables = [
        table(_TRADE_HEADINGS, (_trade_row(row, data, decimals) for row in part.tolist()), words=4) for part in parts
    ]
    between = _text(f"… {counted(left_out, 'trade')} in between are in trades.parquet only …")
    content: list[Html] = [tables[0], between, tables[1]] if left_out else tables
    if not len(ordered):
        content = [_text("There were no trades.")]
    return section("Trades", *content, _note("Times are UTC; points, money and bp are after costs."))


_TRADE_HEADINGS: Final = (
    "in", "out", "instrument", "direction", "fold", "confidence", "price in", "price out", "points", "costs", "bp",
    "money", "",
)  # fmt: skip


def _price_decimals(parts: Iterable[npt.NDArray[np.void]], instrument: int) -> int:
    """Of an instrument's prices among the trades listed, all of which are written with as many."""
    own = [part[part["instrument"] == instrument] for part in parts]
    return max(decimals_of(rows[name].tolist()) for rows in own for name in ("entry_price", "exit_price"))


def _trade_row(row: Sequence[Any], data: ReportData, decimals: Sequence[int]) -> tuple[str, ...]:
    """Of a row's values in the order of TRADE_DTYPE."""
    instrument, timeframe, direction, fold, entry_s, exit_s, price_in, price_out, *amounts, silent = row
    points, cost_points, money, return_bp, _, confidence = amounts
    return (
        time_text(entry_s),
        time_text(exit_s),
        f"{data.symbols[instrument]} {TIMEFRAMES[timeframe]}",
        "BUY" if direction > 0 else "SELL",
        str(fold),
        plain(confidence, 3),
        f"{price_in:.{decimals[instrument]}f}",
        f"{price_out:.{decimals[instrument]}f}",
        signed(points, 1),
        plain(cost_points, 1),
        signed(return_bp),
        f"{signed(money)} {data.quote_currencies[instrument]}",
        "silence" if silent else "",
    )
