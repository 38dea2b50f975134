"""Signals → trades on paper: entry, exit and what they made."""

from sep_stream.settling.money import Earned, Stake, earned, profit_loss_units
from sep_stream.settling.parameters import TRADED, SettleParameters
from sep_stream.settling.settler import Settled, Settler, SignalRows

__all__ = [
    "TRADED",
    "Earned",
    "SettleParameters",
    "Settled",
    "Settler",
    "SignalRows",
    "Stake",
    "earned",
    "profit_loss_units",
]
