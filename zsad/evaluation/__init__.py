"""From a data set with labels to a table of metrics: ``zsad.evaluate``."""

from zsad.evaluation.api import evaluate
from zsad.evaluation.figures import Evaluation

__all__ = ["Evaluation", "evaluate"]
