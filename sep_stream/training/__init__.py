"""Closed bars → models."""

from sep_stream.training.train import ClosedBars, train

__all__ = ["ClosedBars", "train"]
