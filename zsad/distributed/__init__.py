"""Beyond one machine: pictures of a folder or a store are scored by any number of processes into one Parquet table.

``BatchScorer`` scores batches and knows no engine. ``job.py`` lists, resumes, labels and counts; ``ray_engine.py`` is for Ray.
"""

from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import Specification

__all__ = ["BatchScorer", "Specification"]
