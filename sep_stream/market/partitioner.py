"""Which partition a key belongs in: Kafka's murmur2, as its Java producer, Faust and aiokafka use it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash that Kafka's clients use, as an unsigned integer.

    A. Appleby's MurmurHash2 with the seed of org.apache.kafka.common.utils.Utils.
    """
    h = (_SEED ^ len(data)) & _MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=4096)
def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key` in a topic with that many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
