"""Bits of prices: the metrics' encoding and those for research."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.convert import candle_bytes, direction_bits, ieee754_bits, pack_bits, unpack_bits
from sep_stream.errors import InputError


def test_direction_bit_follows_the_move_and_keeps_its_value_inside_the_deadband() -> None:
    closes = [100, 103, 101, 99, 96, 98, 98]
    assert direction_bits(closes).tolist() == [0, 1, 0, 0, 0, 1, 1]
    assert direction_bits(closes, deadband=2).tolist() == [0, 1, 1, 1, 0, 0, 0]


def test_direction_bits_refuse_floats_and_a_negative_deadband() -> None:
    with pytest.raises(InputError, match="integers"):
        direction_bits([1.5, 2.0])
    with pytest.raises(InputError, match="deadband"):
        direction_bits([1, 2], deadband=-1)


def test_ieee754_bits_are_little_endian_with_the_least_significant_bit_first() -> None:
    bits = ieee754_bits([1.0, 3.0])  # z-scores -1 and 1
    packed = np.packbits(bits, bitorder="little").tobytes()
    assert struct.unpack("<2d", packed) == (-1.0, 1.0)


def test_ieee754_of_a_constant_series_is_all_zero_bits() -> None:
    assert not ieee754_bits([7.0, 7.0, 7.0]).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_encodings_for_research_reject_what_is_not_finite(bad: float) -> None:
    with pytest.raises(InputError, match="position 1"):
        ieee754_bits([1.0, bad])
    with pytest.raises(InputError, match="ohlc"):
        candle_bytes([0], [[1.0, 2.0, bad, 1.5]], [3])


def test_candle_is_a_record_of_48_little_endian_bytes() -> None:
    rows = candle_bytes([1_700_000_000], [[1.1, 1.4, 1.0, 1.2]], [42])
    assert rows.shape == (1, 48)
    assert struct.unpack("<QddddQ", rows[0].tobytes()) == (1_700_000_000, 1.1, 1.4, 1.0, 1.2, 42)


def test_candles_refuse_shapes_that_do_not_agree_and_negative_volume() -> None:
    with pytest.raises(InputError, match=r"\(n, 4\)"):
        candle_bytes([0, 60], [[1.0, 1.0, 1.0, 1.0]], [1])
    with pytest.raises(InputError, match="volume"):
        candle_bytes([0], [[1.0, 1.0, 1.0, 1.0]], [-1])


@given(st.lists(st.integers(0, 1), min_size=1, max_size=300))
def test_packed_bits_come_back_and_bit_k_of_word_j_is_element_64j_plus_k(elements: list[int]) -> None:
    bits = np.array(elements, np.uint8)
    words = pack_bits(bits)
    assert unpack_bits(words, len(bits)).tolist() == elements
    for position, element in enumerate(elements):
        assert int(words[position // 64]) >> (position % 64) & 1 == element
