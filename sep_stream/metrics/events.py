"""Bits as events: each adjacent pair is NULL, FLIP or RUPTURE. sep-metrics/1, section 4."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from sep_stream.errors import InputError


class Event(IntEnum):
    """NULL: 00 · FLIP: 01 or 10 · RUPTURE: 11."""

    NULL = 0
    FLIP = 1
    RUPTURE = 2


@dataclass(frozen=True, slots=True)
class EventRuns:
    """Equal events in a row, as columns: state (r,) uint8, index of the first event (r,) int64, length (r,) int64."""

    state: npt.NDArray[np.uint8]
    first: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.state)


def event_list(bits: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Events (n - 1,) uint8 of bits (n,), see `Event`; none for fewer than two bits.

    Raises InputError if bits are not a series of 0 and 1.
    """
    b = as_bits(bits)
    return b[:-1] + b[1:]


def event_runs(events: npt.ArrayLike) -> EventRuns:
    """Runs of equal events, in order: the run-length aggregation of an event list (n,)."""
    states = np.asarray(events, np.uint8)
    if len(states) == 0:
        return EventRuns(states, np.empty(0, np.int64), np.empty(0, np.int64))
    first = np.concatenate(([0], np.flatnonzero(np.diff(states)) + 1)).astype(np.int64)
    return EventRuns(states[first], first, np.diff(np.append(first, len(states))))


def as_bits(bits: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The series (n,) uint8, contiguous; InputError if anything in it is not 0 or 1."""
    array = np.asarray(bits)
    if array.size == 0:
        return np.empty(0, np.uint8)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise InputError(f"bits: expected one series of integers, got {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"bits: expected 0 and 1, got {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, np.uint8)
