"""History asked: walk-forward backtests, their report, and the proof that live and backtest agree."""

from sep_stream.backtest.bars import MarketHistory, market_history
from sep_stream.backtest.walk import Backtest, BacktestParameters, ScoredFold

__all__ = ["Backtest", "BacktestParameters", "MarketHistory", "ScoredFold", "market_history"]
