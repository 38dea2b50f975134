"""The headline numbers of a backtest: what `summary.json` holds and the report shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.bootstrap import (
    COINS,
    STRETCHES_MIN,
    Estimate,
    band,
    coin_means,
    estimate_mean,
    estimate_rate,
    rows_per_block,
)
from sep_stream.backtest.measures import (
    Floats,
    deflated_sharpe,
    drawdown,
    equal_count_bins,
    sharpe,
    wilson_interval,
    without_overlap,
)
from sep_stream.backtest.results import ReportData
from sep_stream.backtest.verdict import verdict
from sep_stream.market.timeframes import TIMEFRAMES

CONFIDENCE_EDGES: Final = (0.50, 0.51, 0.52, 0.54, 0.56, 0.58, 0.60, 0.65, 0.70, 0.80, 1.00)
RELIABILITY_BINS_MAX: Final = 10

Rows = npt.NDArray[np.void]
Numbers = dict[str, Any]


def summary(data: ReportData) -> Numbers:
    """All numbers of the report, as plain JSON without NaN; docs/backtest-report.md tells what they mean."""
    ordered = in_time_order(data.trades, "entry_time_s")
    silent = ordered["spans_silence"]
    trades = ordered[~silent]
    forecasts = in_time_order(data.forecasts, "available_at_s")
    directed = forecasts[forecasts["direction"] != 0]
    sampling = Sampling(data.horizon_s, data.seed)
    headline = _headline(trades, sampling, data.trials)
    told = verdict(len(trades), headline["net_bp"], headline["gross_bp"], data.trials)
    return {
        "title": data.title,
        "source": data.source,
        "synthetic": data.synthetic,
        "trials": data.trials,
        "seed": data.seed,
        "data_range_s": None if data.data_range_s is None else list(data.data_range_s),
        "verdict": asdict(told),
        "headline": headline,
        "baselines": _baselines(trades, sampling),
        "spanning_silence": _trade_numbers(ordered[silent], sampling),
        "drawdown": _drawdown(trades),
        "money": _money(ordered, data.quote_currencies),
        "forecasts": _forecasts(forecasts, directed, sampling),
        "by_confidence": _by_confidence(directed, sampling),
        "reliability": _reliability(directed, sampling),
        "by_market": list(_by_market(trades, directed, data, sampling)),
        "by_fold": list(_by_fold(trades, directed, data, sampling)),
        "parameters": dict(data.parameters),
        "counts": dict(data.counts),
    }


def in_time_order(rows: Rows, started: str) -> Rows:
    """Rows by the time of this column, those of one time by instrument and timeframe, then as they came."""
    return rows[np.lexsort((rows["timeframe"], rows["instrument"], rows[started]))]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How means are resampled: the same way for every part of the results, with its own block length."""

    horizon_s: Sequence[int]
    seed: int

    def block_rows(self, rows: Rows, started: str) -> float:
        """Mean block length of these rows in time order, from the longest horizon among them."""
        horizons = [self.horizon_s[k] for k in np.unique(rows["timeframe"]).tolist()]
        return rows_per_block(rows[started], max(horizons, default=1))

    def mean(self, values: Floats, block_rows: float, null: float | None = None) -> Estimate:
        return estimate_mean(values, block_rows, self.seed, null)

    def rate(self, values: Floats, block_rows: float, null: float | None = None) -> Estimate:
        return estimate_rate(values, block_rows, self.seed, null)


def _headline(trades: Rows, sampling: Sampling, trials: int) -> Numbers:
    block_rows = sampling.block_rows(trades, "entry_time_s")
    numbers = _trade_numbers(trades, sampling)
    net, gross = trades["return_bp"], trades["return_bp"] + trades["cost_bp"]
    gross_bp = asdict(sampling.mean(gross, block_rows, null=0.0))
    return {
        **numbers,
        "net_bp": numbers["net_bp"] | _deflation(net, numbers["net_bp"]["standard_error"], trials),
        "gross_bp": gross_bp | _deflation(gross, gross_bp["standard_error"], trials),
        "without_overlap": _without_overlap(trades),
        "block_rows": block_rows,
        "stretches": len(trades) / block_rows,
    }


def _deflation(returns: Floats, standard_error: float | None, trials: int) -> Numbers:
    """The Sharpe ratio of single trades, and what the trials leave of it.

    independent_trades: as many independent returns would know their mean as well as these do, which overlap; at most
    their number. Lo (2002), Financial Analysts Journal 58 (4), 36-52: the variance of a Sharpe ratio grows with that
    of the mean.
    """
    found = sharpe(returns)
    if found is None:
        return dict.fromkeys(("sharpe", "skewness", "kurtosis", "independent_trades", "deflated_sharpe"))
    independent = standard_error and min(float(len(returns)), max(2.0, float(returns.var()) / standard_error**2))
    return {
        "sharpe": found.ratio,
        "skewness": found.skewness,
        "kurtosis": found.kurtosis,
        "independent_trades": independent,
        "deflated_sharpe": independent and deflated_sharpe(found, independent, trials),
    }


