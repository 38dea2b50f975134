"""What the coverage-guided fuzzer begins with and what it found, replayed in the compiled build."""

from __future__ import annotations

from tests.fuzz.check import check
from tests.fuzz.corpus import found, seeds, value_of
from tests.market.schema_values import FILLED, NAMES, written


def try_input(data: bytes) -> None:
    name, value = value_of(data)
    check(name, [value, written(name, FILLED[name])])


def test_the_seeds_hold_and_are_of_every_schema() -> None:
    inputs = list(seeds())
    for data in inputs:
        try_input(data)
    assert {data[0] for data in inputs} == set(range(len(NAMES)))


def test_what_was_found_once_holds_now() -> None:
    for data in found():
        try_input(data)
