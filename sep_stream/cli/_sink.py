"""Where rows go: NDJSON on stdout or in a file, or Parquet. A file appears whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final

import click
import numpy as np

from sep_stream.files import drafts

Columns = Mapping[str, Any]
"""n-long columns by name: lists, or datetime64[s] arrays in UTC with NaT for null."""
Write = Callable[[Columns], None]

SUFFIXES: Final = (".ndjson", ".parquet")


def out_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flag --out."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_checked,
        metavar="X.ndjson|X.parquet",
        help="Written whole or not at all; left out: NDJSON on stdout.",
    )(command)


def _checked(_: click.Context, __: click.Parameter, out: Path | None) -> Path | None:
    if out is not None and out.suffix not in SUFFIXES:
        raise click.BadParameter(f"expected a name that ends in {' or '.join(SUFFIXES)}, got {str(out)!r}")
    if out is not None and not out.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(out.parent)!r}")
    return out


@contextmanager
def sink(out: Path | None, schema: Callable[[], Any]) -> Iterator[Write]:
    """Takes columns batch by batch. schema: makes the Arrow schema, where the rows go to Parquet.

    In NDJSON decimals are strings, times ISO 8601, and floats have the digits that bring them back.
    """
    if out is None:
        yield lambda columns: _write_lines(sys.stdout, columns)
        sys.stdout.flush()
        return
    with drafts(out) as [draft]:
        if out.suffix == ".parquet":
            from sep_stream.stores.parquet import parquet_rows

            with draft.open("wb") as binary, parquet_rows(binary, schema()) as write:
                yield write
        else:
            with draft.open("w", encoding="utf-8") as text:
                yield lambda columns: _write_lines(text, columns)


def _write_lines(file: IO[str], columns: Columns) -> None:
    names = list(columns)
    for row in zip(*(_json_values(column) for column in columns.values()), strict=True):
        file.write(json.dumps(dict(zip(names, row, strict=True)), default=_json_value) + "\n")


def _json_values(column: Any) -> list[Any]:
    if not isinstance(column, np.ndarray):
        return list(column)
    return [None if text == "NaT" else text + "Z" for text in np.datetime_as_string(column).tolist()]


def _json_value(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(f"{type(value).__name__} has no place in a row")
