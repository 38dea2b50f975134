"""What all file formats are read into: columns of text, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.market.events import NULL
from sep_stream.sources.text import EXPECTED, Fault, parse_decimals, parse_times

TABLE_ROWS_MAX: Final = 50_000
_SHOWN_BYTES_MAX: Final = 60

Note = Callable[[str], None]
"""Takes a line for the user about what was read otherwise than it stands."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field's texts. label: its name in the file."""

    label: str
    text: VarColumn


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a file.

    place: what a position in it is called, `line`, `candle` or `row` · places: (n,) int64, the rows' positions from 1
    columns: by the names of the event's fields · time_us: (n,) int64 where the file has typed times
    """

    path: Path
    place: str
    places: npt.NDArray[np.int64]
    columns: Mapping[str, Column]
    time_us: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def decimals(self, name: str, tick: int = 0, nullable: bool = False) -> npt.NDArray[np.int64]:
        """A column as counts of 1e-9; all NULL where it may be and the file has none.

        tick: prices with more than 9 decimals are rounded to a multiple of it; 0: they are an error
        """
        if nullable and name not in self.columns:
            return np.full(len(self), NULL, np.int64)
        values, row, fault = parse_decimals(self.columns[name].text, nullable, tick)
        self._raise(name, row, fault)
        return values

    def times(self, assume_utc: bool) -> npt.NDArray[np.int64]:
        """The column `time` in µs since the epoch."""
        if self.time_us is not None:
            return self.time_us
        values, row, fault = parse_times(self.columns["time"].text, assume_utc)
        self._raise("time", row, fault)
        return values

    def _raise(self, name: str, row: int, fault: Fault) -> None:
        if fault:
            column = self.columns[name]
            text = column.text.take(np.array([row])).to_list()[0] or b""
            shown = text[:_SHOWN_BYTES_MAX].decode(errors="replace")
            raise self.error(row, column.label, f"{EXPECTED[fault]}, got {shown!r}")

    def error(self, row: int, label: str, fault: str) -> InputError:
        """An error that names the file, the row's place and the field."""
        return InputError(f"{self.path}: {self.place} {self.places[row]}: field {label!r}: {fault}")
