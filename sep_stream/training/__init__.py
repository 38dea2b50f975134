"""Closed bars → models: walk-forward folds, training, calibration."""

from sep_stream.training.calibrate import calibrated, fit_calibration
from sep_stream.training.evaluation import Evaluation, FoldEvaluation
from sep_stream.training.folds import Fold, FoldPlan, embargo_s_min
from sep_stream.training.series import ClosedBars, closed_bars
from sep_stream.training.train import model_of, train
from sep_stream.training.windows import WindowPaths, anchors_of, window_paths

__all__ = [
    "ClosedBars",
    "Evaluation",
    "Fold",
    "FoldEvaluation",
    "FoldPlan",
    "WindowPaths",
    "anchors_of",
    "calibrated",
    "closed_bars",
    "embargo_s_min",
    "fit_calibration",
    "model_of",
    "train",
    "window_paths",
]
