"""Multivariate Gaussian of normal patches: the Mahalanobis distance of each patch to it; no text, no training. A baseline.

Papers: Rippel, Mertens and Merhof, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
Detection", ICPR 2020, arXiv 2005.14140 (one Gaussian, Ledoit and Wolf's shrinkage); Defard et al., "PaDiM: a Patch Distribution
Modeling Framework for Anomaly Detection and Localization", ICPR 2020 workshops, arXiv 2011.08785 (one Gaussian per position).
Written from the papers.

Kept: layers of the middle joined on the finest grid (PaDiM); the map resized bilinearly, sigma 4, the score its maximum.
Ours: any tower with ``encode_image``; layers have unit length before they are joined, since a transformer's differ in scale.
Patches, not whole pictures, have the pooled Gaussian, so that there is a map and one picture will do (Rippel et al. average
over each picture first). Channels are thinned out by adaptive means, where PaDiM draws 100 or 550 of them, so that nothing is
left to chance. PaDiM adds .01 to every variance; ``least`` is relative, since unit rows have a smaller one.
Dropped: Rippel et al.'s threshold from the chi-squared distribution. It holds for the true covariance and Gaussian patches
alone; ``zsad calibrate`` finds the threshold of a false-alarm rate and assumes neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from zsad.alignment.maps import smooth, upsample
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.references.descriptors import check_descriptors, mid_layers, patch_descriptors
from zsad.references.gaussian import Gaussian, Shrinkage, gaussian, gaussian_per_position, with_lengths
from zsad.references.memory_bank import whole_pictures
from zsad.references.sum_banks import SUMS, packed, sums_of, unpacked
from zsad.registry import register
from zsad.types import Backbone, Bank, Context, ImageFeatures, Prediction, Recipe, References, each_tensor

__all__ = ["MVG"]

PATCHES = "patches"  # key of the bank, where each position has a Gaussian of its own


@register("mvg")
class MVG(Detector):
    """A Gaussian of normal patches; needs a normal reference, or two where each position has a Gaussian of its own.

    Args:
        backbone: any image encoder.
        taps: layers that are joined; None: the middle and three quarters of the depth, of a convolutional tower strides 8, 16.
        pooled: one Gaussian for the patches of all positions; False: one per position, for parts that lie alike. Pooled,
            references are kept as sums, so that memory does not grow with them.
        shrinkage: of the covariance: "ledoit_wolf", or the weight, 0 to 1, of the identity times the mean variance; 0: none,
            which takes more patches than channels.
        least: per position, what is added to each variance, as a part of the mean variance of all positions: where references
            happen to agree, the slightest difference would be far away.
        side: of the neighbourhood whose mean describes a patch, odd.
        width: channels of a patch; more are pooled to as many. None pools none. Memory grows with its square, times the
            number of positions where each has a Gaussian of its own.
        sigma: of the Gaussian that smooths the map, in pixels of the model's input; 0 leaves it out.
    """

    own_references, needs_references = True, 1
    recipe = Recipe("ViT-L-14-336.openai", 518)
    needs = ("encode_image",)
    map_range = (0.0, 4.0)  # distances are divided by the root of the channels

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        pooled: bool = True,
        shrinkage: float | Literal["ledoit_wolf"] = "ledoit_wolf",
        least: float = 0.01,
        side: int = 3,
        width: int | None = 128,
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.pooled, self.shrinkage, self.least = taps, pooled, shrinkage, least
        self.side, self.width, self.sigma = side, width, sigma
        if not pooled:
            self.needs_references = 2

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The references' sums or patches. There is no text, and the name changes nothing.

        Raises:
            UsageError: arguments that cannot be, or references that do not fit.
        """
        check_descriptors(self.side, self.width, self.sigma)
        if self.least < 0 or not (self.shrinkage == "ledoit_wolf" or 0 <= self.shrinkage <= 1):
            raise UsageError(
                f"shrinkage={self.shrinkage!r}, least={self.least}: give 'ledoit_wolf' or a weight from 0 to 1, and a least "
                "variance of 0 or more."
            )
        return Context(banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> pooled features and the raw states of the layers that are joined."""
        return self.backbone.encode_image(images, mid_layers(self.name, self.backbone, self.taps))

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Packed sums of each picture; per position its patches (B, L, C) on the finest grid."""
        rows = patch_descriptors(features.taps, self.side, self.width).patches
        if not self.pooled:
            return {PATCHES: rows}
        return {SUMS: torch.stack([packed(sums) for sums in sums_of(with_lengths(rows.double()))])}

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: distances over the root of the channels, about 1 for normal patches, smoothed; score: its maximum.

        Raises:
            UsageError: too few references, references of another grid or width, or a covariance without an inverse.
        """
        self.require_references(context)
        tap = patch_descriptors(features.taps, self.side, self.width)
        if (key := SUMS if self.pooled else PATCHES) not in context.banks:
            raise UsageError("This context has no Gaussian of patches. Make it with prepare() of the detector that scores.")
        bank, count = context.banks[key], None if self.pooled else tap.patches.shape[1]
        distance = fitted(bank.rows, bank.source, count, self.shrinkage, self.least).distance(tap.patches)
        maps = smooth(upsample(distance.unflatten(1, tap.grid), self.backbone.image_size), self.sigma)
        return Prediction(maps.flatten(1).amax(dim=1), maps)


@lru_cache(maxsize=2)
def fitted(rows: Tensor, source: Tensor, patches: int | None, shrinkage: Shrinkage, least: float) -> Gaussian:
    """The Gaussian of a bank, on its device; of ``patches`` positions, or None: of packed sums. Kept for the same tensors."""
    if patches is None:
        sums = unpacked(rows)
        found = gaussian(sums.total, sums.products, sums.count, shrinkage)
    else:
        found = gaussian_per_position(whole_pictures(Bank(rows, source), patches), shrinkage, least)
    moved: Gaussian = each_tensor(found, lambda tensor: tensor.to(rows.device))
    return moved
