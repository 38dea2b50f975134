"""A stage's recovery reads the stage's own input, snapshots and group."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sep_stream.runtime.settings import Settings
from sep_stream.worker import runner
from sep_stream.worker.input_log import KafkaInputLog
from sep_stream.worker.runner import Worker

EXPECTED = {
    "convert": ("ConvertStage", "events", "p.market.events", "p.convert.state"),
    "settle": ("SettleStage", "signals", "p.signals", "p.settle.state"),
}


def member_of(stage: str) -> Any:
    return SimpleNamespace(stage=stage, is_current=lambda batch: True, alive=lambda: None)


def stage_arguments(
    name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, rebuild: bool = False
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the worker gives a stage, and the stage's log, by the names of the parameters."""
    found: list[Mapping[str, Any]] = []
    for kind in (getattr(runner, EXPECTED[name][0]), KafkaInputLog):
        signature = inspect.signature(kind)

        def note(*given: Any, _signature: inspect.Signature = signature) -> object:
            found.append(_signature.bind(*given).arguments)
            return found[-1]

        monkeypatch.setattr(runner, kind.__name__, note)
    settings = Settings.load(brokers="127.0.0.1:1", prefix="p.", data_dir=folder)
    Worker(settings, (name,), engine="cpu", rebuild_state=rebuild)._stage(name, member_of(name))
    log, stage = found
    assert stage["input_log"] is log
    return stage, log


@pytest.mark.parametrize("name", EXPECTED)
def test_recovery_reads_the_topics_of_the_stage_and_the_offsets_of_its_group(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, field, source, state = EXPECTED[name]
    stage, log = stage_arguments(name, monkeypatch, tmp_path)
    assert (log["topic"], log["state_topic"], log["group"]) == (source, state, f"p.{name}")
    assert (getattr(stage["topics"], field), stage["topics"].state) == (source, state)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("rebuild", [True, False])
def test_a_stage_rebuilds_its_state_where_the_worker_was_asked_to(
    name: str, rebuild: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage, _ = stage_arguments(name, monkeypatch, tmp_path, rebuild)
    assert stage.get("rebuild_state", False) is rebuild
