"""Metrics → signals: path libraries, models, scores, the gate and confirmation."""

from sep_stream.scoring.calibration import Calibration
from sep_stream.scoring.gate import GATE_REASONS, GateParameters, gate_reasons
from sep_stream.scoring.ids import pattern_id, signal_id, trade_id
from sep_stream.scoring.library import PathLibrary
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.scoring.score import HoldReason, ScoreBatch, score
from sep_stream.scoring.signals import MetricRecords, ScoreCache, Signals, WindowMetrics, score_records

__all__ = [
    "GATE_REASONS",
    "Calibration",
    "GateParameters",
    "HoldReason",
    "MetricRecords",
    "Model",
    "ModelParameters",
    "PathLibrary",
    "ScoreBatch",
    "ScoreCache",
    "Signals",
    "WindowMetrics",
    "gate_reasons",
    "pattern_id",
    "score",
    "score_records",
    "signal_id",
    "trade_id",
]
