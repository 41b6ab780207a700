"""AnomalyCLIP: one learned, object-agnostic pair of prompts and V-V attention in the image tower.

Paper: Zhou et al., "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly Detection", ICLR 2024, arXiv
2310.18961. Authors' code: zqhang/AnomalyCLIP (MIT), read at 45ed4dd.

Kept: the image feature is the class token times the projection WITHOUT ``ln_post``; the deep tokens are rounded to float16
(``half_prompts``; their run does it, and it moves the map by up to 1e-3); layer 24 alone is scored, as in all published
figures (``taps``; earlier code summed the same layer four times, so its maps are four times as high and rank alike).
Dropped: position embeddings resized from an already resized grid; ``compound_prompt_projections`` (in the checkpoints, used by
nothing); the image score of a batch's first picture only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.losses import dice, focal
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import anomaly_probability
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.errors import CheckpointMismatch, UsageError
from zsad.prompts.learned_pair import (
    NOUNS,
    PAIR_FILE,
    PromptPair,
    compare_start_token,
    flat_pair,
    has_projections,
    pair_sizes,
)
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap

__all__ = ["AnomalyCLIP"]

PIXEL_WEIGHT = 4.0  # of the maps' losses beside the picture's


@register("anomalyclip")
class AnomalyCLIP(Detector):
    """AnomalyCLIP: one learned pair of prompts for every object, V-V attention in the image tower.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers whose local stream is scored and summed, 1-based; None is the last, as published.
        local_start: first layer of the V-V path; None is layer 6 of 24, at other depths in proportion.
        context: learned tokens per sentence.
        deep: text blocks that are prompted, the input counted.
        deep_length: learned tokens per prompted block.
        temperature: of the softmax over (normal, anomalous).
        sigma: of the Gaussian on the map, in pixels; 0 leaves it out.
        half_prompts: round the deep tokens to float16, as published.
        crane_layout: accept Crane's checkpoints, which have the same prompts without the dead projections.
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "quick_gelu", "bilinear", taps=(24,), local_start=6)
    reference_stream = "local"  # projected patches, (B, L, D) per tap
    needs = ("visual", "encode_text", "token_embedding")
    learned = True
    schedule = Schedule("adam", 1e-3, 15, 8, betas=(0.5, 0.999), one_name=False, labels_only=True)  # their train.sh
    authors_file = PAIR_FILE

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        local_start: int | None = None,
        context: int = 12,
        deep: int = 9,
        deep_length: int = 4,
        temperature: float = 0.07,
        sigma: float = 4.0,
        half_prompts: bool = True,
        crane_layout: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.local_start, self.temperature, self.sigma = taps, local_start, temperature, sigma
        self.context, self.deep, self.deep_length = context, deep, deep_length
        self.half_prompts, self.crane_layout = half_prompts, crane_layout
        self.prompts = PromptPair(self.backbone.positional_embedding.shape[1], context, deep, deep_length, NOUNS)

    def layers(self) -> tuple[tuple[int, ...], int]:
        """Scored layers and the first one of the local path, for the backbone's depth."""
        depth = self.backbone.depth
        return self.recipe.layers(depth, self.taps), self.recipe.local_layer(depth, self.local_start)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D), normalised; banks. The name is not used: the prompts are object-agnostic."""
        text = F.normalize(self.prompts.encode(self.backbone, half=self.half_prompts), dim=-1)
        return Context(text, self.prompts.by_class(), banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature without ``ln_post``, and ``streams["local"]``: projected patches (B, L, D) per tap."""
        visual = self.backbone.visual
        taps, start = self.layers()
        states = visual(images, taps, LocalPath(start, value_value), class_only=True)
        if missing := set(taps) - states.local.keys():
            raise UsageError(
                f"taps={taps}: the backbone has no layer {sorted(missing)}; its layers are 1..{self.backbone.depth}."
            )
        projected = {layer: Tap(visual.project(tap.patches), tap.grid) for layer, tap in states.local.items()}
        return ImageFeatures(visual.project(states.cls, norm=False), streams={"local": projected})

    def layer_maps(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Probability of "anomalous" per tap, softmax on the patches and then upsampled: (B, H, W)."""
        maps = {}
        for layer, tap in features.streams["local"].items():
            patches = anomaly_probability(tap.patches, self.text_of(context), self.temperature)  # (B, L)
            maps[layer] = upsample(patches.unflatten(1, tap.grid), self.backbone.image_size)
        return maps

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability. Map: the taps' probabilities, summed and smoothed."""
        summed = torch.stack(list(self.layer_maps(features, context).values())).sum(dim=0)
        image = anomaly_probability(features.image, self.text_of(context), self.temperature)
        return fuse_with_references(Prediction(image, smooth(summed, self.sigma)), features.streams["local"], context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Cross-entropy of the picture; focal and both Dice terms of every tap's map, four times (section 3.4 of the paper)."""
        features = self.features_of(batch)
        cosine = F.normalize(features.image, dim=-1) @ F.normalize(self.text_of(context)[0], dim=-1).T
        parts = {"picture": F.cross_entropy(cosine / self.temperature, batch.labels.long())}
        if batch.masks is None:
            return parts
        masks = batch.masks.float()
        for layer, anomalous in self.layer_maps(features, context).items():
            both = torch.stack([1 - anomalous, anomalous], dim=1)
            terms = focal(both, masks) + dice(anomalous, masks) + dice(1 - anomalous, 1 - masks)
            parts[f"map {layer}"] = PIXEL_WEIGHT * terms
        return parts

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``context``, ``deep`` and ``deep_length`` of the authors' prompts."""
        return pair_sizes(state)

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The authors' ``{"prompt_learner": {...}}`` under own names; dead and derived tensors are left out."""
        stored = state.get("prompt_learner", state)
        if "ctx_pos" in stored and not self.crane_layout and not has_projections(stored):
            raise CheckpointMismatch(
                "This checkpoint has Crane's layout (AnomalyCLIP's keys without compound_prompt_projections): its prompts were "
                "learned with another image tower. Pass crane_layout=True to run AnomalyCLIP with them nevertheless."
            )
        compare_start_token(stored, self.backbone)
        return flat_pair(super().foreign_state(state))
