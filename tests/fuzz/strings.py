"""Seeded byte strings that are records, nearly records, and nothing of the kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.fuzz.strict_avro import HEADER_BYTES, Token, reading
from tests.market.schema_values import (
    EXTREME_DECIMALS,
    EXTREME_FLOATS,
    EXTREME_LONGS,
    LONGEST_VARINT,
    NAMES,
    WALKS,
    WILD_VARINTS,
    Record,
    header,
    long_bytes,
    written,
)

_RECORDS = 24
"""Sound records of a schema that its strings are made from."""

VARINTS = [
    *WILD_VARINTS,
    LONGEST_VARINT,
    b"\x80\x00",  # 0, longer than need be
    b"\x82" + b"\x80" * 8 + b"\x00",  # 1, as long as may be
    b"\x82" + b"\x80" * 9 + b"\x00",  # 1, a byte longer
    *(long_bytes(value) for value in (-1, 1, 2, 6, 127, -(2**31) - 1, 2**31, 2**32, 10_000_000, 2**62, 2**63 - 1)),
    *(long_bytes(-value) for value in (2, 6, 2**32, 2**62, 2**63)),
]
BODIES = [b"", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "€".encode()[:2], b"\xff" * 17, b"\0" * 40]


def batches(name: str, seed: int, count: int) -> Iterator[list[bytes | None]]:
    """`count` strings for the codec of a schema, in batches of a hundred or so; neighbours may belong together."""
    rng = random.Random(f"{name} {seed}")
    sound = [written(name, random_record(rng, name)) for _ in range(_RECORDS)]
    tokens = [reading(name, value).tokens for value in sound]
    left = count
    while left > 0:
        batch: list[bytes | None] = []
        while len(batch) < min(100, left):
            k = rng.randrange(_RECORDS)
            batch += _some(rng, name, sound[k], tokens[k], rng.choice(sound))
        yield batch[:left]
        left -= len(batch)


def _some(rng: random.Random, name: str, whole: bytes, tokens: Sequence[Token], other: bytes) -> Sequence[bytes | None]:
    at, token = rng.randrange(len(whole) + 1), rng.choice(tokens)
    match rng.randrange(14):
        case 0:
            return [whole]
        case 1:  # the next string goes on where this one was cut
            return [whole[:at], whole[at:]]
        case 2:
            return [whole[:at], other]
        case 3:
            return [whole + rng.choice([other, other[HEADER_BYTES:], b"\0", rng.randbytes(3)])]
        case 4:  # the head of one, the tail of another
            return [whole[: token.start] + other[min(token.start, len(other)) :]]
        case 5 | 6:
            return [_put(whole, token, rng.choice(VARINTS))]
        case 7:  # a length that leads a little further, or wherever
            lengths = [t for t in tokens if t.kind == "length"]
            if not lengths:
                return [_put(whole, token, rng.choice(VARINTS))]
            length = rng.choice(lengths)
            room = len(whole) - length.stop
            size = rng.choice([room, room + 1, room - 1, room + len(other), -room, rng.randrange(1 << 40)])
            return [_put(whole, length, long_bytes(size)), other]
        case 8:
            body = rng.choice([*BODIES, rng.randbytes(rng.randrange(20))])
            return [_put(whole, token, long_bytes(len(body)) + body)]
        case 9 | 10:
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 1, 1, 2, 8])):
                damaged[rng.randrange(HEADER_BYTES, len(whole))] = rng.randrange(256)
            return [bytes(damaged)]
        case 11:
            gone = rng.randrange(4)
            return [whole[:at] + rng.randbytes(rng.randrange(4)) + whole[at + gone :]]
        case 12:
            return [header(name) + rng.randbytes(rng.randrange(80))]
        case _:
            return [
                rng.choice([
                    None, b"", header(name), header(rng.choice(NAMES)) + whole[HEADER_BYTES:], b"\1" + whole[1:],
                    whole[: rng.randrange(HEADER_BYTES)], rng.randbytes(rng.randrange(60)), whole[HEADER_BYTES:],
                ])
            ]  # fmt: skip


def _put(whole: bytes, token: Token, what: bytes) -> bytes:
    return whole[: token.start] + what + whole[token.stop :]


def random_record(rng: random.Random, name: str) -> Record:
    return _fields(rng, WALKS[name])


def _fields(rng: random.Random, fields: Sequence[tuple[str, bool, Any]]) -> Record:
    return {name: None if nullable and rng.random() < 0.4 else _value(rng, kind) for name, nullable, kind in fields}


def _value(rng: random.Random, kind: Mapping[str, Any]) -> Any:
    if kind["type"] == "record":
        return _fields(rng, kind["fields"])
    if kind.get("logicalType") == "decimal":
        most = 10 ** kind["precision"] - 1
        return rng.choice([*EXTREME_DECIMALS, most, -most, rng.randint(-most, most)])
    return {
        "enum": lambda: rng.choice(kind["symbols"]),
        "int": lambda: rng.choice([0, 60, 2**31 - 1, -(2**31), rng.randint(-(2**31), 2**31 - 1)]),
        "long": lambda: rng.choice([*EXTREME_LONGS, rng.randint(-(2**62), 2**62)]),
        "double": lambda: rng.choice([*EXTREME_FLOATS, struct.unpack("<d", rng.randbytes(8))[0]]),
        "boolean": lambda: rng.random() < 0.5,
        "bytes": lambda: rng.randbytes(rng.randrange(12)),
        "string": lambda: "".join(rng.choices(["EUR/USD", "a", "€", "𝄞", "\0"], k=rng.randrange(4))),
    }[kind["type"]]()
