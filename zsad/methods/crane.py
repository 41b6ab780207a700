"""Crane and Crane+: AnomalyCLIP's prompt pair, q-q + k-k + v-v attention, suspicious patches in the image feature.

Paper: Salehi et al., "Crane: Context-Guided Prompt Learning and Attention Refinement for Zero-Shot Anomaly Detection", arXiv
2504.11055. Authors' code: AlirezaSalehy/Crane (MIT), read at 39181f9.

Kept: the three attentions are summed, not averaged; training puts the picture's own feature into its prompts, scoring does not.
Quirks with a switch: the published taps of layers 6 to 24 are one tensor, so the last layer counts four times
(``aliased_taps``; cloned taps differ by up to 4 on the reference pictures); Crane+ compares with the mean similarity of the
whole batch (``faithful``; a picture's own mean, the default here, moves features by 0.1 there).
Decision: where no similarity is above Crane+'s threshold, a patch attends to itself (the published code divides by zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.attention import like_attention, self_self_sum
from zsad.alignment.losses import map_terms
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import anomaly_probability, pooled_with_patches
from zsad.backbones.clip import CLIP
from zsad.backbones.second_encoder import aligned_patches
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.prompts import learned_pair
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap

__all__ = ["Crane"]

BETA, GAMMA = 1.2, 3.0  # of Crane+ with DINOv2
TEMPERATURE, TRAINING_TEMPERATURE = 0.07, 0.01  # of the softmax; in training, of the picture's


@register("crane")
class Crane(Detector):
    """Crane: learned prompts, q-q + k-k + v-v attention; with a second encoder Crane+.

    Args:
        backbone: a CLIP ViT with text tower.
        attention: Crane+: an encoder that says which patches look alike, "hf:facebook/dinov2-with-registers-base"; None: Crane.
        taps: layers whose local stream is scored if not ``aliased_taps``, 1-based; None: 6, 12, 18, 24 of 24, in Crane+ 24.
        context: learned tokens per sentence.
        deep: text blocks that are prompted, the input counted.
        deep_length: learned tokens per prompted block.
        sigma: of the Gaussian on the map, in pixels; 0 leaves it out.
        half_prompts: round the deep tokens to float16, as published.
        soft_mean: softmax before maps are resized and averaged; None: in Crane, and not in Crane+, as published.
        image_token: scores with the picture's feature in the prompts, as it is trained; the text tower runs for every picture.
        aliased_taps: score the last layer for every tap, as the published code does.
        faithful: Crane+'s mean similarity is the whole batch's, as published: scores then depend on the other pictures.
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "quick_gelu", "bilinear", taps=(6, 12, 18, 24), local_start=6)
    encoders: ClassVar = {"attention": Recipe("hf:facebook/dinov2-with-registers-base", 518, optional=True)}
    reference_stream = "local"  # projected patches, (B, L, D) per tap
    needs, learned, authors_file = ("visual", "encode_text", "token_embedding"), True, learned_pair.PAIR_FILE
    schedule = Schedule("adam", 1e-3, 5, 8, betas=(0.6, 0.999), one_name=False, labels_only=True)
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        attention: Any = None,
        taps: tuple[int, ...] | None = None,
        context: int = 12,
        deep: int = 9,
        deep_length: int = 4,
        sigma: float = 4.0,
        half_prompts: bool = True,
        soft_mean: bool | None = None,
        image_token: bool = False,
        aliased_taps: bool = True,
        faithful: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.attention, self.taps, self.aliased_taps = attention, taps, aliased_taps
        self.context, self.deep, self.deep_length, self.half_prompts = context, deep, deep_length, half_prompts
        self.sigma, self.soft_mean, self.image_token = sigma, soft_mean, image_token
        self.faithful, self.early = faithful, attention is None if soft_mean is None else soft_mean  # early: softmax first
        self.layers = self.tapped(taps)
        self.prompts = learned_pair.PromptPair(backbone.positional_embedding.shape[1], context, deep, deep_length)

    def text(self, images: Tensor | None = None) -> Tensor:
        """Text features of length one, (1, 2, D); with image features (B, D) in the prompts (B, 2, D)."""
        return F.normalize(self.prompts.encode(self.backbone, half=self.half_prompts, images=images), dim=-1)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features and banks. The name is not used: the prompts are object-agnostic."""
        sentences = {kind: (line,) for kind, line in zip(("normal", "anomalous"), self.prompts.sentences(), strict=True)}
        return Context(self.text(), sentences, banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature, projected patches (B, L, D) of ``streams["local"]`` and in Crane+ ``["alike"]``."""
        visual, last, plus = self.backbone.visual, self.backbone.depth, self.attention is not None
        path = LocalPath(self.recipe.local_layer(last), self_self_sum)
        taps = (last,) if self.aliased_taps or (plus and not self.taps) else self.layers
        states = visual(images, taps, path, attended=(last,) if plus else (), class_only=True)
        streams = {"local": {layer: Tap(visual.project(tap.patches), tap.grid) for layer, tap in states.local.items()}}
        if plus:  # the last block's values behind its attention, as added in place; no residual
            seen = aligned_patches(self.attention, images, self.backbone.preprocess, states.attended[last].grid)
            weights = like_attention(seen, BETA, GAMMA, over_batch=self.faithful)[:, None]  # (B, 1, L, L), for every head
            block, tap = visual.blocks[-1], states.attended[last]
            mixed = block.attn.output(weights @ block.qkv(tap.patches)[2])
            streams["alike"] = {last: Tap(visual.project(mixed), tap.grid)}
        return ImageFeatures(visual.project(states.cls), streams=streams)

    def margins(self, features: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of M sets of patches the anomalous logit less the normal one, (M, B, h, w), and the pooled image feature (B, D)."""
        taps = [tap for name in ("alike", "local") for tap in features.streams.get(name, {}).values()]
        patches = torch.stack([F.normalize(tap.patches, dim=-1) for tap in taps])  # (M, B, L, D)
        margins = (patches @ ((text[:, 1] - text[:, 0]) / TEMPERATURE)[..., None])[..., 0]  # (M, B, L)
        image = pooled_with_patches(features.image, patches.mean(dim=0), margins.mean(dim=0).sigmoid())
        return margins.unflatten(2, taps[0].grid), image

    def pixels(self, margins: Tensor) -> Tensor:
        """(M, B, h, w) -> the probability of "anomalous", (B, H, W)."""
        maps = upsample((margins.sigmoid() if self.early else margins).mean(dim=0), self.backbone.image_size)
        return maps if self.early else maps.sigmoid()

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the probability of the pooled image feature. Map: the patches', averaged, resized and smoothed."""
        text = self.text(features.image) if self.image_token else self.text_of(context)
        margins, image = self.margins(features, text)
        found = Prediction(anomaly_probability(image, text, TEMPERATURE), smooth(self.pixels(margins), self.sigma))
        return fuse_with_references(found, features.streams["local"], context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Of the picture, and of all taps' maps; prompts hold the picture's feature where the text tower is as wide."""
        features = self.features_of(batch)
        text = self.text(features.image) if self.prompts.takes(features.image) else self.text_of(context)
        margins, image = self.margins(features, text)
        logits = (text @ image[..., None])[..., 0] / TRAINING_TEMPERATURE  # (B, 2)
        parts = {"picture": 0.2 * F.cross_entropy(logits, batch.labels.long())}
        if batch.masks is None:
            return parts
        maps = upsample(margins.sigmoid().flatten(0, 1), self.backbone.image_size, mode="nearest")  # (M * B, H, W)
        terms = map_terms(torch.stack([1 - maps, maps], 1), batch.masks.repeat(len(margins), 1, 1), normal=False)
        taps = len(self.layers) if self.aliased_taps and self.attention is None else len(margins)
        return parts | {key: 2 * taps * term for key, term in terms.items()}

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``context``, ``deep`` and ``deep_length`` of the authors' prompts."""
        return learned_pair.pair_sizes(state)

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The authors' ``{"prompt_learner": {...}}`` under own names; AnomalyCLIP's file, which has more in it, is refused."""
        learned_pair.refuse_projections(state.get("prompt_learner", state))
        learned_pair.compare_start_token(state.get("prompt_learner", state), self.backbone)
        return learned_pair.flat_pair(super().foreign_state(state))
