"""Evaluation of a method on a labelled data set: ``zsad.evaluate`` and its table of metrics."""

from zsad.evaluation.metrics_table import Evaluation
from zsad.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
