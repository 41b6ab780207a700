"""SOWA: adapters of window attention on four layers of a frozen CLIP, against one learned pair of prompts.

Paper: Hu et al., "SOWA: Adapting Hierarchical Frozen Window Self-Attention to Visual-Language Models for Better Anomaly
Detection", arXiv 2407.03634. Authors' code: huzongxiang/sowa (MIT), read at d1898ab.

Kept: the prompts' features pass the linear layer before they get length one; cosines have no temperature in the maps, whose
layers stay near 1/2, and 0.07 in the score; four adapters (their ``share_weight`` shares nothing); few-shot distances are added
behind the Gaussian; the picture's cross-entropy takes probabilities for logits (``softmax_twice``; 0.694 in place of 0.697).
Mended, and the authors' with ``faithful=True``: with references, half the score is the map's maximum, scaled by the lowest and
highest of the set, so that it depends on the other pictures (0.06 to 0.35 on the parity data). The default has fixed ends: 0
where the text is undecided in all layers and the references match, 1 where no reference is like the patch at all.
Dropped: ReduceLROnPlateau, without effect in the single epoch that they publish (the rate is constant).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import map_terms
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import both
from zsad.backbones.clip import CLIP
from zsad.backbones.window_adapter import ADAPTER_FILE, WindowAdapters, stored_heads
from zsad.detector import Detector
from zsad.prompts.learned_pair import PromptPair, compare_start_token, flat_pair, pair_sizes
from zsad.references.memory_bank import nearest_cosine
from zsad.references.set_scaling import FaithfulToSet
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule

__all__ = ["SOWA"]

TEMPERATURE = 0.07  # of the image score


@register("sowa")
class SOWA(FaithfulToSet, Detector):
    """SOWA: learned window attention on four layers; references' distances are added.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers whose patches are adapted, scored and remembered, 1-based; None: 6, 12, 18, 24 of 24, and alike elsewhere.
        heads: of the adapters' attention.
        context: learned tokens per sentence.
        sigma: of the Gaussian on the map, in pixels.
        faithful: scale the few-shot score by the extremes of the set, as the authors do; else by fixed ends.
        softmax_twice: cross-entropy of the picture's probabilities, as the authors train; else of its logits.
    """

    recipe = Recipe("ViT-L-14-336.openai", 336, "quick_gelu", taps=(6, 12, 18, 24))
    text_temperature = TEMPERATURE
    needs, learned, own_references = ("visual", "encode_text", "token_embedding"), True, True
    scaled_with_references = True
    train_mode = ("adapters",)  # dropout of attention weights
    schedule = Schedule("adamw", 1e-3, 1, 8, weight_decay=0.2, one_name=False, labels_only=True)
    authors_file = ADAPTER_FILE
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        taps: tuple[int, ...] | None = None,
        heads: int = 8,
        context: int = 12,
        sigma: float = 4.0,
        faithful: bool = False,
        softmax_twice: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.heads, self.context, self.sigma = taps, heads, context, sigma
        self.faithful, self.softmax_twice = faithful, softmax_twice
        self.layers = self.recipe.layers(backbone.depth, taps)
        self.map_range = (0.0, float(len(self.layers)))
        width, dim = backbone.visual.proj.shape
        self.prompts = PromptPair(backbone.positional_embedding.shape[1], context, 1, 0, ("object", "damaged object"))
        self.text_linear = nn.Linear(dim, dim)
        self.adapters = WindowAdapters(self.layers, width, heads)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D) of length one; banks of projected patches by layer. The name is not used."""
        text = F.normalize(self.text_linear(self.prompts.encode(self.backbone, half=False)), dim=-1)
        return Context(text, self.prompts.by_class(), banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature (B, D) and the raw patches (B, L, C) of the tapped layers; nothing learned."""
        return self.backbone.encode_image(images, self.layers)

    def reference_rows(self, features: ImageFeatures) -> Mapping[str, Tensor]:
        """The raw patches times the projection, (B, L, D) per layer."""
        return {str(layer): self.backbone.visual.project(features.taps[layer].patches, norm=False) for layer in self.layers}

    def pixels(self, places: Tensor, features: ImageFeatures) -> Tensor:
        """(B, L) -> (B, H, W) at the model's input size."""
        grid = features.taps[self.layers[0]].grid
        return upsample(places.unflatten(1, grid), self.backbone.image_size, align_corners=True)

    def layer_margins(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Per layer, anomalous less normal cosine, resized, whose sigmoid is the softmax over both: (B, H, W)."""
        normal, anomalous = self.text_of(context)[0]
        adapted = self.adapters.projected(features.taps, self.backbone.visual)
        return {n: self.pixels(F.normalize(x, dim=-1) @ (anomalous - normal), features) for n, x in adapted.items()}

    def distances(self, features: ImageFeatures, context: Context) -> dict[str, Tensor]:
        """Per layer, 1 - cosine with the nearest patch of the references, (B, L)."""
        return {key: 1 - nearest_cosine(rows, context.banks[key]) for key, rows in self.reference_rows(features).items()}

    def anomaly_map(self, features: ImageFeatures, context: Context) -> Tensor:
        """Sum of the layers' probabilities, smoothed, and with references of their distances, which are not: (B, H, W)."""
        maps = [margins.sigmoid() for margins in self.layer_margins(features, context).values()]
        found = smooth(torch.stack(maps).sum(dim=0), self.sigma)
        if not context.banks:
            return found
        return found + self.pixels(torch.stack([*self.distances(features, context).values()]).sum(dim=0), features)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability; with references, half of it and half of the map's scaled maximum."""
        self.check_alone(context)
        image, maps, count = self.text_score(features, context), self.anomaly_map(features, context), len(self.layers)
        if context.banks:
            image = (image + maps.amax(dim=(1, 2)) / count - 0.5) / 2
        return Prediction(image, maps)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Cross-entropy of the picture; focal and both Dice losses of every layer's map, where there are masks."""
        features = self.features_of(batch)
        logits = F.normalize(features.image, dim=-1) @ self.text_of(context)[0].T / TEMPERATURE  # (B, 2)
        losses = {"picture": F.cross_entropy(logits.softmax(dim=-1) if self.softmax_twice else logits, batch.labels.long())}
        if batch.masks is None:
            return losses
        for layer, margins in self.layer_margins(features, context).items():
            losses |= {f"{name} {layer}": term for name, term in map_terms(both(margins), batch.masks).items()}
        return losses

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``context`` and ``heads`` of the authors' tensors; which layers are tapped, no file states."""
        return pair_sizes(state) | stored_heads(state)

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The authors' tensors under own names, without CLIP's; their start token must be the backbone's."""
        compare_start_token({"token_prefix_pos": state.get("net.prompt_learner.token_prefix_pos")}, self.backbone)
        return flat_pair(super().foreign_state(state))
