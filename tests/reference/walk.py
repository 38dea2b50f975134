"""A walk-forward backtest, fold by fold and window by window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tests.reference.converter import Bar, Converter, Window
from tests.reference.market import Event
from tests.reference.pipeline import Pipeline
from tests.reference.scoring import Model, calibrate, train

Span = tuple[int | None, int, int, int]
"""train_from, cut, score_from, score_until; epoch seconds."""


def walk(
    events: Sequence[Event],
    instruments: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
    spans: Sequence[Span],
    calibrated: bool,
    **others: Any,
) -> tuple[list[Model], Pipeline]:
    """The folds' models, and a pipeline whose signals are those of the folds, in the order of the events.

    A window belongs to the fold in whose scored stretch it ends, those beside an M1 window by their own end.
    others: parameters of the models
    """
    converter = Converter(instruments, params["history"], params["forward"])
    bars: dict[tuple[str, str], list[Bar]] = defaultdict(list)
    windows: list[Window] = []
    for event in events:
        for kind, item, *_ in converter.feed(event):
            if kind == "bar":
                bars[item["instrument"], item["timeframe"]].append(item)
            if kind == "window":
                windows.append(item)
    models = []
    for train_from_s, cut_s, *_ in spans:
        model = train(bars, params, cut_s, train_from_s=train_from_s, **others)
        models.append(calibrate(model, bars) if calibrated else model)
    pipeline = Pipeline(instruments, params, {model.model_id: model for model in models})
    for window in windows:
        stamped = {**window, "model_id": _in_force(window, models, spans)}
        for name in ("m5", "m15"):
            if window.get(name) is not None:
                stamped[name] = {**window[name], "model_id": _in_force(window[name], models, spans)}
        if stamped["model_id"] is not None:
            pipeline._window(stamped)
    return models, pipeline


def _in_force(window: Window, models: Sequence[Model], spans: Sequence[Span]) -> str | None:
    for model, (_, _, score_from_s, score_until_s) in zip(models, spans, strict=True):
        if score_from_s <= window["available_at"] < score_until_s:
            return model.model_id
    return None
