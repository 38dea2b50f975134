"""State of a stage in its compacted topic: one record per partition, and how to come back from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sep_stream.errors import InputError, StateError
from sep_stream.market.avro import Schemas


@dataclass(frozen=True, slots=True)
class Snapshot:
    """next_offset: the first offset of the input that is not in `state`."""

    next_offset: int
    state: bytes


@dataclass(frozen=True, slots=True)
class SnapshotFormat:
    """How a stage's snapshots are written and which of them it can read."""

    schemas: Schemas
    stage: str
    state_version: int
    parameters: str

    def encode(self, partition: int, snapshot: Snapshot) -> bytes:
        return self.schemas.encode(
            "snapshot",
            {
                "stage": self.stage,
                "partition": partition,
                "next_offset": snapshot.next_offset,
                "state_version": self.state_version,
                "parameters": self.parameters,
                "state_sha256": hashlib.sha256(snapshot.state).hexdigest(),
                "state": snapshot.state,
            },
        )

    def newest(self, records: Iterable[tuple[int, bytes | None]], topic: str, partition: int) -> Snapshot | None:
        """The snapshot with the highest next_offset among (offset, value) records in log order.

        Not the last of the log: a worker that lost its partition may have written late. Raises StateError for a
        record that this stage can't use, unless a usable one follows it.
        """
        best: Snapshot | None = None
        fault: StateError | None = None
        for offset, value in records:
            if value is None:
                continue
            try:
                snapshot = self._decode(value, partition)
            except StateError as error:
                where = f"{topic}/{partition}, offset {offset}"
                fault = StateError(f"{where}: {error}; `--rebuild-state` makes the state anew from the log")
                continue
            fault = None
            if best is None or snapshot.next_offset >= best.next_offset:
                best = snapshot
        if fault is not None:
            raise fault
        return best

    def _decode(self, value: bytes, partition: int) -> Snapshot:
        try:
            name, record = self.schemas.decode(value)
        except InputError as error:
            raise StateError(f"corrupt snapshot: {error}") from error
        if name != "snapshot":
            raise StateError(f"corrupt snapshot: a {name} record")
        for field, expected in (
            ("stage", self.stage),
            ("partition", partition),
            ("state_version", self.state_version),
            ("parameters", self.parameters),
        ):
            if record[field] != expected:
                raise StateError(f"snapshot made with {field} {record[field]!r}; this worker has {expected!r}")
        if hashlib.sha256(record["state"]).hexdigest() != record["state_sha256"]:
            raise StateError("corrupt snapshot: its state does not have the recorded sha256")
        return Snapshot(record["next_offset"], record["state"])


def resume_offset(where: str, snapshot: Snapshot | None, committed: int | None, low: int, high: int) -> tuple[int, int]:
    """Where to read on from to rebuild a state, and the first offset whose outputs still have to be made.

    committed: the group's offset, None where it has none · low, high: the partition's first and next offset.
    Raises StateError where the log no longer holds what is needed.
    """
    start = snapshot.next_offset if snapshot else low
    resume = max(committed or 0, start)
    if snapshot is None and low > 0:
        raise StateError(
            f"{where}: the log begins at offset {low} and there is no snapshot of what came before; "
            "publish the events to a new prefix"
        )
    if start < low:
        raise StateError(
            f"{where}: the state stands at offset {start}, but the log begins at {low}: events between are gone; "
            "publish the events to a new prefix"
        )
    if resume > high:
        raise StateError(
            f"{where}: offset {resume} was handled before, but the log ends at {high}: it was cut or made anew; "
            "use a new prefix, or delete the consumer group and the snapshots"
        )
    return start, resume
