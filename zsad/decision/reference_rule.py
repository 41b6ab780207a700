"""Thresholds from normal reference images, each scored by the others: what is known where nobody calibrated.

    anomalous at or above median + 2.5 sigma,  review at or above median + 1.75 sigma,  sigma = interquartile range / 1.349

of the references' scores. Median and quartiles, since the odd one among the references scores high without the others. A
reference is scored by one reference fewer than later pictures are, so the levels lie a little high; they are approximate.
``benchmarks/real_pictures.py`` prints what they do: of the normal pictures of real sets 11 % were called review or anomalous
with 4 references (eight sets) and 9 % with 16 (six sets). ``zsad calibrate`` is the way to a guaranteed rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zsad.decision.thresholds import Thresholds, pixel_level

__all__ = ["FEWEST", "MOST", "reference_rule"]

FEWEST, MOST = 4, 64  # references: below, their spread is a guess; above, a part of them will do
ANOMALOUS_SIGMAS, REVIEW_SIGMAS = 2.5, 1.75
GAUSSIAN = 1.349  # interquartile range of a Gaussian of deviation 1
LEAST_SPREAD = 1e-3  # of the median's size: copies of one picture have no spread


def reference_rule(scores: Sequence[float], peaks: Sequence[float]) -> Thresholds:
    """Thresholds for pictures that are compared with references.

    Args:
        scores: of each reference, by the others; higher is more anomalous.
        peaks: the largest value of each one's map.

    Returns:
        No levels where there are fewer than ``FEWEST`` scores.
    """
    if len(scores) < FEWEST:
        return Thresholds(source=f"no rule: {len(scores)} references, and the references' rule needs at least {FEWEST}")
    low, middle, high = np.quantile(np.asarray(scores, dtype=np.float64), (0.25, 0.5, 0.75))
    sigma = max((high - low) / GAUSSIAN, LEAST_SPREAD * abs(middle), 1e-9)
    review, anomalous = (float(middle + count * sigma) for count in (REVIEW_SIGMAS, ANOMALOUS_SIGMAS))
    source = (
        f"approximate, from the {len(scores)} references, each scored by the others: {ANOMALOUS_SIGMAS:g} robust deviations "
        f"above their median (review from {REVIEW_SIGMAS:g}); assumes that the pictures are taken like the references"
    )
    return Thresholds(anomalous, review, pixel_level(scores, peaks, math.inf), source)
