"""The whole pipeline again, slow and obvious: the oracle for every fast path.

Written from the definition of sep-metrics/1 alone, event by event, on plain dicts, lists and ints. It shares no code
with the package that it checks, and imports nothing of it.
"""

from tests.reference.converter import Bar, Converter
from tests.reference.metrics import metrics
from tests.reference.pipeline import Pipeline
from tests.reference.scoring import Model, score, train

__all__ = ["Bar", "Converter", "Model", "Pipeline", "metrics", "score", "train"]
