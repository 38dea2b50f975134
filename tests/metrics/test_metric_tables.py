from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from sep_stream.metrics.tables import tables


def test_powers_of_two_are_exact() -> None:
    t = tables(256).t
    assert [t[2**k] for k in range(9)] == [k * 2**k for k in range(9)]


def test_entries_are_within_half_a_unit_in_the_last_place() -> None:
    table = tables(600)
    for n in range(1, 601):
        assert abs(Fraction(float(table.i[n])) - Fraction(1, n)) * 2 <= Fraction(math.ulp(table.i[n]))
        assert math.isclose(table.t[n], n * math.log2(n), rel_tol=1e-15)
        assert math.isclose(table.r[n], 1 / (n * math.log2(3)), rel_tol=1e-15)
    factorials = [float(Fraction(1, math.factorial(k))) for k in range(21)]
    assert table.e.tolist() == factorials


def test_a_larger_table_begins_with_the_smaller_one() -> None:
    small, large = tables(50), tables(200)
    for name in ("t", "r", "i"):
        assert np.array_equal(getattr(small, name), getattr(large, name)[:51])


def test_tables_cannot_be_written_to() -> None:
    table = tables(20)
    assert not any(array.flags.writeable for array in (table.t, table.r, table.i, table.e))
