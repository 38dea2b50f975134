"""The converter against the rules and against itself under any chunking."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sep_stream.convert import ConvertParameters, MarketDataConverter, direction_bits
from sep_stream.convert.converter import ConvertOutput
from sep_stream.errors import StateError
from sep_stream.market.decode import events_from_records
from sep_stream.market.events import EventBatch, Reason
from sep_stream.market.instruments import Instruments
from sep_stream.runtime.resources import resource
from tests import streams
from tests.reference.converter import Converter as Reference

SMALL = ConvertParameters(history=12, forward=8)
TIMEFRAMES = ("M1", "M5", "M15")


@pytest.fixture(scope="module")
def instruments() -> Instruments:
    path = resource("topology") / "instruments.toml"
    return Instruments.from_toml(path.read_text(), str(path))


def cut(batch: EventBatch, start: int, stop: int) -> EventBatch:
    columns = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{k: v[start:stop] for k, v in columns.items() if isinstance(v, np.ndarray)})


def bars_of(output: ConvertOutput, instruments: Instruments) -> list[tuple[Any, ...]]:
    return [
        (
            instruments[int(b["instrument"])].symbol,
            TIMEFRAMES[b["timeframe"]],
            *(int(b[name]) for name in ("index", "open_time_s", "open", "high", "low", "close")),
            Decimal(int(b["volume_units"])) + Decimal(int(b["volume_nanos"])) / 10**9,
            None if b["spread"] < 0 else int(b["spread"]),
        )
        for b in output.bars
    ]


def windows_of(output: ConvertOutput, instruments: Instruments, p: ConvertParameters) -> list[tuple[Any, ...]]:
    def window(anchor: int) -> tuple[Any, ...] | None:
        if anchor < 0:
            return None
        s = output.series
        model = int(s.model[anchor + p.forward])
        return (
            int(s.open_time_s[anchor]),
            int(s.open_time_s[anchor - p.history + 1]),
            s.bits[anchor - p.history + 1 : anchor + p.forward + 1].tolist(),
            s.close[anchor : anchor + p.forward + 1].tolist(),
            output.models[model] if model >= 0 else None,
        )

    return [
        (
            instruments[int(output.bars[w["bar"]]["instrument"])].symbol,
            TIMEFRAMES[output.bars[w["bar"]]["timeframe"]],
            window(int(w["anchor"])),
            window(int(w["m5"])),
            window(int(w["m15"])),
        )
        for w in output.windows
    ]
