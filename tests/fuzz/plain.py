"""The decoder as plain Python, with each read of a byte watched.

`NUMBA_DISABLE_JIT=1 python -m tests.fuzz.plain SEED COUNT`

No read may leave the bytes of the string that is being decoded, not even for its neighbour's.
"""

from __future__ import annotations

import sys
from typing import Any

import numba as nb
import numpy as np

from sep_stream.market import bulk_avro
from tests.fuzz import corpus
from tests.fuzz.check import check
from tests.fuzz.strings import batches
from tests.market.schema_values import CODECS, FILLED, NAMES, written

_decode = bulk_avro._decode


class OutsideError(Exception):
    """A read outside the bytes of the string."""


class Watched:
    """Bytes of which only those from start to stop may be read."""

    def __init__(self, data: Any, start: int, stop: int) -> None:
        self.data, self.start, self.stop = data, start, stop

    def __getitem__(self, position: int) -> Any:
        if not self.start <= position < self.stop:
            raise OutsideError(f"byte {position} was read, of {self.start} to {self.stop}")
        return self.data[position]


def watch() -> None:
    """From now on, every string is decoded from Watched bytes."""
    if not nb.config.DISABLE_JIT:
        raise RuntimeError("the decoder is compiled: set NUMBA_DISABLE_JIT=1")
    bulk_avro._decode = _decode_watched
    for codec in CODECS.values():
        codec._program = codec._program.view(np.recarray)  # fields by attribute, as in compiled code


def _decode_watched(program: Any, ids: Any, data: Any, starts: Any, sizes: Any, errors: Any, *columns: Any) -> None:
    for k in range(len(starts)):
        row = slice(k, k + 1)
        body = Watched(data, int(starts[k]), int(starts[k] + sizes[k]))
        _decode(program, ids, body, starts[row], sizes[row], errors[row], *(c[:, row] for c in columns))


def sees_a_read_past_the_end() -> bool:
    """Whether the watch tells that the decoder was made to read on in its neighbour, by a size that is not true."""
    name = "pattern"
    whole = written(name, FILLED[name])
    true_size = len(whole) - 1
    columns = [np.zeros((4, 1), dtype) for dtype in (np.int64, np.uint64, np.uint8, np.int64, np.int32)]
    body = Watched(np.frombuffer(whole[:-1] + whole, np.uint8), 0, true_size)
    said = np.zeros(1, np.int64), np.array([true_size + 1], np.int32), np.zeros(1, np.uint8)
    try:
        _decode(CODECS[name]._program, CODECS[name].ids, body, *said, *columns)
    except OutsideError:
        return True
    return False


def main(seed: int, count: int) -> None:
    watch()
    assert sees_a_read_past_the_end(), "the watch sees nothing"
    for name in NAMES:
        for batch in batches(name, seed, count // len(NAMES)):
            check(name, batch)
    for data in (*corpus.seeds(), *corpus.found()):
        name, value = corpus.value_of(data)
        check(name, [value])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
