"""Normal references for methods whose papers have none: the text's map and the distance to the nearest normal patch, fused.

The rule is WinCLIP+'s (Jeong et al. 2023, section 4.3; in the scale of anomalib's WinCLIP), on whatever patches the method
scores. It is a decision of this package and no published variant of AnomalyCLIP or AdaCLIP. A text map that sums several layers
(AnomalyCLIP with more taps than the published one) keeps its range and outweighs the references.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.references.memory_bank import nearest_cosine
from zsad.types import Bank, Prediction, Tap

__all__ = ["fuse_with_references", "nearest_normal"]


def nearest_normal(taps: Mapping[int, Tap], banks: Mapping[str, Bank]) -> Tensor:
    """Mean over layers of (1 - cosine with the nearest reference row) / 2, on the patch grid, (B, h, w) in [0, 1].

    Args:
        taps: the layers' patches, all on one grid.
        banks: by layer.
    """
    grid = next(iter(taps.values())).grid
    cosines = torch.stack([nearest_cosine(tap.patches, banks[str(layer)]) for layer, tap in taps.items()]).mean(dim=0)
    return ((1 - cosines) / 2).clamp(min=0).unflatten(1, grid)  # rounding takes a cosine above 1


def fuse_with_references(
    found: Prediction, taps: Mapping[int, Tap], banks: Mapping[str, Bank], *, align_corners: bool = False
) -> Prediction:
    """The text's prediction with its references: the mean of both maps, and of the score and the nearest map's maximum.

    Args:
        found: of the text alone; without ``banks`` it is given back as it is.
        taps: as in ``nearest_normal``.
        banks: as in ``nearest_normal``, or empty.
        align_corners: of the resize to pixels, as the method resizes its own map.
    """
    if not banks:
        return found
    nearest = nearest_normal(taps, banks)  # (B, h, w)
    height, width = found.anomaly_map.shape[-2:]
    maps = (found.anomaly_map + upsample(nearest, (height, width), align_corners=align_corners)) / 2
    return Prediction((found.pred_score + nearest.amax(dim=(1, 2))) / 2, maps, found.word_maps)
