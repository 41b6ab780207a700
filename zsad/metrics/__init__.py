"""Metrics of detection and localisation, each computed from its definition, on arrays.

=====================  ====================================================================================================
:func:`auroc`          area under the ROC curve, of pictures or (maps and masks ravelled) of pixels
:func:`average_precision`  precision averaged over recall
:func:`f1_max`         the best F1 over all thresholds, and that threshold
:func:`aupro`          per-region overlap over the FPR, exact: every distinct threshold up to the limit
:func:`aupro_legacy`   the copied 200-threshold version, rescaled by the FPR that it reaches: for comparison with papers
:func:`aupimo`         per-image overlap over the FPR of normal pictures only, on a logarithmic axis
:class:`PixelMetrics`  all pixel metrics of a set that does not fit into memory, one picture at a time
=====================  ====================================================================================================

Higher scores are more anomalous everywhere. What is undefined (one class only, no region) is NaN with a warning, never 0.
"""

from __future__ import annotations

from zsad.metrics.overlap import aupro, aupro_legacy
from zsad.metrics.pimo import aupimo
from zsad.metrics.pixels import Bounded, PixelFigures, PixelMetrics
from zsad.metrics.ranking import auroc, average_precision, f1_max

__all__ = [
    "Bounded",
    "PixelFigures",
    "PixelMetrics",
    "aupimo",
    "aupro",
    "aupro_legacy",
    "auroc",
    "average_precision",
    "f1_max",
    "image_auroc",
]

image_auroc = auroc  # the name that it had when pictures were all it was used for