def _without_overlap(trades: Rows) -> Numbers:
    """The share of winners with Wilson's interval, which holds for independent trades only."""
    chosen = trades[without_overlap(trades["instrument"], trades["entry_time_s"], trades["exit_time_s"])]
    count, wins = len(chosen), int((chosen["points"] > 0).sum())
    low, high = wilson_interval(wins, count) if count else (None, None)
    return {"trades": count, "wins": wins, "mean": wins / count if count else None, "low": low, "high": high}


def _trade_numbers(trades: Rows, sampling: Sampling) -> Numbers:
    """Of any trades in time order."""
    block_rows = sampling.block_rows(trades, "entry_time_s")
    wins = trades["points"] > 0
    return {
        "trades": len(trades),
        "wins": int(wins.sum()),
        "win_rate": asdict(sampling.rate(wins.astype(np.float64), block_rows)),
        "net_bp": asdict(sampling.mean(trades["return_bp"], block_rows, null=0.0)),
        "cost_bp": _mean(trades["cost_bp"]),
        "total_bp": float(trades["return_bp"].sum()),
    }


def _forecast_numbers(forecasts: Rows, sampling: Sampling) -> Numbers:
    """Of any forecasts with a direction, in time order. A market that did not move makes half a hit."""
    block_rows = sampling.block_rows(forecasts, "available_at_s")
    hit_rate = sampling.rate(_half_steps(forecasts["direction"] * np.sign(forecasts["outcome"])), block_rows, null=0.5)
    return {"forecasts": len(forecasts), "hit_rate": asdict(hit_rate)}


def _half_steps(sign: npt.NDArray[np.integer[Any]]) -> Floats:
    return (sign + 1) / 2.0


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _baselines(trades: Rows, sampling: Sampling) -> Numbers:
    """The same trades at the same costs without skill: always long, always short, a coin.

    difference_bp: the strategy's mean less theirs, of the same trades
    """
    net, cost = trades["return_bp"], trades["cost_bp"]
    move = trades["direction"] * (net + cost)
    block_rows = sampling.block_rows(trades, "entry_time_s")

    def always(direction: int) -> Numbers:
        theirs = direction * move - cost
        return {
            "net_bp": asdict(sampling.mean(theirs, block_rows, null=0.0)),
            # Written so that it is exactly 0 where the direction is the same.
            "difference_bp": asdict(sampling.mean((trades["direction"] - direction) * move, block_rows, null=0.0)),
            "win_rate": asdict(sampling.rate((theirs > 0).astype(np.float64), block_rows)),
        }

    def coin(either: Floats, signed: Floats) -> Numbers:
        """Of what is the same for both directions, and what changes its sign with them."""
        if not len(trades):
            return asdict(Estimate(None))
        if len(trades) / block_rows < STRETCHES_MIN:
            return asdict(Estimate(float(either.mean())))
        means = either.mean() + coin_means(signed, block_rows, COINS, sampling.seed)
        return asdict(Estimate(float(means.mean()), *band(means)))

    long_wins, short_wins = (move > cost).astype(np.float64), (-move > cost).astype(np.float64)
    return {
        "always_long": always(1),
        "always_short": always(-1),
        "coin": {
            "net_bp": coin(-cost, move),
            "win_rate": coin((long_wins + short_wins) / 2, (long_wins - short_wins) / 2),
        },
    }


def equity_curve(trades: Rows) -> tuple[npt.NDArray[np.int64], Floats]:
    """When trades were over, epoch seconds, rising, and the sum of their returns by then in bp, not compounded.

    (t + 1,) each: the first is 0, when the first trade began; (0,) without trades
    """
    order = np.argsort(trades["exit_time_s"], kind="stable")
    started_s = trades["entry_time_s"].min(keepdims=True) if len(trades) else trades["entry_time_s"]
    equity = np.cumsum(trades["return_bp"][order])
    return np.concatenate([started_s, trades["exit_time_s"][order]]), np.concatenate([equity[:1] * 0, equity])


def _drawdown(trades: Rows) -> Numbers:
    time_s, equity = equity_curve(trades)
    below = drawdown(equity)
    if not below.any():
        return {"max_bp": 0.0, "peak_s": None, "trough_s": None}
    trough = int(below.argmax())
    peak = int(equity[: trough + 1].argmax())
    return {"max_bp": float(below[trough]), "peak_s": int(time_s[peak]), "trough_s": int(time_s[trough])}


