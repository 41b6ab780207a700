"""From a data set with labels to a table of metrics: ``zsad.evaluate``."""

from zsad.evaluation.run import evaluate
from zsad.evaluation.table import Evaluation

__all__ = ["Evaluation", "evaluate"]
