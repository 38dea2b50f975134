"""Compiles what the stages need before a worker joins its groups; later starts find it in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from sep_stream.convert import ConvertParameters, MarketDataConverter
from sep_stream.market.avro import load_schemas
from sep_stream.market.bulk_avro import BulkCodec
from sep_stream.market.decode import decode_events, encode_events, events_from_records
from sep_stream.metrics import WindowParams, compute_metrics
from sep_stream.runtime.resources import resource
from sep_stream.runtime.topology import Topology
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.score import score


def warm_up(stages: Sequence[str]) -> None:
    """Run each compiled function of the stages once, on next to nothing."""
    if "convert" in stages:
        _convert()
    if "metrics" in stages or "score" in stages:
        params = WindowParams()
        span = params.history + params.forward
        bits = np.arange(2 * span, dtype=np.uint8) % 2
        anchors = np.arange(params.history - 1, span, dtype=np.int64)
        compute_metrics(bits, np.zeros(2 * span, np.int32), anchors, params, "cpu")
        compute_metrics(bits, np.zeros(2 * span, np.int32), anchors[::2], params, "cpu")
