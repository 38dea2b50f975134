"""Decoded records as JSON values, in the fields that the command line prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np

_PACKED: Final = {"path": "<f4", "prices": "<i4"}
"""Lists that records carry as little-endian bytes."""
_BULKY: Final = frozenset({"path", "prices", "bits", "state", "value", "matches"})
_SIGNAL_FIRST: Final = (
    "signal_id", "instrument", "timeframe", "anchor_time", "available_at", "direction", "confidence", "p_up",
    "expected_move", "gate", "confirmed", "m5_signal_id", "m15_signal_id", "matches", "reason", "model_id",
    "metrics_version",
)  # fmt: skip


def json_record(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the schema `name`: decimals as text without idle zeros, times in ISO 8601, lists unpacked, other
    bytes as text where they are such, else in hex. A signal has gate and matches expanded, its bar's fields last."""
    fields = {key: _value(key, value) for key, value in record.items()}
    return _signal(fields) if name == "signal" else fields


def text_record(fields: Mapping[str, Any]) -> str:
    """A record on one line: null fields left out, long ones only named with their length."""
    shown = {key: value for key, value in fields.items() if value is not None}
    return "  ".join(f"{key}={_brief(key, value)}" for key, value in shown.items())


def _signal(fields: dict[str, Any]) -> dict[str, Any]:
    fields["gate"] = {"passed": fields.pop("gate_passed"), "failed": json.loads(fields.pop("gate_failed"))}
    fields["matches"] = [
        match | {"anchor_time": _time(datetime.fromtimestamp(match["anchor_time"], UTC))}
        for match in json.loads(fields["matches"])
    ]
    return {key: fields[key] for key in _SIGNAL_FIRST} | fields


def _value(key: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, bytes):
        return np.frombuffer(value, _PACKED[key]).tolist() if key in _PACKED else _bytes(value)
    if isinstance(value, dict):
        return {inner: _value(inner, part) for inner, part in value.items()}
    return value


def _time(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else value.hex()


def _brief(key: str, value: Any) -> str:
    if key in _BULKY:
        return f"<{len(value)}>"
    if isinstance(value, dict):
        return f"({text_record(value)})"
    return str(value)
