"""Events → bars → bits → windows: `MarketDataConverter` and what it is made of."""

from sep_stream.convert.converter import ConvertOutput, ConvertParameters, MarketDataConverter, Rejection
from sep_stream.convert.encodings import candle_bytes, direction_bits, ieee754_bits, pack_bits, unpack_bits

__all__ = [
    "ConvertOutput",
    "ConvertParameters",
    "MarketDataConverter",
    "Rejection",
    "candle_bytes",
    "direction_bits",
    "ieee754_bits",
    "pack_bits",
    "unpack_bits",
]
