"""Strings and bytes of many rows in one buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.market.bulk_avro import VarColumn

VALUES = st.lists(st.none() | st.sampled_from([b"", b"a", b"b", b"ab", b"ba"]) | st.binary(max_size=6), max_size=40)


@given(VALUES)
def test_a_list_comes_back_as_it_was(values: list[bytes | None]) -> None:
    column = VarColumn.from_list(values)
    assert column.to_list() == values
    assert len(column) == len(values)


@given(VALUES, st.data())
def test_a_column_is_a_sequence_of_its_values(values: list[bytes | None], data: st.DataObject) -> None:
    column = VarColumn.from_list(values)
    assert list(column) == [column[row] for row in range(len(values))] == values
    rows = data.draw(st.slices(len(values)))
    assert list(column[rows]) == values[rows]
    with pytest.raises(IndexError):
        column[len(values)]


def test_a_column_is_taken_as_it_is() -> None:
    column = VarColumn.from_list([b"a"])
    assert VarColumn.of(column) is column
    assert list(VarColumn.of([b"a", None])) == [b"a", None]


def test_codes_choose_from_the_table_and_minus_one_is_null() -> None:
    column = VarColumn.from_codes(np.array([1, -1, 0, 1], np.int32), [b"x", b"yz"])
    assert column.to_list() == [b"yz", None, b"x", b"yz"]


def test_codes_of_an_empty_table_are_all_null() -> None:
    assert VarColumn.from_codes(np.array([-1, -1], np.int32), []).to_list() == [None, None]


def test_rows_of_an_array_are_their_bytes() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3)
    assert VarColumn.from_rows(rows).to_list() == [bytes(row) for row in rows.tolist()]


def test_rows_need_not_be_contiguous() -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, ::-2]
    assert VarColumn.from_rows(rows).to_list() == [bytes(row) for row in rows.tolist()]


def test_rows_of_width_zero_are_empty_and_not_null() -> None:
    assert VarColumn.from_rows(np.zeros((2, 0), np.uint8)).to_list() == [b"", b""]


@given(VALUES.filter(len), st.data())
def test_rows_may_be_taken_in_any_order_and_repeatedly(values: list[bytes | None], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20))
    assert VarColumn.from_list(values).take(np.array(rows, np.intp)).to_list() == [values[row] for row in rows]


@given(VALUES)
def test_interned_codes_name_the_same_values_in_order_of_appearance(values: list[bytes | None]) -> None:
    codes, table = VarColumn.from_list(values).intern()
    assert table == tuple(dict.fromkeys(value for value in values if value is not None))
    assert [None if code < 0 else table[code] for code in codes.tolist()] == values


def test_interning_tells_apart_what_only_begins_alike() -> None:
    values = [b"a", b"a\0", b"", b"\0", b"a", b"aa"]
    codes, table = VarColumn.from_list(values).intern()
    assert codes.tolist() == [0, 1, 2, 3, 0, 4]
    assert table == (b"a", b"a\0", b"", b"\0", b"aa")


def test_many_distinct_values_are_interned_each_once() -> None:
    values: list[bytes | None] = [str(k % 5000).encode() for k in range(10_000)]
    codes, table = VarColumn.from_list(values).intern()
    assert len(table) == 5000
    assert codes.tolist() == [k % 5000 for k in range(10_000)]


def test_nothing_interned_is_nothing() -> None:
    codes, table = VarColumn.from_list([]).intern()
    assert (len(codes), table) == (0, ())
