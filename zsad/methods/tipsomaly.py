"""Tipsomaly: TIPS in place of CLIP, with fixed sentences for the picture and learned tokens before them for the map.

"TIPS Over Tricks: Simple Prompts for Effective Zero-shot Anomaly Detection", ICASSP 2026, arXiv 2602.03594. Authors' code:
AlirezaSalehy/Tipsomaly (MIT), read at 7eb43a7.

Kept: learned tokens are not scaled as the embeddings are, and count in a sentence's mean; they were learned with the word
"object" and are used so, whatever the name; the score is the class token's probability plus the highest patch's (0 to 2);
training sees the map alone, before the Gaussian. TIPS has two class tokens; the authors print figures of both, without a rule
which to take (``class_token``). "_" and "-" in names become spaces. Dropped: deep prompts, which are off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zsad.alignment.losses import map_terms
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import anomaly_probability
from zsad.backbones.tips import TIPS
from zsad.detector import Detector
from zsad.prompts.prefix_pair import PREFIX_FILE, PrefixPair, prefix_sizes
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule

__all__ = ["Tipsomaly"]


@register("tipsomaly")
class Tipsomaly(Detector):
    """Tipsomaly; needs learned tokens. With references by the rule of ``references/fusion.py``, which is not the paper's.

    Args:
        backbone: a TIPS.
        class_token: 1 is the class token, 2 the register.
        prompts: set of the fixed sentences; "adaclip" are the authors' for industry, "medical" those for medical pictures.
        learned_map: learned tokens for the map; False: fixed sentences, and nothing has to be learned.
        learned_score: learned tokens for the picture too.
        aggregate: add the patches' highest probability to the picture's.
        length: learned tokens per class.
        sigma: of the Gaussian on the map, in pixels.
    """

    recipe = Recipe("tips-l14-hr", 518)
    needs = ("encode_tokens", "encode_text", "temperature")
    learned = True
    schedule = Schedule("adam", 1e-3, 2, 8, betas=(0.5, 0.999), one_name=False)
    authors_file = PREFIX_FILE
    backbone: TIPS

    def __init__(
        self,
        backbone: TIPS,
        class_token: int = 1,
        prompts: str = "adaclip",
        learned_map: bool = True,
        learned_score: bool = False,
        aggregate: bool = True,
        length: int = 8,
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone)
        self.class_token, self.prompts, self.aggregate = class_token, prompts, aggregate
        self.learned_map, self.learned_score, self.length, self.sigma = learned_map, learned_score, length, sigma
        self.prefix = PrefixPair(backbone.text.token_embedding.embedding_dim, length)
        self.trained = not (learned_map or learned_score)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text of the map (1, 2, D), that of the score in ``extra``, of length one; banks of patches; the fixed sentences."""
        fixed, texts = PromptSet.pair(self.prompts, name.replace("_", " ").replace("-", " ")), {}
        if not (self.learned_map and self.learned_score):
            texts[False] = encode_ensemble(self.backbone, [*fixed.values()])
        if self.learned_map or self.learned_score:
            texts[True] = self.prefix.encode(self.backbone, [*PromptSet.pair(self.prompts, "object").values()])
        extra = {"score": texts[self.learned_score]}
        return Context(texts[self.learned_map], fixed, banks=self.banks(references), extra=extra)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the class token (B, D) and the last layer's patches, both behind the last norm."""
        classes, patches = self.backbone.encode_tokens(images)
        return ImageFeatures(classes[:, self.class_token - 1], {self.backbone.depth: patches})

    def patch_scores(self, features: ImageFeatures, context: Context) -> Tensor:
        """Probability of "anomalous" of each patch, (B, h, w)."""
        [tap] = features.taps.values()
        return anomaly_probability(tap.patches, self.text_of(context), self.backbone.temperature).unflatten(1, tap.grid)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability plus the highest patch's. Map: the patches', resized and smoothed."""
        image = anomaly_probability(features.image, context.extra["score"], self.backbone.temperature)
        patches = self.patch_scores(features, context)
        image = image + patches.amax(dim=(1, 2)) if self.aggregate else image
        found = Prediction(image, smooth(upsample(patches, self.backbone.image_size), self.sigma))
        return fuse_with_references(found, features.taps, context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Focal and both Dice losses of the map. Raises ``UsageError`` for pictures without masks."""
        masks = self.masks_of(batch)
        anomalous = upsample(self.patch_scores(self.features_of(batch), context), self.backbone.image_size)
        return map_terms(torch.stack([1 - anomalous, anomalous], dim=1), masks)

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``length`` of the authors' tokens."""
        return prefix_sizes(state)
