"""The strings in a build whose array accesses are checked.

`NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=FOLDER python -m tests.fuzz.bounds SEED COUNT`

The folder is its own: Numba's cache does not tell checked code from unchecked. `check` decodes each
string alone too, in an array that ends where the string does, so that any read past it is out of bounds. What is
decoded goes on through the rules for events and the converter, which are checked as well.
"""

from __future__ import annotations

import sys

import numpy as np

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market import bulk_avro
from sep_stream.market.decode import decode_events
from tests.convert.described import DECLARED
from tests.fuzz.check import check
from tests.fuzz.strings import batches
from tests.market.schema_values import CODECS, FILLED, NAMES, written


def main(seed: int, count: int) -> None:
    assert sees_a_read_past_the_end(), "the bounds are not checked: set NUMBA_BOUNDSCHECK=1 and a NUMBA_CACHE_DIR"
    for name in NAMES:
        for batch in batches(name, seed, count // len(NAMES)):
            check(name, batch)
    converter = MarketDataConverter(DECLARED, ConvertParameters(history=12, forward=1))
    for batch in batches("market_event", seed + 1, count // len(NAMES)):
        keys = [b"EUR/USD"] * len(batch)
        converter.feed(decode_events(CODECS["market_event"], DECLARED, keys, batch, np.arange(len(batch)), 0, 8))
        converter.feed(decode_events(CODECS["market_event"], DECLARED, keys, batch, np.arange(len(batch))))


def sees_a_read_past_the_end() -> bool:
    """Whether the compiled loop itself tells that it was made to read a byte too far, by a size that is not true."""
    name = "pattern"
    codec, cut = CODECS[name], written(name, FILLED[name])[:-1]
    columns = [np.zeros((4, 1), dtype) for dtype in (np.int64, np.uint64, np.uint8, np.int64, np.int32)]
    said = np.zeros(1, np.int64), np.array([len(cut) + 1], np.int32), np.zeros(1, np.uint8)
    try:
        bulk_avro._decode(codec._program, codec.ids, np.frombuffer(cut, np.uint8), *said, *columns)
    except IndexError:
        return True
    return False


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