def _money(trades: Rows, quote_currencies: Sequence[str]) -> list[Numbers]:
    """Sums of money by currency: those of different ones can't be added."""
    currencies = np.array(quote_currencies, np.str_)[trades["instrument"]] if len(trades) else np.empty(0, np.str_)
    found = []
    for currency in sorted(set(currencies.tolist())):
        own = trades[currencies == currency]
        silent = own["spans_silence"]
        found.append(
            {
                "currency": currency,
                "trades": int((~silent).sum()),
                "profit_loss": float(own["profit_loss"][~silent].sum()),
                "trades_spanning_silence": int(silent.sum()),
                "profit_loss_spanning_silence": float(own["profit_loss"][silent].sum()),
            }
        )
    return found


def _forecasts(forecasts: Rows, directed: Rows, sampling: Sampling) -> Numbers:
    """Hit rates by what the gate said, and the Brier score less that of one half for all: below 0 is better."""
    block_rows = sampling.block_rows(directed, "available_at_s")
    rose = _half_steps(np.sign(directed["outcome"]))
    excess = (directed["p"] - rose) ** 2 - (0.5 - rose) ** 2
    return {
        "known": len(forecasts),
        "hold": len(forecasts) - len(directed),
        "all": _forecast_numbers(directed, sampling),
        "gate_passed": _forecast_numbers(directed[directed["gate_passed"]], sampling),
        "confirmed": _forecast_numbers(directed[directed["confirmed"]], sampling),
        "brier": _mean((directed["p"] - rose) ** 2),
        "brier_excess": asdict(sampling.mean(excess, block_rows, null=0.0)),
    }


def _by_confidence(directed: Rows, sampling: Sampling) -> list[Numbers]:
    confidence = np.maximum(directed["p"], 1 - directed["p"])
    bins = np.clip(np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1, 0, len(CONFIDENCE_EDGES) - 2)
    return [
        {
            "from": CONFIDENCE_EDGES[k],
            "to": CONFIDENCE_EDGES[k + 1],
            "confidence": float(confidence[bins == k].mean()),
            **_forecast_numbers(directed[bins == k], sampling),
        }
        for k in np.unique(bins).tolist()
    ]


def _reliability(directed: Rows, sampling: Sampling) -> list[Numbers]:
    bins = equal_count_bins(directed["p"], RELIABILITY_BINS_MAX)
    return [_reliability_bin(directed[bins == k], sampling) for k in np.unique(bins).tolist()]


def _reliability_bin(rows: Rows, sampling: Sampling) -> Numbers:
    """What was forecast for these rows, and what share of them rose; an unchanged market rose by half."""
    block_rows = sampling.block_rows(rows, "available_at_s")
    return {
        "from": float(rows["p"].min()),
        "to": float(rows["p"].max()),
        "forecasts": len(rows),
        "forecast_rate": float(rows["p"].mean()),
        "observed_rate": asdict(sampling.rate(_half_steps(np.sign(rows["outcome"])), block_rows)),
    }


def _by_market(trades: Rows, directed: Rows, data: ReportData, sampling: Sampling) -> Iterator[Numbers]:
    """Each timeframe, then each instrument and timeframe, of which there is a trade or a forecast."""
    traded, forecast = _lanes(trades), _lanes(directed)
    lanes = np.union1d(traded, forecast).tolist()
    timeframes = sorted({lane % len(TIMEFRAMES) for lane in lanes})
    for timeframe in timeframes:
        own = trades[trades["timeframe"] == timeframe], directed[directed["timeframe"] == timeframe]
        yield _market(None, timeframe, *own, sampling)
    for lane in lanes:
        instrument, timeframe = divmod(lane, len(TIMEFRAMES))
        yield _market(data.symbols[instrument], timeframe, trades[traded == lane], directed[forecast == lane], sampling)


def _lanes(rows: Rows) -> npt.NDArray[np.int64]:
    return rows["instrument"].astype(np.int64) * len(TIMEFRAMES) + rows["timeframe"]


def _market(symbol: str | None, timeframe: int, trades: Rows, directed: Rows, sampling: Sampling) -> Numbers:
    return {"instrument": symbol, "timeframe": TIMEFRAMES[timeframe], **_both(trades, directed, sampling)}


def _by_fold(trades: Rows, directed: Rows, data: ReportData, sampling: Sampling) -> Iterator[Numbers]:
    for fold in data.folds:
        own = trades[trades["fold"] == fold.number], directed[directed["fold"] == fold.number]
        yield {**_plain_fold(asdict(fold)), **_both(*own, sampling)}


def _plain_fold(fold: Mapping[str, Any]) -> Numbers:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fold.items()}


def _both(trades: Rows, directed: Rows, sampling: Sampling) -> Numbers:
    return {**_forecast_numbers(directed, sampling), **_trade_numbers(trades, sampling)}
