"""Closed bars → models."""

from sep_stream.training.folds import Fold, FoldPlan, embargo_s_min
from sep_stream.training.train import ClosedBars, train

__all__ = ["ClosedBars", "Fold", "FoldPlan", "embargo_s_min", "train"]
