"""How good a tokenizer is: of its reconstructions, its codes and its cost.

`evaluate` sends audio through tokenizers and classical codecs and writes a report; `Example`, `METRICS` and `measure`
are the metrics by themselves.
"""

from .evaluating import evaluate
from .metric_base import Example, Metric, MetricError
from .metrics import METRICS, measure
from .report import EvaluationReport
from .systems import Outcome, System, open_system

__all__ = [
    "METRICS",
    "EvaluationReport",
    "Example",
    "Metric",
    "MetricError",
    "Outcome",
    "System",
    "evaluate",
    "measure",
    "open_system",
]
