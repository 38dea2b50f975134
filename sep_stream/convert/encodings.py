"""Series of prices as bits. The metrics use `direction_bits`; the others are for research."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError

CANDLE_DTYPE: Final = np.dtype(
    [("time_s", "<u8"), ("open", "<f8"), ("high", "<f8"), ("low", "<f8"), ("close", "<f8"), ("volume", "<u8")]
)
"""The 48-byte candle record."""

WORD_BITS: Final = 64


def direction_bits(closes: npt.ArrayLike, deadband: int = 0) -> npt.NDArray[np.uint8]:
    """Bits (n,) uint8 of closes (n,) in points: 1 where the close rose by more than `deadband`, 0 where it
    fell by more, else the bit before; the first is 0. sep-metrics/1, section 2.

    Raises InputError if closes are not integers or deadband is negative.
    """
    points = np.asarray(closes)
    if not np.issubdtype(points.dtype, np.integer):
        raise InputError(f"closes: expected integers (points), got {points.dtype}")
    if deadband < 0:
        raise InputError(f"deadband: expected an integer >= 0, got {deadband}")
    return _direction_bits(points.astype(np.int64), deadband)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _direction_bits(points: npt.NDArray[np.int64], deadband: int) -> npt.NDArray[np.uint8]:
    bits = np.zeros(len(points), np.uint8)
    for i in range(1, len(points)):
        bits[i] = next_bit(points[i] - points[i - 1], deadband, bits[i - 1])
    return bits


@nb.njit(cache=True, nogil=True, error_model="numpy")
def next_bit(move: int, deadband: int, last: int) -> int:
    """The bit of a close that moved by `move` points."""
    if move > deadband:
        return 1
    if move < -deadband:
        return 0
    return last


def ieee754_bits(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Bits (64 n,) uint8 of the z-scores of values (n,), population σ (σ = 0 counts as 1), as IEEE-754 doubles:
    bytes in little-endian order, least significant bit of each byte first.

    Raises InputError on NaN, infinities or an empty series.
    """
    x = _finite(values, "values")
    if x.size == 0:
        raise InputError("values: expected at least one")
    sigma = x.std()
    z = (x - x.mean()) / (sigma if sigma > 0 else 1.0)
    return np.unpackbits(z.astype("<f8").view(np.uint8), bitorder="little")


def candle_bytes(time_s: npt.ArrayLike, ohlc: npt.ArrayLike, volume: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Bytes (n, 48) uint8 of candles: u64 unix seconds, f64 open, high, low, close, u64 volume, little-endian.

    time_s: (n,) int · ohlc: (n, 4) float · volume: (n,) int. Raises InputError on NaN, infinities, negative
    times or volumes, or shapes that don't agree.
    """
    prices = _finite(ohlc, "ohlc")
    times, volumes = np.asarray(time_s), np.asarray(volume)
    if prices.ndim != 2 or prices.shape[1] != 4 or times.shape != prices.shape[:1] or volumes.shape != times.shape:
        raise InputError(f"candles: expected (n,), (n, 4), (n,), got {times.shape}, {prices.shape}, {volumes.shape}")
    for name, column in (("time_s", times), ("volume", volumes)):
        if not np.issubdtype(column.dtype, np.integer) or (column < 0).any():
            raise InputError(f"{name}: expected integers >= 0")
    records = np.empty(len(prices), CANDLE_DTYPE)
    records["time_s"], records["volume"] = times, volumes
    for k, name in enumerate(("open", "high", "low", "close")):
        records[name] = prices[:, k]
    return records.view(np.uint8).reshape(len(prices), CANDLE_DTYPE.itemsize)


def pack_bits(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Words (..., ceil(n / 64)) uint64 of bits (..., n): bit k of word j is element 64 j + k; the rest is 0."""
    words = -(-bits.shape[-1] // WORD_BITS)
    packed = np.packbits(bits, axis=-1, bitorder="little")
    padded = np.zeros((*bits.shape[:-1], words * 8), np.uint8)
    padded[..., : packed.shape[-1]] = packed
    return padded.view("<u8")


def unpack_bits(words: npt.NDArray[Any], count: int) -> npt.NDArray[np.uint8]:
    """Bits (..., count) uint8 of little-endian words (..., w) uint64: the inverse of `pack_bits`."""
    as_bytes = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, count=count, bitorder="little")


def _finite(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if not np.isfinite(x).all():
        raise InputError(f"{name}: NaN or infinite at position {int(np.flatnonzero(~np.isfinite(x))[0])}")
    return x
