"""VisualAdapter: a bottleneck adapter per tapped layer against an ensemble of sentences. The shape of a method file.

Paper: none; it stands for the many that learn adapters on a frozen CLIP, and is a smaller form of AdaptCLIP's visual adapter
(Gao et al., AAAI 2026; gaobb/AdaptCLIP, 354d9e3) on all tapped layers.

Kept: sentences with the word "object" whatever the category, un-normalised vectors averaged and then normalised.
Dropped: batch norm inside the adapter (its statistics depend on the batch while it learns).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import map_terms
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import anomaly_probability
from zsad.backbones.clip import CLIP
from zsad.detector import Detector
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["VisualAdapter"]

TEMPERATURE, SIGMA = 0.07, 4.0


class Bottleneck(nn.Module):
    """(..., D) -> (..., D): the identity, and a correction through ``width`` channels."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, width, bias=False), nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.relu(self.down(x)))


@register("visual_adapter")
class VisualAdapter(Detector):
    """A bottleneck adapter per tapped layer; needs learned weights. With references by the rule of ``references/fusion.py``.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers whose patches are scored, 1-based; None: 6, 12, 18, 24 of 24, and alike at other depths.
        width: channels of the bottleneck.
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "quick_gelu", "bilinear", taps=(6, 12, 18, 24))
    needs, learned = ("visual", "encode_text"), True
    schedule = Schedule("adam", 1e-3, 15, 8, betas=(0.5, 0.999), one_name=False, labels_only=True)
    authors_file = AuthorsFile(
        {r"^global_adapter\.": "picture.", r"^local_adapter\.": "patches.", r"\.fc\.0\.": ".down.", r"\.fc\.2\.": ".up."},
        inside=("visual_learner",),
    )
    backbone: CLIP

    def __init__(self, backbone: CLIP, taps: tuple[int, ...] | None = None, width: int = 192, prompts: str = "adaclip") -> None:
        super().__init__(backbone)
        self.taps, self.width, self.prompts = taps, width, prompts
        self.layers, dim = self.recipe.layers(backbone.depth, taps), backbone.visual.proj.shape[1]
        self.picture = Bottleneck(dim, width)
        self.patches = nn.ModuleList(Bottleneck(dim, width) for _ in self.layers)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text (1, 2, D); the name is not used."""
        sentences = PromptSet.pair(self.prompts, "object")
        text = encode_ensemble(self.backbone, [*sentences.values()], normalize="after")
        return Context(text, sentences, banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature (B, D) and the layers' patches in the joint space, (B, L, D); nothing learned."""
        seen = self.backbone.encode_image(images, self.layers)
        taps = {layer: Tap(self.backbone.visual.project(tap.patches), tap.grid) for layer, tap in seen.taps.items()}
        return ImageFeatures(seen.image, taps)

    def layer_maps(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Probability of "anomalous" per layer, (B, H, W): softmax on the patches, then resized."""
        maps = {}
        for layer, adapter in zip(self.layers, self.patches, strict=True):
            patches = anomaly_probability(adapter(features.taps[layer].patches), self.text_of(context), TEMPERATURE)
            maps[layer] = upsample(patches.unflatten(1, features.taps[layer].grid), self.backbone.image_size)
        return maps

    def image_score(self, features: ImageFeatures, context: Context) -> Tensor:
        """Probability (B,) of "anomalous" of the picture."""
        return anomaly_probability(self.picture(features.image), self.text_of(context), TEMPERATURE)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability. Map: the mean of the layers', smoothed."""
        maps = torch.stack([*self.layer_maps(features, context).values()]).mean(dim=0)
        found = Prediction(self.image_score(features, context), smooth(maps, SIGMA))
        return fuse_with_references(found, features.taps, context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Cross-entropy of the picture; focal and both Dice losses of every layer's map."""
        features = self.features_of(batch)
        score = self.image_score(features, context)
        losses = {"picture": F.nll_loss(torch.stack([1 - score, score], dim=1).log(), batch.labels.long())}
        if batch.masks is not None:
            for layer, maps in self.layer_maps(features, context).items():
                terms = map_terms(torch.stack([1 - maps, maps], dim=1), batch.masks)
                losses |= {f"{name} {layer}": term for name, term in terms.items()}
        return losses

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``width`` of the authors' adapters."""
        return {"width": len(state["picture.down.weight"])} if "picture.down.weight" in state else {}
