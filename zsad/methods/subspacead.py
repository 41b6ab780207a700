"""SubspaceAD: what lies outside of the principal components of normal patches is anomalous; no text, no training.

Paper: Lendering et al., "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026, arXiv
2602.23013. Code: CLendering/SubspaceAD, commit 2ca687e (Apache-2.0).

Kept: raw blocks without the final norm; black corners of turned references count as normal patches; the squared residual. A
masked fit divides by all patches, those behind the mask too (``over_all``: 10 to 13 % of the map's maximum).
``faithful=True`` draws other angles for the mean than for the covariance, so that they belong to other pictures (17 to 39 % of
the map's maximum with 30). Their draws go on from reference to reference and category to category, so that scores depend on
what came before; here all references have the same angles.
Dropped: torchvision's resize, which is not Pillow's (2 % of the map); ``whiten``, which they never use; their centre crop (give
``roi``); their list of categories that are not turned (MVTec's "transistor"): give rotations=0 for what has one pose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from zsad.alignment.aggregation import Aggregation, picture_scores
from zsad.alignment.maps import blur_3x3, upsample
from zsad.backbones.tapped import layers_from_the_end, merged, salient, tapped
from zsad.detector import Detector
from zsad.errors import NeedsSet
from zsad.images.rotation import angles_of
from zsad.references.batch_references import ComparesBatch
from zsad.references.components import PatchSums, Rule, check_size
from zsad.references.sum_banks import SECOND, SUMS, fit, packed, sums_of, with_sums
from zsad.registry import register
from zsad.types import Backbone, Bank, Context, ImageFeatures, Prediction, Recipe, References

__all__ = ["SubspaceAD"]

FROM_THE_END = 18, 12  # first and last tap, counted from the last block
SIGMA, BACKGROUND = 4.0, 0.15  # of the Gaussian; part of each picture's patches that the mask leaves out


@register("subspacead")
class SubspaceAD(ComparesBatch, Detector):
    """SubspaceAD: the residual of patches outside of normal ones' principal components; without references, of the batch's.

    Args:
        backbone: any encoder of patches.
        taps: blocks, 1-based; None: the 12th to the 18th from the end (23 to 29 of 40), in shallow towers in proportion.
        merge: "mean" of the blocks, or "concat": side by side.
        components: how many there are (a whole number), or which part of the variance they hold.
        rule: how a patch is scored, see ``Subspace.distance``.
        drop: components that are left out, the widest first.
        aggregation: of the map to the score, see ``picture_scores``.
        rotations: turned copies of each reference at angles drawn with ``seed``, or their angles in degrees; 0: none.
        saliency_block: of DINOv2, 1-based (theirs: 7): the 15 % of patches that its registers attend to least are left out.
        over_all, faithful: see above.
        batch: the batch's patches count as normal beside the references'; without references they always do.
        relative: divides distances by the normal patches' variance, so that maps of all towers have one scale.
    """

    recipe = Recipe("hf:facebook/dinov2-with-registers-giant", 672, depth=40, taps=(23, 24, 25, 26, 27, 28, 29))
    own_references, needs = True, ("encode_image",)

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        merge: Literal["mean", "concat"] = "mean",
        components: int | float = 0.99,
        rule: Rule = "reconstruction",
        drop: int = 0,
        aggregation: Aggregation = "top1",
        rotations: int | tuple[float, ...] = 30,
        saliency_block: int | None = None,
        over_all: bool = True,
        faithful: bool = False,
        batch: bool = False,
        relative: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.merge, self.components, self.rule, self.drop = taps, merge, components, rule, drop
        self.aggregation, self.rotations, self.saliency_block = aggregation, rotations, saliency_block
        self.over_all, self.faithful, self.batch, self.relative, self.seed = over_all, faithful, batch, relative, seed
        self.map_range = (0.0, 0.3 if relative else 100.0)  # real pictures: normal .05 to .12, defects from .15 on
        self.layers = taps or layers_from_the_end(backbone, self.recipe, *FROM_THE_END)
        self.twice = faithful and isinstance(rotations, int) and rotations > 0
        self.reference_angles = angles_of(rotations, seed, 2 if self.twice else 1)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The references' sums. There is no text, and the name changes nothing."""
        check_size(self.components, self.drop)
        return Context(banks=self.banks(references))

    def pool_banks(self, features: Sequence[ImageFeatures], context: Context) -> dict[str, Bank]:
        """The sums of the pool's patches, with those of the references; sums of several pools may be added up."""
        return {SUMS: with_sums(context.banks.get(SUMS), (sums for some in features for sums in self.sums(some)))}

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> one tap, the merged patches (B, L, C), and what ``salient`` reads."""
        features = tapped(self.backbone, images, self.layers, self.saliency_block)
        whole = merged([features.taps[layer] for layer in self.layers], self.merge)
        return ImageFeatures(features.image, {max(self.layers): whole}, features.streams)

    def sums(self, features: ImageFeatures) -> list[PatchSums]:
        """Of each picture's foreground."""
        return sums_of(features.taps[max(self.layers)].patches, salient(features, BACKGROUND))

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """Packed sums of each picture, (B, M, 2 C)."""
        return {SUMS: torch.stack([packed(one) for one in self.sums(features)])}

    def view_rows(self, features: ImageFeatures, view: int = 0) -> Mapping[str, Tensor]:
        """As ``reference_rows``; with angles that are drawn twice, those of the first and of the second draw."""
        draws = (SUMS, SECOND) if not view else (SECOND,) if 2 * view > len(self.reference_angles) else (SUMS,)
        return dict.fromkeys(draws if self.twice else (SUMS,), self.reference_rows(features)[SUMS])

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: distances, smoothed by a 3 x 3 Gaussian. Raises ``NeedsSet`` where the batch is to be seen first."""
        if self.needs_set(context):
            raise NeedsSet("subspacead compares pictures with a batch here. Give the whole set to score_set(), or references.")
        return self.prediction(features, context.banks)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture, in the order given. Where the batch counts, a first pass adds up its sums."""
        banks = context.banks
        if self.needs_set(context) and len(features):
            banks = self.pool_banks(features, context)
        for one in features:
            yield self.prediction(one, banks)

    def prediction(self, features: ImageFeatures, banks: Mapping[str, Bank]) -> Prediction:
        """Maps and scores of B pictures."""
        tap, kept = features.taps[max(self.layers)], salient(features, BACKGROUND)
        subspace = fit(banks, self.components, self.over_all)
        distances = subspace.distance(tap.patches.flatten(0, 1), self.rule, self.drop).view(tap.patches.shape[:2])
        distances = distances / (subspace.values.sum() if self.relative else 1.0) * (1.0 if kept is None else kept)
        maps = blur_3x3(upsample(distances.unflatten(1, tap.grid), self.backbone.image_size), SIGMA)
        return Prediction(picture_scores(maps, self.aggregation), maps)
