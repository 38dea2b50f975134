"""Whether a backtest's result can be told from chance, in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sep_stream.backtest.notation import counted, p_text, plain, signed, signed_range

P_VALUE_MAX: Final = 0.05
DEFLATED_SHARPE_MIN: Final = 0.95

Evidence = Mapping[str, Any]
"""An Estimate of mean returns in bp, its null zero, as a mapping, with the deflated Sharpe ratio: deflated_sharpe."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """outcome: nothing, too_few, chance, best_of_trials, gain, costs or loss · sentence: the same, to be read first"""

    outcome: str
    told_from_chance: bool
    sentence: str


def verdict(trades: int, net: Evidence, gross: Evidence, trials: int) -> Verdict:
    """What returns after costs (net) and before (gross) say.

    Chance is a coin that makes the same trades: it earns nothing before costs. A gain counts if both its p-value and
    its deflated Sharpe ratio pass: the best of many trials must be better than chance would make the best of so many.
    A loss is told from chance only if the directions are, as costs alone make a coin lose too.
    """
    tried = f"{counted(trials, 'trial')} tried"
    if not trades:
        return Verdict("nothing", False, f"No trade was made, so there is nothing to tell from chance, with {tried}.")
    earned = f"{counted(trades, 'trade')} earned {signed(net['mean'])} bp each on average after costs"
    if net["p_value"] is None:
        return Verdict("too_few", False, f"There is too little to tell from chance: {earned}, with {tried}.")
    after = f"{earned} ({_shown(net)})"
    if net["p_value"] >= P_VALUE_MAX:
        return Verdict("chance", False, f"This result cannot be told from chance: {after}, with {tried}.")
    if net["mean"] > 0:
        return _gain(after, net, tried)
    return _loss(after, gross, tried)


def _gain(after: str, net: Evidence, tried: str) -> Verdict:
    deflated = f"deflated Sharpe ratio {plain(net['deflated_sharpe'], 3)} with {tried}"
    if _deflation_passes(net):
        return Verdict("gain", True, f"This gain can be told from chance: {after}; {deflated}. It need not go on.")
    why = f"the best of so many without any skill could look like this ({deflated})"
    return Verdict("best_of_trials", False, f"This result cannot be told from chance: {after}, but {why}.")


def _loss(after: str, gross: Evidence, tried: str) -> Verdict:
    before = f"before costs {signed(gross['mean'])} bp ({_shown(gross)})"
    if gross["p_value"] is None or gross["p_value"] >= P_VALUE_MAX:
        why = "as costs alone make a coin lose"
        return Verdict(
            "chance", False, f"This result cannot be told from chance, {why}: {after}; {before}, with {tried}."
        )
    if gross["mean"] < 0:
        return Verdict("loss", True, f"This loss can be told from chance: {after}; {before}, with {tried}.")
    told = _deflation_passes(gross)
    directions = f"the directions {'can' if told else 'cannot'} be told from a coin's"
    deflated = f"deflated Sharpe ratio {plain(gross['deflated_sharpe'], 3)} with {tried}"
    return Verdict("costs", told, f"Costs make this a loss: {after}; {directions}, {before}; {deflated}.")


def _deflation_passes(found: Evidence) -> bool:
    return found["deflated_sharpe"] is not None and found["deflated_sharpe"] > DEFLATED_SHARPE_MIN


def _shown(found: Evidence) -> str:
    return f"95 %: {signed_range(found)}, {p_text(found['p_value'])}"
