"""DictAS: the patches of a few normal pictures are a dictionary, and an anomaly is what cannot be put together from it.

Paper: Qu et al., "DictAS: A Framework for Class-Generalizable Few-Shot Anomaly Segmentation via Dictionary Lookup", ICCV 2025,
arXiv 2508.13560. Authors' code: xiaozhen228/DictAS (MIT), read at 3253312.

Kept: exact GELU on OpenAI's weights; all references are one sequence, whose patches attend to each other; queries pass the
value generator at test and in the second phase of training alone. What the authors set by the data set's name is an argument:
``scored=(6, 12)`` for MVTec AD and BTAD, ``scales=(1,)`` for MVTec 3D, MPDD and BTAD, ``alpha=.2`` for MVTec AD and VisA, 0 for
four objects of MPDD; the defaults are any other set's. Mended, and the authors' with ``faithful=True``: both parts of the score
are scaled by the extremes of the set (.91 among three pictures, 1.00 among two); by default the map's ends are fixed, 0 where
cosines are 1 and 1 where they are 0. Dropped: rotated copies of references of "screw" (give rotated pictures); a picture's own
mirror image as its reference in training (they are drawn); a second phase that waits for a validation figure to fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.losses import lookup_losses
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import text_logits
from zsad.alignment.token_generator import LayerFusion
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.prompts.prompt_set import encoded_pair
from zsad.references.patch_dictionary import RENAMES, Found, PatchDictionary
from zsad.references.set_scaling import FaithfulToSet
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Phase, Prediction, Recipe, References, Schedule
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["DictAS"]

TEMPERATURE, WEIGHT = 0.01, 0.1  # of the text's logits; of all losses but the first
LEARNED = dict.fromkeys(("generators.query.", "generators.key.", "fusion."), 1e-4)  # in both phases


@register("dictas")
class DictAS(FaithfulToSet, Detector):
    """DictAS: needs learned weights and at least one normal reference; the name matters to the image score alone.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers that are learned from, 1-based; None: 6, 12, 18, 24 of 24, and alike at other depths.
        scored: the layers that pictures are scored by; None: those.
        scales: odd sides of the neighbourhoods whose means are looked up, in patches.
        alpha: the text's part of the image score, 0 to 1.
        sigma: of the Gaussian on the map, in pixels; 0 leaves it out.
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
        faithful: scale both parts of the image score by the extremes of the set, as the authors do.
    """

    recipe = Recipe("ViT-L-14-336.openai", 336, "gelu", "bicubic_antialias", taps=(6, 12, 18, 24))
    needs, learned, own_references, needs_references = ("visual", "encode_text"), True, True, 1
    text_temperature = TEMPERATURE
    train_mode = ("generators",)  # dropout
    phases = Phase(15, LEARNED | {"generators.value.": 1e-4}), Phase(15, LEARNED)
    schedule = Schedule("adam", 1e-4, 30, 24, betas=(0.5, 0.999), phases=phases, references=1)
    authors_file = AuthorsFile(RENAMES, inside=("Mymodel",))

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        scored: tuple[int, ...] | None = None,
        scales: tuple[int, ...] = (1, 3),
        alpha: float = 0.5,
        sigma: float = 6.0,
        prompts: str = "dictas",
        faithful: bool = False,
    ) -> None:
        super().__init__(backbone)
        if not 0 <= alpha <= 1:
            raise UsageError(f"alpha={alpha} of dictas is the text's part of the image score and lies in 0 to 1.")
        self.taps, self.scored, self.scales, self.alpha = taps, scored, scales, alpha
        self.sigma, self.prompts, self.faithful, self.values_first, self.text_share = sigma, prompts, faithful, False, alpha
        self.layers, self.compared = self.tapped(taps), self.tapped(scored or taps)
        width, dim = self.backbone.visual.proj.shape
        self.generators, self.fusion = PatchDictionary(width, scales), LayerFusion(width, len(self.layers), dim)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D) of length one; banks of raw patches by layer. The name goes into the sentences as it is."""
        return Context(*encoded_pair(self.backbone, self.prompts, name), banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature (B, D) and the raw patches (B, L, C) of the layers that are scored; nothing learned."""
        states = self.backbone.visual(images, self.compared, class_only=self.backbone.depth not in self.compared)
        return ImageFeatures(self.backbone.visual.project(states.cls), states.plain)

    def encode_for_loss(self, images: Tensor) -> ImageFeatures:
        """As ``encode``, with the layers that are learned from."""
        return self.backbone.encode_image(images, self.layers)

    def grid_maps(self, features: ImageFeatures, context: Context) -> Tensor:
        """Half of 1 - cosine of what was looked for and what was found, (layers x scales, B, h, w), in 0 to 1."""
        self.require_references(context)
        taps, banks = {layer: features.taps[layer] for layer in self.compared}, context.banks
        found = [self.generators(tap, self.generators.of_bank(banks[str(layer)], tap)) for layer, tap in taps.items()]
        return torch.cat([one.distance for one in found]).unflatten(2, taps[self.compared[0]].grid) / 2

    def anomaly_map(self, features: ImageFeatures, context: Context) -> Tensor:
        """The mean over layers and scales, resized and smoothed: (B, H, W)."""
        mean = self.grid_maps(features, context).mean(dim=0)
        return smooth(upsample(mean, self.backbone.image_size, align_corners=True), self.sigma)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: ``alpha`` of the text's probability and the rest of twice the map's maximum."""
        self.check_alone(context)
        maps = self.anomaly_map(features, context)
        score = self.alpha * self.text_score(features, context) + (1 - self.alpha) * 2 * maps.amax(dim=(1, 2))
        return Prediction(score, maps)

    def start_phase(self, phase: int) -> None:
        """In phase 1 queries pass the value generator, which learns no more."""
        self.values_first = phase == 1

    def looked_up(self, batch: Batch) -> list[Found]:
        """What each picture finds in its own references, by layer. Raises ``UsageError`` where masks or references lack."""
        if batch.references is None or batch.masks is None:
            raise UsageError("dictas learns from masks and references; got a batch without. Give every picture both.")
        taps, shown = (self.features_of(replace(batch, images=one)).taps for one in (batch.images, batch.references))
        return [self.generators.each(taps[layer], shown[layer], self.values_first) for layer in self.layers]

    def fused_logits(self, layers: Sequence[Tensor], context: Context) -> Tensor:
        """Logits (B, 2), normal first, of the layers' (R, B, L, C), of which the smallest neighbourhood is taken."""
        fused = self.fusion([one[self.scales.index(min(self.scales))] for one in layers])
        return text_logits(fused, self.text_of(context), TEMPERATURE)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Distances of normal patches, those above anomalous ones, and the cross-entropy of both fused features with text."""
        found, labels, masks = self.looked_up(batch), batch.labels.long(), self.masks_of(batch)
        near, above = lookup_losses(torch.cat([one.distance for one in found]), masks, self.backbone.visual.grid(masks))
        asked, answered = (self.fused_logits([getattr(one, side) for one in found], context) for side in ("asked", "found"))
        picture, retrieved = F.cross_entropy(asked, labels), F.cross_entropy(answered, torch.zeros_like(labels))
        return {"normal": near, "above": WEIGHT * above, "picture": WEIGHT * picture, "retrieved": WEIGHT * retrieved}
