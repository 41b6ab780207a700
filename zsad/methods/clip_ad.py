"""CLIP-AD: staged dual-path features and representative text vectors without training (SDP), with linear layers SDP+.

Paper: Chen et al., "CLIP-AD: A Language-Guided Staged Dual-Path Model for Zero-shot Anomaly Detection", arXiv 2311.00453.
Facts of the authors' program: ByChelsea/CLIP-AD at f004973. It has no licence, so this was written from its outputs alone.

Kept: plain tokens of the first three stages, class tokens too, carry the next block's attention, which is added in place there
(``aliased_taps``: 4e-4 of a map that spans 0.07); text vectors are rounded to float16 (``half_text``: 2e-4). For VisA they set
eps=1.5, min_samples=25 and, for SDP+, sigma=2. Mended, theirs with ``faithful=True``: image scores are scaled to the lowest
and highest of a category; a training batch of one has Dice losses by rows of pixels (0.907 for 0.880). Dropped: autocast.
Decisions: the score of a picture by itself is the mean of two probabilities; where all values of a set are equal, theirs is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsad.alignment.attention import value_value
from zsad.alignment.losses import layer_losses
from zsad.alignment.maps import probability_maps, scaled_within_set, smooth, upsample
from zsad.alignment.similarity import surgery_similarity, text_logits
from zsad.backbones.clip import CLIP
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.prompts.prompt_set import PromptSet
from zsad.prompts.representative import representative_vector
from zsad.references.fusion import fuse_with_references
from zsad.references.set_scaling import FaithfulToSet
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["CLIPAD"]

TEMPERATURE = 0.01


@register("clip_ad")
class CLIPAD(FaithfulToSet, Detector):
    """CLIP-AD: staged V-V attention and representative text vectors (SDP); with learned linear layers SDP+.

    Args:
        backbone: a CLIP ViT with text tower; its quarters are the stages.
        linear: SDP+; a checkpoint implies it.
        eps: of DBSCAN on the sentences; None takes the mean of all and rounds nothing.
        min_samples: of DBSCAN.
        sigma: of the map's Gaussian, in pixels of the model's input.
        half_text: round text vectors to float16.
        aliased_taps: take plain tokens of the first stages with the next block's attention.
        faithful: the authors' image score, which needs the set, and their Dice loss of a single picture.
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
    """

    recipe = Recipe("ViT-B-16-plus-240.laion400m_e31", 240, "gelu", "bicubic_antialias", taps=(3, 6, 9, 12), depth=12)
    needs, optional_weights = ("visual", "encode_text"), True
    reference_stream = "local"  # the stages' projected patches
    schedule = Schedule("adam", 1e-4, 5, 8)
    authors_file = AuthorsFile({r"^fc\.": "projections."}, inside=("linear_layers",))
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        linear: bool = False,
        eps: float | None = 0.5,
        min_samples: int = 15,
        sigma: float = 8.0,
        half_text: bool = True,
        aliased_taps: bool = True,
        faithful: bool = False,
        prompts: str = "clip_ad",
    ) -> None:
        super().__init__(backbone)
        self.linear, self.eps, self.min_samples, self.sigma = linear, eps, min_samples, sigma
        self.half_text, self.aliased_taps, self.faithful, self.prompts = half_text, aliased_taps, faithful, prompts
        self.learned, self.trained, self.layers = linear, not linear, self.recipe.layers(backbone.depth)
        learned = self.layers if linear else ()
        self.projections = nn.ModuleList([nn.Linear(*backbone.visual.proj.shape) for _ in learned])
        self.map_range = (0.0, float(len(learned))) if linear else (-0.1, 0.1)  # without: differences of cosines

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D), each the direction of its sentences' largest cluster; banks of projected patches."""
        sentences, encode = PromptSet.pair(self.prompts, name), self.backbone.encode_text
        vectors = [representative_vector(encode(one), self.eps, self.min_samples, self.half_text) for one in sentences.values()]
        return Context(torch.stack(vectors)[None], sentences, banks=self.banks(references))

    def encode(self, images: Tensor, staged: bool = True) -> ImageFeatures:
        """(B, 3, H, W) -> image feature; ``streams["local"]``: patches and class token by stage, projected; SDP+: raw taps."""
        visual, after = self.backbone.visual, {layer: layer + 1 for layer in self.layers[:-1]}
        local = LocalPath(1, value_value, restarts=(1, *after.values())) if staged else None
        states = visual(images, self.layers, local, attended=after.values(), class_only=not self.linear)
        plain = states.plain | {layer: states.attended[after[layer]] for layer in after if self.aliased_taps}
        cls = {layer: tap.cls for layer, tap in plain.items()} | {self.layers[-1]: states.cls}
        stages = {n: Tap(visual.project(tap.patches), tap.grid, visual.project(cls[n])) for n, tap in states.local.items()}
        return ImageFeatures(visual.project(states.cls), plain if self.linear else {}, {"local": stages} if staged else {})

    def encode_for_loss(self, images: Tensor) -> ImageFeatures:
        """The plain path alone."""
        return self.encode(images, staged=False)

    def layer_maps(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """SDP+: probabilities by layer, logits resized before the softmax, (B, 2, H, W), normal first."""
        size, text, found = self.backbone.image_size, self.text_of(context), {}
        for linear, (layer, tap) in zip(self.projections, sorted(features.taps.items()), strict=True):
            logits = text_logits(linear(tap.patches), text, TEMPERATURE)  # (B, L, 2)
            found[layer] = probability_maps(logits, tap.grid, size, align_corners=True)
        return found

    def parts(self, features: ImageFeatures, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """The class token's probability (B,) of "anomalous", the map (B, H, W) and its peak (B,)."""
        text, stages = self.text_of(context), features.streams["local"].values()
        similar = [surgery_similarity(t.patches, t.cls, text).unflatten(1, t.grid) for t in stages if t.cls is not None]
        maps = [upsample(torch.stack(similar).sum(dim=0), self.backbone.image_size)]
        maps += [both[:, 1] for both in self.layer_maps(features, context).values()]
        smoothed = smooth(torch.stack(maps).sum(dim=0), self.sigma)
        return text_logits(features.image, text, TEMPERATURE).softmax(dim=-1)[:, 1], smoothed, smoothed.amax(dim=(1, 2))

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: mean of the class token's probability and of the map's peak as one."""
        self.check_alone(context)
        text, maps, peak = self.parts(features, context)
        mean = peak / len(self.layers)  # twice a similarity is a difference of cosines
        share = mean.clamp(0, 1) if self.linear else (2 * mean / TEMPERATURE).sigmoid()
        return fuse_with_references(Prediction((text + share) / 2, maps), features.streams["local"], context.banks)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """With ``faithful``, image scores of 0 to 2 that depend on the set, which is passed over twice."""
        if not self.faithful:
            yield from super().score_set(features, context)
            return
        first = [self.parts(one, context)[::2] for one in features]
        text, peak = (scaled_within_set(torch.cat(values)) for values in zip(*first, strict=True))
        for one, score in zip(features, (text + peak).split(1), strict=True):
            yield fuse_with_references(Prediction(score, self.parts(one, context)[1]), one.streams["local"], context.banks)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """SDP+: per layer, focal loss of the map and Dice loss of its anomalous half. Raises ``UsageError`` without masks."""
        if not self.linear or batch.masks is None:
            raise UsageError("clip_ad learns from masks, with linear=True (SDP+). Give both; zeros where it is normal.")
        maps = self.layer_maps(self.features_of(batch), context)
        return layer_losses(maps, batch.masks, rows=self.faithful and len(batch.masks) == 1)

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``linear``: the authors' files are SDP+'s."""
        return {"linear": True}
