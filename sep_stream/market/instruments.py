"""What a symbol means: its tick size, default spread and which events make its price."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import ConfigurationError, InputError, StateError

UNITS_PER_ONE: Final = 10**9
"""Decimals of the wire, decimal(18,9), are held as int64 counts of 1e-9."""

ASSET_CLASSES: Final = ("forex", "commodity_future", "equity_future")
PRICE_KINDS: Final = ("quote", "trade")


@dataclass(frozen=True, slots=True)
class Instrument:
    symbol: str
    aliases: tuple[str, ...]
    asset_class: str
    tick_size: Decimal
    default_spread: Decimal
    price_kind: str
    trading_hours: str

    @property
    def tick_units(self) -> int:
        """The tick size in units of 1e-9."""
        return int(self.tick_size * UNITS_PER_ONE)

    @property
    def default_spread_points(self) -> int:
        return int(self.default_spread / self.tick_size)


class Instruments:
    """The instruments of a deployment, in a fixed order: arrays hold a row's position here.

    Raises ConfigurationError for a declaration that is incomplete or contradicts itself.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._all = tuple(instruments)
        self._index: dict[str, int] = {}
        for position, instrument in enumerate(self._all):
            for name in (instrument.symbol, *instrument.aliases):
                if self._index.setdefault(name, position) != position:
                    raise ConfigurationError(f"instruments: {name!r} names two instruments")
        self.symbols: tuple[str, ...] = tuple(i.symbol for i in self._all)
        self.tick_units: npt.NDArray[np.int64] = np.array([i.tick_units for i in self._all], np.int64)
        self.priced_by_trades: npt.NDArray[np.bool_] = np.array([i.price_kind == "trade" for i in self._all], np.bool_)

    @classmethod
    def from_toml(cls, text: str, where: str) -> Instruments:
        try:
            tables = tomllib.loads(text).get("instrument", [])
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return cls(_instrument(table, where) for table in tables)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._all)

    def __getitem__(self, position: int) -> Instrument:
        return self._all[position]

    def canonical(self, symbol: str) -> int | None:
        """Position of the instrument whose canonical symbol this is; aliases don't count."""
        position = self._index.get(symbol)
        return position if position is not None and self._all[position].symbol == symbol else None

    def position(self, name: str) -> int:
        """Position of the instrument with this symbol or alias; InputError if there is none."""
        try:
            return self._index[name]
        except KeyError:
            known = ", ".join(self.symbols)
            raise InputError(f"unknown instrument {name!r}; known are {known}") from None

    def identity(self, position: int) -> list[Any]:
        """What a state that is kept says of an instrument: symbol, and what its numbers mean."""
        instrument = self._all[position]
        return [instrument.symbol, instrument.tick_units, instrument.price_kind]

    def position_of(self, identity: Sequence[Any]) -> int:
        """Position of the instrument with that identity; StateError if there is none, or it has changed."""
        position = self.canonical(identity[0])
        if position is None:
            raise StateError(f"snapshot: instrument {identity[0]!r} is no longer declared")
        if self.identity(position) != list(identity):
            raise StateError(
                f"snapshot: tick size or price kind of {identity[0]!r} has changed since; rebuild the state"
            )
        return position


def _instrument(table: dict[str, Any], where: str) -> Instrument:
    symbol = table.get("symbol", "?")
    try:
        instrument = Instrument(
            symbol=str(table["symbol"]),
            aliases=tuple(table.get("aliases", ())),
            asset_class=str(table["asset_class"]),
            tick_size=Decimal(table["tick_size"]),
            default_spread=Decimal(table["default_spread"]),
            price_kind=str(table["price_kind"]),
            trading_hours=str(table["trading_hours"]),
        )
    except KeyError as error:
        raise ConfigurationError(f"{where}: instrument {symbol!r} lacks {error.args[0]!r}") from error
    except InvalidOperation as error:
        raise ConfigurationError(
            f"{where}: instrument {symbol!r}: tick_size and default_spread are decimals"
        ) from error
    if instrument.asset_class not in ASSET_CLASSES:
        raise ConfigurationError(f"{where}: instrument {symbol!r}: asset_class is one of {', '.join(ASSET_CLASSES)}")
    if instrument.price_kind not in PRICE_KINDS:
        raise ConfigurationError(f"{where}: instrument {symbol!r}: price_kind is one of {', '.join(PRICE_KINDS)}")
    tick_size = instrument.tick_size
    if not tick_size.is_finite() or tick_size <= 0 or tick_size * UNITS_PER_ONE != instrument.tick_units:
        raise ConfigurationError(f"{where}: instrument {symbol!r}: tick_size is positive, with at most 9 decimals")
    if instrument.default_spread % instrument.tick_size:
        raise ConfigurationError(f"{where}: instrument {symbol!r}: default_spread is a multiple of tick_size")
    return instrument
