"""Rows to Parquet, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def parquet_rows(file: Path | IO[bytes], schema: pa.Schema) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Takes columns by name, those of the schema, and writes them behind the ones before."""
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda columns: writer.write_table(
            pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
        )
