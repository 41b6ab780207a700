"""INP-Former: normal prototypes taken from the scored picture itself.

Paper: Luo et al., "Exploring Intrinsic Normal Prototypes within a Single Image for Universal Anomaly Detection", CVPR 2025,
arXiv 2503.02424. Authors' code: luow23/INP-Former (MIT), read at 17d2653.

Kept: raw blocks without the final norm; two groups of four layers, each rebuilt by four decoder blocks in reverse order; two
resizes with different corners; norms with an epsilon of 1e-8. Quirks with a switch: zeros around the map in its Gaussian, which
draw corners down to .37 of their value (``faithful``; image scores move by up to 3e-3), and a margin of a sixteenth on each
side that is never seen (``crop``). Dropped: pictures drawn for the few-shot training; it learns from those that it is given
(``references/few_shot_views.py`` makes the paper's 22 views of each). References at test time count by
``references/fusion.py``, which is not the paper's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import top_mean, zero_loss
from zsad.alignment.maps import cut_gaussian, in_frame, upsample
from zsad.alignment.prototypes import CrossBlock, PatchMLP, nearest_prototype, rebuild_groups, rebuilding_loss, start_small
from zsad.backbones.patch_tokens import mean_of_groups, patch_width
from zsad.backbones.tapped import tapped
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.images.preprocessing import squashed_middle
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, Schedule, each_tensor
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["InpFormer"]

GROUPS, DECODERS, HEAD = 2, 8, 64  # of layers; blocks; channels of a head
SIDE, KERNEL, SIGMA, TOP = 256, 5, 4.0, 0.01  # of the map, of its Gaussian, and the part of it that is the score
COHERENCE = 0.2  # weight of the loss
SEEN = 392 / 448  # side of the crop by that of the resized picture


@register("inp_former")
class InpFormer(Detector):
    """INP-Former; needs learned weights, and no references.

    Args:
        backbone: a DINOv2, as published with registers; another transformer will do.
        taps: eight layers, the shallow four first; None: 3 to 10 of 12, and 5, 7, .. 19 of 24.
        prototypes: how many are taken from a picture.
        rebuild: False: a patch's distance to its nearest prototype (the paper's zero-shot map). True: to what the decoder makes
            of the prototypes at its place (its other settings, with weights learned from pictures of the same product).
        crop: the middle of the picture alone is seen, as published; the map is 0 around it. False: the whole picture is.
        faithful: zeros stand around the map in its Gaussian, as published, or its mirror image.
    """

    recipe = Recipe("hf:facebook/dinov2-with-registers-base", 392, "gelu", "bicubic_offset", taps=(*range(3, 11),), depth=12)
    learned = True
    schedule = Schedule("stable_adamw", 1e-3, 200, 16, (0.9, 0.999), 1e-4, 0.1, False, True, "cosine", 1e-4, warmup=100)
    counted = ("prototypes", "prototype_token")
    authors_file = AuthorsFile({r"^encoder\.": None})  # the frozen DINOv2

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        prototypes: int = 6,
        rebuild: bool = False,
        crop: bool = True,
        faithful: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.prototypes, self.rebuild, self.crop, self.faithful = taps, prototypes, rebuild, crop, faithful
        apart = self.backbone.depth / self.recipe.depth  # of 24 layers every other one, the first of its pair
        self.layers = self.tapped(taps or tuple(int(1 + (tap - 1) * apart) for tap in self.recipe.taps))
        if len(self.layers) % GROUPS:
            raise UsageError(f"taps={taps} of inp_former: a shallow and a deep half are needed, so an even number of layers.")
        width = patch_width(backbone)
        self.prototype_token = nn.Parameter(torch.randn(prototypes, width))
        self.aggregation = nn.ModuleList([CrossBlock(width, width // HEAD, rebuilds=False)])
        self.bottleneck = nn.ModuleList([PatchMLP(width)])
        self.decoder = nn.ModuleList(CrossBlock(width, width // HEAD, rebuilds=True) for _ in range(DECODERS))
        start_small(self.aggregation, self.bottleneck, self.decoder)

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        """(H, W, 3) uint8 -> (3, size, size): resized bilinearly, and of that the middle where ``crop``."""
        return squashed_middle(rgb, self.backbone.preprocess, SEEN if self.crop else 1.0)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the means of both groups' patches, as taps of the groups' last layers; no later layer is run."""
        found = tapped(self.backbone, images, self.layers)
        return ImageFeatures(found.image, mean_of_groups(found.taps, self.layers, GROUPS))

    def prototypes_of(self, features: ImageFeatures) -> tuple[Tensor, Tensor]:
        """The mean of all tapped layers (B, L, C), and the prototypes that it gives (B, M, C)."""
        patches = torch.stack([tap.patches for tap in features.taps.values()]).mean(0)
        return patches, self.aggregation[0](self.prototype_token.expand(len(patches), -1, -1), patches)

    def rebuilt(self, patches: Tensor, prototypes: Tensor) -> list[Tensor]:
        """What the decoder makes of both groups' patches, (B, L, C) each."""
        return rebuild_groups(self.decoder, self.bottleneck[0](patches), prototypes, GROUPS)

    def distances(self, features: ImageFeatures) -> Tensor:
        """Anomaly scores on the grid of patches, (B, 1 or groups, h, w) in [0, 2]."""
        patches, prototypes = self.prototypes_of(features)
        grid, own = next(iter(features.taps.values())).grid, torch.stack([tap.patches for tap in features.taps.values()], dim=1)
        if not self.rebuild:
            return nearest_prototype(patches, prototypes).unflatten(1, grid)[:, None]
        rebuilt = torch.stack(self.rebuilt(patches, prototypes), dim=1)
        return 1 - F.cosine_similarity(own, rebuilt, dim=3).unflatten(2, grid)

    def crop_map(self, features: ImageFeatures) -> Tensor:
        """The map of what is seen, at the size of the input and without its Gaussian, (B, size, size)."""
        return upsample(self.distances(features).mean(1), self.backbone.image_size, align_corners=True)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: distances, resized and smoothed, 0 where nothing is seen. Score: the mean of its highest hundredth."""
        maps = cut_gaussian(upsample(self.crop_map(features), SIDE), KERNEL, SIGMA, zeros=self.faithful)
        seen = fuse_with_references(Prediction(top_mean(maps, TOP), maps), features.taps, context.banks)
        return Prediction(seen.pred_score, in_frame(seen.anomaly_map, self.backbone.image_size, SEEN if self.crop else 1.0))

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Of the normal pictures: cosine distance of both groups, hard patches' gradients enlarged, and to the prototypes.

        Gradients are enlarged relative to the mean of all pictures at hand, so they depend on how a step is cut into pieces.
        """
        normal = (batch.labels == 0).nonzero()[:, 0]
        if not len(normal):
            return {"reconstruction": zero_loss(self.parameters())}
        features = each_tensor(self.features_of(batch), lambda tensor: tensor[normal])
        patches, prototypes = self.prototypes_of(features)
        pairs = zip(features.taps.values(), self.rebuilt(patches, prototypes), strict=True)
        parts = [rebuilding_loss(tap.patches, rebuilt) for tap, rebuilt in pairs]
        coherence = COHERENCE * nearest_prototype(patches, prototypes).mean()
        return {"reconstruction": torch.stack(parts).mean(), "coherence": coherence}
