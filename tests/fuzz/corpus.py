"""Inputs of the coverage-guided fuzzer: what they mean, where it begins, and what it found."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.fuzz.strict_avro import HEADER_BYTES, reading
from tests.fuzz.strings import VARINTS, random_record
from tests.market.schema_values import FILLED, NAMES, WALKS, header, written

_RECORDS = 6
"""Random records of each schema that the fuzzer begins with."""

_FOUND: tuple[str, ...] = ()
"""Inputs, in hex, that once broke a rule of `check`."""


def value_of(data: bytes) -> tuple[str, bytes]:
    """Schema and value that an input stands for: a byte that chooses the schema, one that says whether to frame the
    rest as a record of it, the rest."""
    schema, framed = (*data[:2], 0, 0)[:2]
    name = NAMES[schema % len(NAMES)]
    return name, (header(name) if framed % 2 else b"") + data[2:]


def _input(name: str, value: bytes) -> bytes:
    return bytes([NAMES.index(name), 1]) + value[HEADER_BYTES:]


def seeds() -> Iterator[bytes]:
    """Inputs to begin with: sound records of every schema, and each kind of token once with a strange varint."""
    rng = random.Random(0)
    for name in NAMES:
        rows = [FILLED[name], {**FILLED[name], **{field: None for field, nullable, _ in WALKS[name] if nullable}}]
        rows += [random_record(rng, name) for _ in range(_RECORDS)]
        for row in rows:
            yield _input(name, written(name, row))
        whole = written(name, FILLED[name])
        yield bytes([NAMES.index(name), 0]) + whole
        for token in {token.kind: token for token in reading(name, whole).tokens}.values():
            yield _input(name, whole[: token.start] + rng.choice(VARINTS) + whole[token.stop :])


def found() -> list[bytes]:
    """Inputs that once broke a rule of `check`."""
    return [bytes.fromhex(text) for text in _FOUND]
