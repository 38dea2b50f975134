"""What a declaration of instruments may say, and how symbols are found."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sep_stream.errors import ConfigurationError, InputError
from sep_stream.market.instruments import Instruments
from sep_stream.runtime.topology import Topology

GOOD = {
    "symbol": '"EUR/USD"',
    "aliases": '["EURUSD"]',
    "asset_class": '"forex"',
    "tick_size": '"0.00001"',
    "default_spread": '"0.00012"',
    "price_kind": '"quote"',
    "trading_hours": '"Sun 21:00 - Fri 21:00"',
}


def toml(*tables: dict[str, str]) -> str:
    return "\n".join("[[instrument]]\n" + "\n".join(f"{k} = {v}" for k, v in table.items()) for table in tables)


def parse(*tables: dict[str, str]) -> Instruments:
    return Instruments.from_toml(toml(*tables), "some.toml")


def test_sizes_are_exact() -> None:
    [instrument] = parse(GOOD)
    assert instrument.tick_size == Decimal("0.00001")
    assert instrument.tick_units == 10_000
    assert instrument.default_spread_points == 12


def test_a_symbol_and_its_aliases_name_the_same_instrument() -> None:
    instruments = parse(GOOD)
    assert instruments.position("EUR/USD") == instruments.position("EURUSD") == 0


def test_an_alias_is_not_canonical() -> None:
    instruments = parse(GOOD)
    assert instruments.canonical("EUR/USD") == 0
    assert instruments.canonical("EURUSD") is None
    assert instruments.canonical("GBP/USD") is None


def test_an_unknown_name_is_told_with_those_known() -> None:
    with pytest.raises(InputError, match=r"unknown instrument 'XAU/USD'; known are EUR/USD"):
        parse(GOOD).position("XAU/USD")


def test_arrays_follow_the_order_of_declaration() -> None:
    sizes = {"tick_size": '"0.01"', "default_spread": '"0.01"', "price_kind": '"trade"'}
    instruments = parse(GOOD, GOOD | sizes | {"symbol": '"CLZ6"', "aliases": "[]"})
    assert instruments.symbols == ("EUR/USD", "CLZ6")
    assert instruments.tick_units.tolist() == [10_000, 10_000_000]
    assert instruments.priced_by_trades.tolist() == [False, True]


@pytest.mark.parametrize("missing", [name for name in GOOD if name != "aliases"])
def test_a_missing_entry_is_named(missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"some.toml: instrument .*lacks '{missing}'"):
        parse({name: value for name, value in GOOD.items() if name != missing})


def test_aliases_may_be_left_out() -> None:
    assert parse({name: value for name, value in GOOD.items() if name != "aliases"})[0].aliases == ()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("tick_size", '"small"', "decimals"),
        ("tick_size", '"0"', "tick_size is positive"),
        ("tick_size", '"-0.01"', "tick_size is positive"),
        ("tick_size", '"0.0000000001"', "at most 9 decimals"),
        ("tick_size", '"0.0000000015"', "at most 9 decimals"),
        ("tick_size", '"NaN"', "tick_size"),
        ("tick_size", '"Infinity"', "tick_size"),
        ("default_spread", '"0.000125"', "default_spread is a multiple of tick_size"),
        ("default_spread", '"wide"', "decimals"),
        ("default_spread", '"NaN"', "default_spread"),
        ("asset_class", '"crypto"', "asset_class is one of forex"),
        ("price_kind", '"bid"', "price_kind is one of quote, trade"),
    ],
)
def test_a_wrong_value_is_told_with_file_and_instrument(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"some.toml: instrument 'EUR/USD'.*{told}"):
        parse(GOOD | {name: value})


def test_a_name_belongs_to_one_instrument() -> None:
    with pytest.raises(ConfigurationError, match="'EURUSD' names two instruments"):
        parse(GOOD, GOOD | {"symbol": '"EUR/GBP"'})


def test_a_symbol_is_declared_once() -> None:
    with pytest.raises(ConfigurationError, match="'EUR/USD' names two instruments"):
        parse(GOOD, GOOD)


def test_broken_toml_is_told_with_its_file() -> None:
    with pytest.raises(ConfigurationError, match=r"some\.toml: "):
        Instruments.from_toml("[[instrument]\n", "some.toml")


def test_the_declared_instruments_are_eight_pairs_and_two_futures() -> None:
    instruments = Topology.load().instruments
    kinds = [(i.asset_class, i.price_kind) for i in instruments]
    assert kinds == [("forex", "quote")] * 8 + [("commodity_future", "trade"), ("equity_future", "trade")]
    assert instruments.symbols[:5] == ("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD", "USD/CAD")


@pytest.mark.parametrize("name", ["EUR_USD", "EURUSD"])
def test_the_names_of_other_systems_are_understood(name: str) -> None:
    assert Topology.load().instruments.position(name) == 0
