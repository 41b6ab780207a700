"""MRAD: retrieval from a memory of labelled features of other categories; MRAD-TF learns nothing, MRAD-FT a metric.

Paper: Xu et al., "MRAD: Zero-Shot Anomaly Detection with Memory-Driven Retrieval", ICLR 2026, arXiv 2602.00522. Authors' code:
CROVO1026/MRAD (MIT), read at 1cc1c6b. MRAD-CLIP, with learned prompts, is not covered.

``LabelledMemories`` makes the memory of any annotated set. The authors' files are given as the folder that holds both cache
files and, for MRAD-FT, its .pth.

Kept: the image feature is the class token times the projection WITHOUT ``ln_post``; the softmax over the memory has no
temperature, so probabilities stay near the share of anomalous keys (.355 to .418 at a share of .4, on small random weights) and
a threshold belongs to one memory. Dropped: a Gaussian across a batch (they test single pictures); failing on a batch of one.
The name is not used: the memory knows no categories.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.losses import map_terms
from zsad.alignment.maps import smooth, upsample
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.references.fusion import fuse_with_references
from zsad.references.labelled_memory import LabelledMemories, neighbour_mean
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, Schedule, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["MRAD"]

TOP = 0.01  # part of the map's pixels whose mean enters the image score
TEMPERATURE = 0.07  # of the cross-entropy, on probabilities


@register("mrad")
class MRAD(LabelledMemories, Detector):
    """MRAD: a memory of labelled features of other categories is read instead of text; MRAD-FT learns projections.

    Args:
        backbone: a CLIP ViT.
        projections: MRAD-FT: learned projections of queries and keys.
        local_start: first layer of the V-V path; None is layer 2 of 24, and alike at other depths.
        image_share: of the image feature's probability in the image score; the rest is the map's.
        sigma: of the Gaussian on the map, in pixels; 0 leaves it out.
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "quick_gelu", "bilinear", taps=(24,), local_start=2)
    needs = ("visual",)
    reference_stream = "local"  # neighbourhood means, (B, L, C)
    learned = True
    schedule = Schedule(
        *("adam", 4e-4, 1, 8, (0.5, 0.999)), one_name=False, labels_only=True, lr_schedule="cosine", last_lr=1e-6
    )
    authors_file = AuthorsFile(
        {
            r"^(image|patch)_proj\.(mlp1|fc\.0)\.": r"\1_memory.query.",
            r"^(image|patch)_proj\.(mlp2|fc\.1)\.": r"\1_memory.key.",
        },
        parts={"image_memory": "cache_model_*.pt", "patch_memory": "cache_patch_model_*.pt", "": "*.pth"},
    )

    def __init__(
        self,
        backbone: Backbone,
        projections: bool = False,
        local_start: int | None = None,
        image_share: float = 0.7,
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone)
        self.projections, self.local_start, self.image_share, self.sigma = projections, local_start, image_share, sigma
        channels, dim = self.backbone.visual.proj.shape
        self.make_memories(dim, channels)

    def states(self, images: Tensor) -> Any:
        """One pass of the image tower (``vit.States``), with the local stream's last layer."""
        path = LocalPath(self.recipe.local_layer(self.backbone.depth, self.local_start), value_value)
        return self.backbone.visual(images, (self.backbone.depth,), path, class_only=True)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature without ``ln_post``; ``streams["local"]``: neighbourhood means (B, L, C)."""
        visual, states = self.backbone.visual, self.states(images)
        (layer, tap), *_ = states.local.items()
        means = neighbour_mean(visual.project(tap.patches, proj=False), tap.grid)
        return ImageFeatures(visual.project(states.cls, norm=False), streams={"local": {layer: Tap(means, tap.grid)}})

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Map: the patches' probabilities, smoothed. Image score: the image's, and the mean of the highest 1 % of the map."""
        image, grid = self.probabilities(features)
        maps = smooth(upsample(grid, self.backbone.image_size), self.sigma)
        top = maps.flatten(1).topk(max(1, int(TOP * maps[0].numel())), dim=1).values.mean(dim=1)
        found = Prediction((1 - self.image_share) * top + self.image_share * image, maps)
        return fuse_with_references(found, features.streams["local"], context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Of MRAD-FT: cross-entropy of the picture; focal loss of the map, and Dice loss of its anomalous half."""
        if not self.projections:
            return super().loss(batch, context)
        image, grid = self.probabilities(self.features_of(batch), hide=True)
        logits = torch.stack([1 - image, image], dim=1) / TEMPERATURE
        losses = {"picture": F.cross_entropy(logits, batch.labels.long())}
        if batch.masks is None:
            return losses
        maps = upsample(grid, self.backbone.image_size)
        return losses | map_terms(torch.stack([1 - maps, maps], dim=1), batch.masks, normal=False)
