"""CPU sets as users of taskset, numactl and hwloc write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.binding.cpu_list import CPU_NUMBER_MAX, format_cpus, parse_cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", {0}),
        ("12", {12}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("8,0-3,2", {0, 1, 2, 3, 8}),
        ("0-7:3", {0, 3, 6}),
        ("5-5", {5}),
        ("0x1", {0}),
        ("0xF0", {4, 5, 6, 7}),
        ("0x00000001,0x80000000", {31, 32}),
        ("0x1,0x0", {32}),
        ("0x1,,0x2", {1, 64}),
        (f"{CPU_NUMBER_MAX}", {CPU_NUMBER_MAX}),
    ],
)
def test_lists_and_masks_are_read(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "all", "-1", "1-", "3-1", "0-3:0", "1,,2", "1,", "0 1", "1.5", "ff", "0x", "0xg", "0x0", "0x1,0",
        "0x1,0x123456789", "0-3,0x1", "¹", "65536", "0-65536", "0-4000000000", "0x1" + 30_000 * "0", "0xf...f",
    ],
)  # fmt: skip
def test_anything_else_is_told_with_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a list of CPUs such as 0-3,8 or a mask such as 0xff"):
        parse_cpus(text)


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_what_is_written_is_read_again(cpus: frozenset[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus
    assert parse_cpus(hex(sum(1 << cpu for cpu in cpus))) == cpus


def test_neighbours_are_written_as_ranges() -> None:
    assert format_cpus({8, 3, 2, 1, 0, 10, 9}) == "0-3,8-10"
    assert format_cpus({4}) == "4"
    assert format_cpus(()) == ""
