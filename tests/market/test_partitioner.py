"""Partitions are those that Kafka's own clients choose."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from sep_stream.market.partitioner import murmur2, partition_for

KAFKAS_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed 32-bit integers."""


@pytest.mark.parametrize(("data", "signed"), KAFKAS_VECTORS.items())
def test_the_hash_is_that_of_kafkas_own_test(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


@given(st.binary(max_size=40))
def test_the_hash_is_that_of_aiokafka(data: bytes) -> None:
    assert murmur2(data) == aiokafka_murmur2(data) % 2**32


@given(st.binary(max_size=20), st.integers(1, 1000))
def test_the_partition_is_the_hash_without_its_sign_modulo_the_count(key: bytes, partitions: int) -> None:
    assert partition_for(key, partitions) == (aiokafka_murmur2(key) & 0x7FFFFFFF) % partitions
