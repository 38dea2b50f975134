"""Nearest paths and what they say, on a device: a library in parts that fit, queries as many at once as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.gpu.device import Device, Memory
from sep_stream.gpu.stretches import ALIGNMENT, THREADS, Field, Layout, Slot
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import NAMED_MATCHES, Votes

PART_ROWS_MAX: Final = 1 << 20
"""Of a library: 200 MB of paths on their way to 50 MB of bytes."""
QUERIES_AT_ONCE_MAX: Final = 4_096
"""With them a part of PART_ROWS_MAX rows in blocks of 64 keeps a GPU busy for milliseconds."""

_GROUP_FACTOR: Final = 4
"""Entries of which `best_blocks` keeps a quarter: each pass costs as much as this times k for each entry."""
_QUERIES_PER_THREAD: Final = 4
"""As nearest.cu has it."""

Int64 = npt.NDArray[np.int64]
Spans = list[tuple[int, int]]
"""First row and rows of each part of a library."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some rows of a library, quantised, on a device: a whole number of blocks, but for the last."""

    first_row: int
    rows: int
    blocks: int
    words: int
    norm: int
    memory: Memory


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Of a library, on a device: what its rows are quantised by, and their outcomes. Addresses."""

    mu: int
    sigma: int
    outcome: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a search. width: values of a path, 3K · matches: blocks that vote"""

    width: int
    block_rows: int
    matches: int

    @property
    def words(self) -> int:
        """Four values of a path each."""
        return -(-self.width // 4)

    @property
    def group(self) -> int:
        return _GROUP_FACTOR * self.matches

    def blocks(self, rows: int) -> int:
        return -(-rows // self.block_rows)

    def row_bytes(self) -> int:
        """Of a row that is quantised."""
        return 4 * self.words + 4

    def part_bytes(self, rows: int) -> int:
        return self.blocks(rows) * self.block_rows * self.row_bytes() + 2 * ALIGNMENT

    def upload_bytes(self, rows: int) -> int:
        """What a part takes while it is made."""
        return self.part_bytes(rows) + 4 * self.width * rows

    def whole_blocks(self, rows: int) -> int:
        """So many rows, cut to whole blocks; one at least."""
        return max(1, rows // self.block_rows) * self.block_rows


def head_of(device: Device, slot: Slot, library: PathLibrary) -> Head:
    """Copy a library's head to the device."""
    columns = (library.mu, library.sigma, library.outcome)
    sizes = [-(-column.nbytes // ALIGNMENT) * ALIGNMENT for column in columns]
    memory = device.allocate(sum(sizes))
    mu, sigma, outcome = (memory.address + sum(sizes[:k]) for k in range(3))
    for column, address in zip(columns, (mu, sigma, outcome), strict=True):
        device.copy_in(address, np.ascontiguousarray(column), slot.main)
    slot.wait()
    return Head(mu, sigma, outcome, memory)


def part_of(
    device: Device, slot: Slot, library: PathLibrary, head: Head, shape: Shape, first_row: int, rows: int
) -> Part:
    """Copy some rows' paths to the device, and quantise them there."""
    blocks = shape.blocks(rows)
    words_bytes = -(-4 * blocks * shape.block_rows * shape.words // ALIGNMENT) * ALIGNMENT
    memory = device.allocate(shape.part_bytes(rows))
    part = Part(first_row, rows, blocks, memory.address, memory.address + words_bytes, memory)
    paths = np.ascontiguousarray(library.paths[first_row : first_row + rows])
    on_device = device.allocate(paths.nbytes)
    device.copy_in(on_device.address, paths, slot.main)
    slot.launch(
        "quantise",
        blocks * shape.block_rows,
        [
            on_device.address, np.int64(shape.width), np.int64(1), np.int64(rows), np.int32(shape.width),
            np.int32(shape.block_rows), head.mu, head.sigma, part.words, part.norm,
        ],
    )  # fmt: skip
    slot.wait()
    return part


def parts_of(rows: int, part_rows: int) -> Spans:
    """So many rows in parts."""
    return [(first, min(part_rows, rows - first)) for first in range(0, rows, part_rows)]


def search_fields(queries: int, parts: Spans, shape: Shape) -> tuple[list[Field], list[Field]]:
    """scratch and outputs of a search for some queries, which are quantised already."""
    k, n = shape.matches, queries
    blocks_max = max(shape.blocks(rows) for _, rows in parts)
    groups = max(1, -(-max(blocks_max, len(parts) * k) // shape.group))
    scratch = [Field("cosine", (n, blocks_max), np.float64), Field("row", (n, blocks_max), np.int32)]
    for name in ("even", "odd"):
        scratch += [
            Field(f"{name}_cosine", (n, groups * k), np.float64),
            Field(f"{name}_row", (n, groups * k), np.int32),
        ]
    scratch += [Field("all_cosine", (n, len(parts) * k), np.float64), Field("all_row", (n, len(parts) * k), np.int32)]
    outputs = [
        *(Field(name, (n,), np.float64) for name in ("p_up", "expected", "weight")),
        Field("match_cosine", (n, NAMED_MATCHES), np.float64),
        Field("match_row", (n, NAMED_MATCHES), np.int32),
    ]
    return scratch, outputs


def queries_layout(queries: int, parts: Spans, shape: Shape) -> Layout:
    """The memory of a search whose paths come from the host."""
    scratch, outputs = search_fields(queries, parts, shape)
    return Layout(
        [Field("paths", (queries, shape.width), np.float32), Field("eligible", (len(parts), queries), np.int64)],
        [Field("queries", (shape.words, queries), np.int32), Field("query_norm", (queries,), np.int32), *scratch],
        outputs,
    )


def largest_that_fits(bytes_max: float, layout: Callable[[int], Layout], queries: int) -> int:
    """The most queries, up to so many, whose search takes no more than so many bytes; one at least."""
    while queries > 1 and layout(queries).size > bytes_max:
        queries //= 2
    return queries


def eligible_in_parts(eligible: Int64, parts: Spans) -> Int64:
    """(parts, q): how many rows of each part, from its first, each query may see."""
    return np.stack([eligible - first for first, _ in parts])


def launch_queries(slot: Slot, head: Head, shape: Shape, queries: int) -> None:
    """Quantise the paths in a slot."""
    slot.launch(
        "quantise",
        queries,
        [
            slot["paths"], np.int64(shape.width), np.int64(1), np.int64(queries), np.int32(shape.width), np.int32(1),
            head.mu, head.sigma, slot["queries"], slot["query_norm"],
        ],
    )  # fmt: skip


def launch_search(
    slot: Slot, head: Head, parts: Iterator[Part], count: int, shape: Shape, queries: int, of: int, at: int | None
) -> None:
    """Search `count` parts one after the other, and count the votes.

    of: how many quantised paths there are · at: address of the positions of those that are looked for; None: all
    """
    k = np.int32(shape.matches)
    for number, part in enumerate(parts):
        items = -(-part.blocks // THREADS) * THREADS * -(-queries // _QUERIES_PER_THREAD)
        slot.launch(
            "best_rows",
            items,
            [
                part.words, part.norm, np.int64(part.rows), np.int32(shape.block_rows), np.int32(shape.words),
                slot["queries"], slot["query_norm"], np.int64(of), at, slot["eligible"] + 8 * queries * number,
                np.int64(queries), slot["cosine"], slot["row"],
            ],
        )  # fmt: skip
        best = _launch_best(slot, "", part.blocks, queries, shape)
        slot.launch(
            "place",
            queries * shape.matches,
            [
                slot[f"{best}cosine"], slot[f"{best}row"], np.int64(queries), k, np.int32(part.first_row),
                np.int32(count), np.int32(number), slot["all_cosine"], slot["all_row"],
            ],
        )  # fmt: skip
    best = "all_" if count == 1 else _launch_best(slot, "all_", count * shape.matches, queries, shape)
    slot.launch(
        "votes",
        queries,
        [
            slot[f"{best}cosine"], slot[f"{best}row"], np.int64(queries), k, head.outcome, np.int32(NAMED_MATCHES),
            *(slot[name] for name in ("p_up", "expected", "weight", "match_cosine", "match_row")),
        ],
    )  # fmt: skip


def _launch_best(slot: Slot, source: str, entries: int, queries: int, shape: Shape) -> str:
    """Keep the best of entries, until they are k for each query; tells which arrays hold them."""
    target = "even_"
    while True:
        groups = max(1, -(-entries // shape.group))
        slot.launch(
            "best_blocks",
            groups * shape.group * queries,
            [
                slot[f"{source}cosine"], slot[f"{source}row"], np.int64(entries), np.int64(queries),
                np.int32(shape.group), np.int32(shape.matches), slot[f"{target}cosine"], slot[f"{target}row"],
            ],
        )  # fmt: skip
        if groups == 1:
            return target
        source, target, entries = target, "odd_" if target == "even_" else "even_", groups * shape.matches


def no_votes(queries: int) -> Votes:
    """What is said where no row may be seen."""
    zeros = np.zeros(queries)
    rows = np.full((queries, NAMED_MATCHES), -1, np.int64)
    return Votes(np.full(queries, 0.5), zeros, zeros.copy(), rows, np.zeros((queries, NAMED_MATCHES)))


def take_votes(slot: Slot, votes: Votes, rows: slice) -> None:
    """Lay what came back into the rows of votes."""
    names = {"p_up": "p_up", "expected": "expected_move", "weight": "weight"}
    for name, column in {**names, "match_row": "match_row", "match_cosine": "match_cosine"}.items():
        target: npt.NDArray[Any] = getattr(votes, column)
        target[rows] = slot.host(name)
