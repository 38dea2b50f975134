"""A million strings, most of them damaged: each gives values or a reason, and the two oracles agree."""

from __future__ import annotations

from collections import Counter

import pytest

from sep_stream.market.events import Reason
from tests.fuzz.check import Outcome, check
from tests.fuzz.strict_avro import Fault
from tests.fuzz.strings import batches
from tests.market.schema_values import NAMES

FEW, MANY = -(-50_000 // len(NAMES)), -(-1_000_000 // len(NAMES))


def checked(name: str, seed: int, count: int) -> Counter[Outcome]:
    return sum((check(name, batch) for batch in batches(name, seed, count)), Counter())


@pytest.mark.parametrize("name", NAMES)
def test_any_string_gives_values_or_a_reason(name: str) -> None:
    seen = checked(name, 1, FEW)
    assert seen.total() == FEW
    assert seen.keys() >= {Reason.OK, Reason.TOMBSTONE, Reason.BAD_MAGIC, Reason.UNKNOWN_SCHEMA, Fault.END, Fault.MORE}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_of_a_million_strings_gives_values_or_a_reason(name: str) -> None:
    assert checked(name, 2, MANY).total() == MANY


def test_the_strings_try_every_outcome_of_a_body() -> None:
    """Of the schema with the most kinds of fields."""
    seen = checked("trading_result", 3, 3000)
    assert seen.keys() >= {*Fault} - {Fault.BRANCH, Fault.BRANCH_BELOW_ZERO, Fault.INT} | {Reason.DECIMAL_RANGE}
    assert checked("window", 3, 3000).keys() >= {Fault.BRANCH, Fault.BRANCH_BELOW_ZERO, Fault.INT}
