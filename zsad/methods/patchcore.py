"""PatchCore: the distance of each patch to the nearest patch of normal references; no text, no training. A common baseline.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265. Code:
amazon-science/patchcore-inspection, commit 8a7748c, Apache-2.0.

Kept: two layers of the middle, 3 x 3 neighbourhood means with zeros beyond the border counted, the finer grid, the joined
channels pooled to ``width``; a picture's score is the largest distance of its patches, before the map is resized; sigma 4. The
paper's weight by further neighbours (equation 7) is left out, as in their code.
Ours: any tower with ``encode_image`` in place of a WideResNet-50. Layers have unit length before they are joined, and distances
are 1 - cosine: half the squared distance of the unit rows, so the nearest is the same and small ones lose no digits.
The coreset is the package's (``Inspector(coreset=0.1)``, ``--coreset 0.1``): k-centre by blocks of references, so that their
rows never are in memory together and that references added or removed later give what a fresh start gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from zsad.alignment.maps import smooth, upsample
from zsad.detector import Detector
from zsad.references.descriptors import check_descriptors, mid_layers, patch_descriptors
from zsad.references.memory_bank import nearest_cosine
from zsad.registry import register
from zsad.types import Backbone, Context, ImageFeatures, Prediction, Recipe, References

__all__ = ["PatchCore"]

ROWS = "patches"  # key of the bank


@register("patchcore")
class PatchCore(Detector):
    """PatchCore on any image encoder; needs at least one normal reference.

    Args:
        backbone: any image encoder.
        taps: layers that are joined; None: the middle and three quarters of the depth, of a convolutional tower strides 8, 16.
        side: of the neighbourhood whose mean describes a patch, odd.
        width: channels of a patch; more are pooled to as many. None pools none.
        sigma: of the Gaussian that smooths the map, in pixels of the model's input; 0 leaves it out.
    """

    own_references, needs_references = True, 1
    recipe = Recipe("ViT-L-14-336.openai", 518)
    needs = ("encode_image",)
    map_range = (0.0, 0.5)

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        side: int = 3,
        width: int | None = 1024,
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.side, self.width, self.sigma = taps, side, width, sigma

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are joined."""
        return mid_layers(self.name, self.backbone, self.taps)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The references' patches. There is no text, and the name changes nothing.

        Raises:
            UsageError: arguments that cannot be, or references that do not fit.
        """
        check_descriptors(self.side, self.width, self.sigma)
        return Context(banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> pooled features and the raw states of ``layers``."""
        return self.backbone.encode_image(images, self.layers)

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """(B, L, C) descriptors on the finest grid, by the one key "patches"."""
        return {ROWS: patch_descriptors(features.taps, self.side, self.width).patches}

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: 1 - cosine with the nearest reference patch (0 to 2), smoothed; score: its maximum over the patches.

        Raises:
            UsageError: a context without references.
        """
        self.require_references(context)
        tap = patch_descriptors(features.taps, self.side, self.width)
        distance = (1 - nearest_cosine(tap.patches, context.banks[ROWS])).clamp(min=0)  # (B, L); rounding goes below 0
        maps = smooth(upsample(distance.unflatten(1, tap.grid), self.backbone.image_size), self.sigma)
        return Prediction(distance.amax(dim=1), maps)
