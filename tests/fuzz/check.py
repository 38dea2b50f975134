"""What must hold of any strings that the bulk codec decodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sep_stream.market.bulk_avro import Decoded, VarColumn
from sep_stream.market.events import Reason
from tests.fuzz.strict_avro import FASTAVRO_TAKES, Fault, Reading, reading
from tests.market.schema_values import CODECS, Record, is_blank, read, row_of, same, written

Outcome = Reason | Fault


def check(name: str, values: Sequence[bytes | None]) -> Counter[Outcome]:
    """How many of the strings were what. AssertionError names the schema and the string that breaks a rule.

    Each gives what the specification says, alone and in the batch, and so never depends on its neighbours' bytes;
    what is accepted is what fastavro reads, and is encoded to what fastavro writes; what is refused is refused by
    fastavro too, but for FASTAVRO_TAKES.
    """
    codec = CODECS[name]
    together = codec.decode(values)
    seen: Counter[Outcome] = Counter()
    records = []
    for k, value in enumerate(values):
        expected, alone, told = reading(name, value), codec.decode([value]), f"{name}: {value!r}"
        assert together.errors[k] == alone.errors[0] == expected.reason, told
        if expected.reason == Reason.OK:
            assert same(row_of(name, together.columns, k), expected.record), told
            assert same(row_of(name, alone.columns, 0), expected.record), told
            records.append(expected.record)
        assert agrees_with_fastavro(name, value, expected), told
        seen[expected.fault or expected.reason] += 1
    assert all(map(is_blank, _columns(together, together.errors != Reason.OK).values())), name
    accepted = _columns(together, together.errors == Reason.OK)
    assert codec.encode(accepted, len(records)).values() == [written(name, record) for record in records], name
    return seen


def _columns(decoded: Decoded, rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The columns of some rows."""
    taken = np.flatnonzero(rows)
    return {n: c.take(taken) if isinstance(c, VarColumn) else c[taken] for n, c in decoded.columns.items()}


def agrees_with_fastavro(name: str, value: bytes | None, expected: Reading) -> bool:
    if expected.reason not in (Reason.OK, Reason.MALFORMED):
        return True  # fastavro knows no frames, and takes decimals of any size
    found = by_fastavro(name, value)
    if expected.reason == Reason.OK:
        return found is not None and same(found, expected.record)
    return found is None or expected.fault in FASTAVRO_TAKES


def by_fastavro(name: str, value: bytes | None) -> Record | None:
    """What fastavro reads; None where it refuses, in any of its many ways, or leaves bytes behind."""
    assert value is not None
    try:
        return read(name, value)
    except (EOFError, IndexError, UnicodeDecodeError, AssertionError, OverflowError, MemoryError):
        return None
