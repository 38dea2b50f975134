"""Points of a price as money."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError
from sep_stream.market.instruments import UNITS_PER_ONE


@dataclass(frozen=True, slots=True)
class Stake:
    """How much is traded, and for what fee.

    units: of the instrument · commission: in the quote currency, paid at the entry and again at the exit
    Raises ConfigurationError for values that are not positive, or not decimal(18,9).
    """

    units: Decimal = Decimal(100_000)
    commission: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name, value, least in (("units", self.units, "above 0"), ("commission", self.commission, "from 0 on")):
            fits = value.is_finite() and 0 <= value < UNITS_PER_ONE and value * UNITS_PER_ONE % 1 == 0
            if not fits or (name == "units" and value == 0):
                raise ConfigurationError(
                    f"{name}: expected a number {least}, at most 18 digits, 9 of them decimals, got {value}"
                )

    @property
    def units_nanos(self) -> int:
        return int(self.units * UNITS_PER_ONE)

    @property
    def commission_nanos(self) -> int:
        return int(self.commission * UNITS_PER_ONE)

    def commission_points(self, tick_units: int) -> float:
        """Both commissions of a trade as points. tick_units: the tick size in units of 1e-9"""
        per_point = Fraction(self.units_nanos * tick_units, UNITS_PER_ONE)
        return float(2 * self.commission_nanos / per_point)


@dataclass(frozen=True, slots=True, eq=False)
class Earned:
    """What trades made. points: (n,) float64, after all costs · fee_points: (n,) float64, the commissions of that
    profit_loss_units: n long, in the quote currency, in units of 1e-9"""

    points: npt.NDArray[np.float64]
    fee_points: npt.NDArray[np.float64]
    profit_loss_units: list[int]


def earned(trades: npt.NDArray[np.void], tick_units: npt.NDArray[Any], stake: Stake) -> Earned:
    """Of trades (n,) TRADE_DTYPE. tick_units: (n,) int64, the tick size of each in units of 1e-9"""
    gained = trades["direction"] * (trades["exit_price"] - trades["entry_price"])
    fee_points = np.array([stake.commission_points(units) for units in tick_units.tolist()], np.float64)
    return Earned(gained - fee_points, fee_points, profit_loss_units(gained, tick_units, stake))


def profit_loss_units(points: npt.NDArray[np.int64], tick_units: npt.NDArray[Any], stake: Stake) -> list[int]:
    """What trades made in the quote currency, in units of 1e-9, rounded half up, after commission.

    points: (n,) int64, gains between entry and exit price · tick_units: (n,) int64, the tick size in units of 1e-9
    """
    units, commissions = stake.units_nanos, 2 * stake.commission_nanos
    half = UNITS_PER_ONE // 2
    return [
        (gained * tick * units + half) // UNITS_PER_ONE - commissions
        for gained, tick in zip(points.tolist(), tick_units.tolist(), strict=True)
    ]
